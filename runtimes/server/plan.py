"""From a parsed request to the tasks that answer it, and what the server says of its model."""

from __future__ import annotations

import difflib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from atom_edge.errors import (
    BundleError,
    GenerationError,
    MissingExtraError,
    RequestError,
    TokenizerError,
)
from atom_edge.runtimes.options import OPTIONS, Options
from atom_edge.runtimes.server.answers import ChatChoice, Choice, CompletionChoice, Json
from atom_edge.runtimes.server.wire import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    TokenizeRequest,
)
from atom_edge.runtimes.session import AtomSession
from atom_edge.runtimes.slots import Task

# What OpenAI's specification gives to `max_tokens` of a completion.
_MAX_TOKENS = 16
_TOKENIZER_FIELDS = (
    "tokenizer_class",
    "model_max_length",
    "add_bos_token",
    "bos_token",
    "eos_token",
    "pad_token",
    "unk_token",
)


@dataclass(frozen=True)
class Plan:
    """What a request comes to.

    Attributes:
        choices: of the response, each with its task.
        replies: choices for each prompt.
        whole: object, prefix of the id, and model of the response.
        part: the same of each part of a stream.
        streams: whether it is streamed.
        sends_usage: whether a stream ends with a count of tokens.
    """

    choices: Sequence[Choice]
    replies: int
    whole: tuple[str, str, str]
    part: tuple[str, str, str]
    streams: bool
    sends_usage: bool

    @property
    def tasks(self) -> list[Task]:
        """One for each choice."""
        return [choice.task for choice in self.choices]


