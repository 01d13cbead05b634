"""Requests as they come over the wire, parsed into typed values or refused by name.

A field that is not here is refused, and so is a value that would have to be ignored. Fields that
ask for nothing when they have a neutral value, such as `presence_penalty` 0, are accepted with it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar, cast

from msgspec import Struct

from atom_edge.border import parse_json
from atom_edge.errors import RequestError
from atom_edge.runtimes.options import Options

T = TypeVar("T", bound="Sampled")
TokenIds = list[int]

_UNKNOWN = re.compile(
    r"request: (?:(?P<place>\S+): )?object contains unknown field (?P<name>\S+)\."
)
_PLACED = re.compile(r"request: (?P<place>[\w.]+): ")
# What each field may be where this server does not support it.
_NEUTRAL: Mapping[str, Sequence[object]] = {
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "suffix": ("",),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "functions": ([],),
    "modalities": (["text"],),
    "store": (False,),
    "metadata": ({},),
    "service_tier": ("auto", "default"),
    "best_of": (1,),
}


# Fields that are options of a session by the same name.
_OPTIONS = (
    *("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "stop"),
    *("regex", "json_schema", "grammar"),
)

# More would let one request hold up all others: each token is searched for every stop text, and
# sent with as many likeliest ones as are asked for.
_MOST_STOPS, _MOST_LOGPROBS = 16, 20


class StreamOptions(Struct, forbid_unknown_fields=True):
    """`stream_options` of both kinds of requests."""

    include_usage: bool = False


class Sampled(Struct, forbid_unknown_fields=True, kw_only=True):
    """What both kinds of requests have; None for what is left to the bundle's defaults."""

    model: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    n: int | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    regex: str | None = None
    json_schema: dict[str, Any] | None = None
    grammar: str | None = None
    user: str | None = None  # says who asks, not for what
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, Any] | None = None
    store: bool | None = None
    metadata: dict[str, Any] | None = None
    service_tier: str | None = None

    @property
    def replies(self) -> int:
        """How many replies to each prompt are wanted."""
        return 1 if self.n is None else self.n

    @property
    def asked(self) -> int:
        """How many replies are wanted in all."""
        return self.replies

    @property
    def is_constrained(self) -> bool:
        """Whether the text must follow a pattern."""
        return any(what is not None for what in (self.regex, self.json_schema, self.grammar))

    @property
    def sends_usage(self) -> bool:
        """Whether the end of a stream says how many tokens there were."""
        return self.stream_options is not None and self.stream_options.include_usage

    def options(self) -> Options:
        """The options that were given, by the names of a session."""
        given = {name: getattr(self, name) for name in _OPTIONS}
        options = {name: value for name, value in given.items() if value is not None}
        if self.seed is not None:
            options["seed"] = self.seed % 2**64  # OpenAI's may be negative
        return cast(Options, options)


class CompletionRequest(Sampled):
    """A request for `/v1/completions`."""

    prompt: str | list[str | int | TokenIds]
    logprobs: int | None = None
    echo: bool | None = None
    best_of: int | None = None
    suffix: str | None = None

    @property
    def asked(self) -> int:
        """See `Sampled`."""
        return self.replies * len(self.prompts())

    def prompts(self) -> list[str | TokenIds]:
        """The prompts: one or several texts, one or several sequences of token ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if not self.prompt:
            raise RequestError("prompt is an empty list.", param="prompt")
        kinds = {type(item) for item in self.prompt}
        if len(kinds) > 1:
            raise RequestError("prompt mixes texts and token ids.", param="prompt")
        return [self.prompt] if kinds == {int} else self.prompt  # type: ignore[return-value, list-item]  # as just found


class Part(Struct, forbid_unknown_fields=True):
    """A part of a message's content; text alone is supported."""

    type: str
    text: str | None = None


class ChatMessage(Struct, forbid_unknown_fields=True):
    """A message of a conversation."""

    role: str
    content: str | list[Part]
    name: str | None = None

    def plain(self) -> dict[str, str]:
        """`role` and `content` as templates know them."""
        if self.name is not None:
            raise RequestError("A message's name is not supported.", param="messages.name")
        role = "system" if self.role == "developer" else self.role
        if role not in ("system", "user", "assistant"):
            raise RequestError(
                f"The role {self.role!r} is not supported; it must be system, developer, user or "
                "assistant.",
                param="messages.role",
            )
        if isinstance(self.content, str):
            return {"role": role, "content": self.content}
        texts = []
        for part in self.content:
            if part.type != "text" or part.text is None:
                raise RequestError(
                    f"Content of the type {part.type!r} is not supported; it must be text.",
                    param="messages.content",
                )
            texts.append(part.text)
        return {"role": role, "content": "".join(texts)}


class JsonSchema(Struct, forbid_unknown_fields=True):
    """A schema that a chat's reply must follow."""

    name: str
    schema: dict[str, Any]
    description: str | None = None
    strict: bool | None = None  # a reply always follows it


class ResponseFormat(Struct, forbid_unknown_fields=True):
    """What a chat's reply must look like."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class ChatRequest(Sampled):
    """A request for `/v1/chat/completions`."""

    messages: list[ChatMessage]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    response_format: ResponseFormat | None = None
    tools: list[Any] | None = None
    tool_choice: str | None = None
    parallel_tool_calls: bool | None = None
    functions: list[Any] | None = None
    modalities: list[str] | None = None

    def options(self) -> Options:
        """See `Sampled`."""
        options = super().options()
        wanted = self.response_format
        if wanted is None or wanted.type == "text":
            return options
        if wanted.type == "json_object":
            return {**options, "json_schema": {"type": "object"}}
        if wanted.json_schema is None:
            raise RequestError("response_format has no json_schema.", param="response_format")
        return {**options, "json_schema": wanted.json_schema.schema}


class TokenizeRequest(Struct, forbid_unknown_fields=True):
    """A request for `/tokenize`; the text is `prompt` or, as elsewhere, `content`."""

    prompt: str | None = None
    content: str | None = None
    add_special_tokens: bool = True
    model: str | None = None


class DetokenizeRequest(Struct, forbid_unknown_fields=True):
    """A request for `/detokenize`."""

    tokens: TokenIds
    model: str | None = None


S = TypeVar("S", bound=Struct)


def parse(body: bytes, kind: type[S]) -> S:
    """A request of the type `kind`.

    Raises:
        RequestError: for what is no such request, or asks for what is not supported.
    """
    try:
        request = parse_json(body, kind, "request", RequestError)
    except RequestError as error:
        raise _named(str(error)) from error
    for name, neutral in _NEUTRAL.items():
        value = getattr(request, name, None)
        if value is not None and value not in neutral:
            raise _unsupported(name)
    if isinstance(request, Sampled):
        _check(request)
    return request


def _check(request: Sampled) -> None:
    if request.replies < 1:
        raise RequestError(f"n is {request.n}; it must be at least 1.", param="n")
    if isinstance(request.stop, list) and len(request.stop) > _MOST_STOPS:
        raise RequestError(
            f"stop has {len(request.stop)} texts; it may have {_MOST_STOPS}.", param="stop"
        )
    for name in ("logprobs", "top_logprobs"):
        count = getattr(request, name, None)
        if count is not None and count > _MOST_LOGPROBS:
            raise RequestError(f"{name} is {count}; it may be {_MOST_LOGPROBS}.", param=name)
    if request.stream_options is not None and not request.stream:
        raise RequestError("stream_options needs stream.", param="stream_options")


def _named(message: str) -> RequestError:
    """The error of a request that could not be parsed, with the field that is wrong."""
    if found := _UNKNOWN.fullmatch(message):
        place = f"{found['place']}." if found["place"] else ""
        return _unsupported(place + found["name"])
    placed = _PLACED.match(message)
    return RequestError(message, param=placed["place"] if placed else None)


def _unsupported(name: str) -> RequestError:
    return RequestError(
        f"{name} is not supported by this server.", param=name, code="unsupported_parameter"
    )