class Planner:
    """Makes plans for one model.

    Args:
        session: the model.
        names: by which requests may call it; the first is its own.
    """

    def __init__(self, session: AtomSession, names: Sequence[str]) -> None:
        self.names = names
        self._session = session
        self._created = int(time.time())

    def plan(self, request: CompletionRequest | ChatRequest) -> Plan:
        """The tasks for a request.

        Raises:
            RequestError: if it cannot be answered.
        """
        self.check_model(request.model)
        if isinstance(request, CompletionRequest):
            choices = self._completion(request)
            kinds = ("text_completion", "text_completion", "cmpl")
        else:
            choices = self._chat(request)
            kinds = ("chat.completion", "chat.completion.chunk", "chatcmpl")
        name = request.model or self.names[0]
        return Plan(
            choices,
            request.replies,
            whole=(kinds[0], kinds[2], name),
            part=(kinds[1], kinds[2], name),
            streams=bool(request.stream),
            sends_usage=request.sends_usage,
        )

    def _completion(self, request: CompletionRequest) -> list[Choice]:
        options: Options = {**request.options(), "max_new_tokens": _MAX_TOKENS}
        silent = request.max_tokens == 0
        if request.max_tokens is not None:
            options["max_new_tokens"] = request.max_tokens or 1
        if request.logprobs is not None:
            options["logprobs"] = request.logprobs
        choices: list[Choice] = []
        for prompt in request.prompts():
            echo = None
            if request.echo:
                echo = prompt if isinstance(prompt, str) else self._session.tokenizer.decode(prompt)
            encoded: str | Sequence[int] = prompt
            for number in range(request.replies):
                task = self._task(encoded, options, number, rated=bool(request.echo))
                encoded = task.prompt
                tokenizer = self._session.tokenizer
                choices.append(CompletionChoice(len(choices), task, tokenizer, echo, silent))
        return choices

    def _chat(self, request: ChatRequest) -> list[Choice]:
        if not self._session.is_chat:
            raise RequestError(
                "This is a base model: it has no chat template. Use /v1/completions.",
                code="no_chat_template",
            )
        if not request.messages:
            raise RequestError("messages is an empty list.", param="messages")
        try:
            prompt = self._session.chat_prompt([message.plain() for message in request.messages])
        except (BundleError, TokenizerError) as error:
            raise RequestError(str(error), param="messages") from error
        most = (request.max_tokens, request.max_completion_tokens)
        if None not in most and most[0] != most[1]:
            raise RequestError(
                "max_tokens and max_completion_tokens differ; give one of them.",
                param="max_completion_tokens",
            )
        options: Options = {**request.options(), "max_new_tokens": self._session.context_length}
        for limit in most:
            if limit is not None:
                options["max_new_tokens"] = limit
        if request.top_logprobs is not None and not request.logprobs:
            raise RequestError("top_logprobs needs logprobs.", param="top_logprobs")
        if request.logprobs:
            options["logprobs"] = request.top_logprobs or 0
        return [
            ChatChoice(
                number, self._task(prompt, options, number, rated=False), self._session.tokenizer
            )
            for number in range(request.replies)
        ]

    def _task(
        self, prompt: str | Sequence[int], options: Options, number: int, *, rated: bool
    ) -> Task:
        """The task of the choice `number` of a prompt; each has a seed of its own."""
        seed = options.get("seed")
        if seed is not None:
            options = {**options, "seed": (seed + number) % 2**64}
        try:
            reply = self._session.new_reply(prompt, **options)
        except (GenerationError, MissingExtraError, TokenizerError) as error:
            raise RequestError(str(error), param=_field(str(error))) from error
        if reply.prompt.truncated_tokens:
            tokens = len(reply.prompt.token_ids) + reply.prompt.truncated_tokens
            context = self._session.context_length
            raise RequestError(
                f"The prompt has {tokens} tokens, and the context is {context} with room for one "
                "token of the reply.",
                kind="exceed_context_size_error",
                param="prompt",
                code="context_length_exceeded",
                figures={"n_prompt_tokens": tokens, "n_ctx": context},
            )
        return Task(reply, options.get("logprobs") if rated else None)

    # What the server says of its model

    def check_model(self, name: str | None) -> None:
        """Refuse a request for another model.

        Raises:
            RequestError: if `name` is not one of this model.
        """
        if name is not None and name not in self.names:
            close = difflib.get_close_matches(name, self.names, 1)
            raise RequestError(
                f"There is no model {name!r} here; there is {(close or self.names)[0]!r}.",
                status=404,
                param="model",
                code="model_not_found",
            )

    def model(self, name: str) -> Json:
        """OpenAI's object of the model."""
        return {
            "id": name,
            "object": "model",
            "created": self._created,
            "owned_by": "atom-edge",
            "max_model_len": self._session.context_length,
        }

    def tokenize(self, request: TokenizeRequest) -> Json:
        """The ids of a text."""
        self.check_model(request.model)
        texts = [text for text in (request.prompt, request.content) if text is not None]
        if len(texts) != 1:
            raise RequestError("Give the text as prompt or as content.", param="prompt")
        try:
            tokens = self._session.tokenizer.encode(
                texts[0], add_special_tokens=request.add_special_tokens
            )
        except TokenizerError as error:
            raise RequestError(str(error), param="prompt") from error
        context = self._session.context_length
        return {"tokens": tokens, "count": len(tokens), "max_model_len": context}

    def detokenize(self, request: DetokenizeRequest) -> Json:
        """The text of ids."""
        self.check_model(request.model)
        size = self._session.tokenizer.vocab_size
        if wrong := [token for token in request.tokens if not 0 <= token < size]:
            raise RequestError(f"There is no token {wrong[0]}.", param="tokens")
        text = self._session.tokenizer.decode(request.tokens)
        return {"prompt": text, "content": text}

    def tokenizer_info(self) -> Json:
        """What evaluation harnesses ask of a tokenizer."""
        config = self._session.bundle.tokenizer_config
        info: dict[str, Any] = {
            name: _plain(config[name]) for name in _TOKENIZER_FIELDS if name in config
        }
        info.setdefault("eos_token", None)
        return {
            **info,
            "vocab_size": self._session.tokenizer.vocab_size,
            "chat_template": self._session.bundle.chat_template,
        }


def _plain(value: Any) -> Any:
    """A token's text where a file describes it as an object."""
    return value.get("content") if isinstance(value, dict) else value


def _field(message: str) -> str:
    """The field that a session's error is about."""
    name = message.partition(" ")[0]
    if name == "max_new_tokens":
        return "max_tokens"
    return name if name in OPTIONS else "prompt"
