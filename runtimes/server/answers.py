"""From the pieces of replies to OpenAI's objects, whole or in parts of a stream.

A choice gives one part for the pieces that have come since the last; a response that is not
streamed is the part of all pieces.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from atom_edge.errors import RequestError
from atom_edge.runtimes.reply import Piece, TokenLogprob
from atom_edge.runtimes.slots import Task
from atom_edge.tokenizer import Tokenizer

Json = dict[str, Any]


class Choice(Protocol):
    """One reply of a response.

    Attributes:
        task: what makes it.
        tokens: how many it has so far.
    """

    task: Task
    tokens: int

    def part(self, pieces: Sequence[Piece]) -> Json:
        """The object for the next pieces of it, at least one, as part of a stream."""
        ...

    def whole(self, pieces: Sequence[Piece]) -> Json:
        """The object for all pieces of it."""
        ...


class CompletionChoice:
    """A choice of `/v1/completions`.

    Args:
        index: of the choice.
        task: what makes it.
        tokenizer: of the model.
        echo: the prompt's text, to give it before the reply.
        silent: whether the reply itself, a single token, is not asked for.
    """

    def __init__(
        self, index: int, task: Task, tokenizer: Tokenizer, echo: str | None, silent: bool
    ) -> None:
        self.task = task
        self.tokens = 0
        self._begun = False
        self._index = index
        self._tokenizer = tokenizer
        self._echo = echo
        self._silent = silent
        self._offset = 0
        self._detokenizer = tokenizer.detokenizer(() if echo is not None else task.prompt)

    def part(self, pieces: Sequence[Piece]) -> Json:
        """See `Choice`."""
        shown = [] if self._silent else pieces
        text = "".join(piece.text for piece in shown)
        entries: list[TokenLogprob | int] = []
        if self._echo is not None and not self._begun:
            text = self._echo + text
            entries += [*self.task.prompt[:1], *self.task.prompt_logprobs]
        entries += [piece.logprob for piece in shown if piece.logprob is not None]
        self._begun = True
        self.tokens = 0 if self._silent else pieces[-1].generation_tokens
        finish = "length" if self._silent else pieces[-1].finish_reason
        rated = self.task.reply.options.logprobs is not None
        return {
            "index": self._index,
            "text": text,
            "logprobs": self._logprobs(entries) if rated else None,
            "finish_reason": finish,
        }

    whole = part

    def _logprobs(self, entries: Iterable[TokenLogprob | int]) -> Json:
        """OpenAI's arrays; an entry that is only an id has no log-probability."""
        tokens, logprobs, tops, offsets = [], [], [], []
        for entry in entries:
            token_id = entry if isinstance(entry, int) else entry.token_id
            tokens.append(self._tokenizer.token_text(token_id))
            offsets.append(self._offset)
            self._offset += len(self._detokenizer.push(token_id))
            logprobs.append(None if isinstance(entry, int) else entry.logprob)
            tops.append(None if isinstance(entry, int) else self._top(entry))
        return {
            "tokens": tokens,
            "token_logprobs": logprobs,
            "top_logprobs": tops,
            "text_offset": offsets,
        }

    def _top(self, entry: TokenLogprob) -> dict[str, float]:
        """Texts of the likeliest tokens and of the chosen one; of equal texts the likeliest."""
        pairs = sorted({*entry.top, (entry.token_id, entry.logprob)}, key=lambda pair: pair[1])
        return {self._tokenizer.token_text(token_id): logprob for token_id, logprob in pairs}


class ChatChoice:
    """A choice of `/v1/chat/completions`."""

    def __init__(self, index: int, task: Task, tokenizer: Tokenizer) -> None:
        self.task = task
        self.tokens = 0
        self._begun = False
        self._index = index
        self._tokenizer = tokenizer

    def part(self, pieces: Sequence[Piece]) -> Json:
        """See `Choice`."""
        text = "".join(piece.text for piece in pieces)
        delta: Json = {} if self._begun else {"role": "assistant"}
        if text or not self._begun:
            delta["content"] = text
        return self._choice("delta", delta, pieces)

    def whole(self, pieces: Sequence[Piece]) -> Json:
        """See `Choice`."""
        text = "".join(piece.text for piece in pieces)
        message = {"role": "assistant", "content": text, "refusal": None}
        return self._choice("message", message, pieces)

    def _choice(self, name: str, content: Json, pieces: Sequence[Piece]) -> Json:
        self._begun = True
        self.tokens = pieces[-1].generation_tokens
        rated = [piece.logprob for piece in pieces if piece.logprob is not None]
        return {
            "index": self._index,
            name: content,
            "logprobs": {"content": [self._rated(entry) for entry in rated]} if rated else None,
            "finish_reason": pieces[-1].finish_reason,
        }

    def _rated(self, entry: TokenLogprob) -> Json:
        top = [self._described(*pair) for pair in entry.top]
        return {**self._described(entry.token_id, entry.logprob), "top_logprobs": top}

    def _described(self, token_id: int, logprob: float) -> Json:
        text = self._tokenizer.token_text(token_id)
        # Part of a character has no text of its own.
        partial = "\N{REPLACEMENT CHARACTER}" in text
        return {
            "token": text,
            "logprob": logprob,
            "bytes": None if partial else list(text.encode()),
        }


class Envelope:
    """What all objects of a response have around their choices."""

    def __init__(self, kind: str, prefix: str, model: str) -> None:
        self._fields = {
            "id": f"{prefix}-{secrets.token_hex(12)}",
            "object": kind,
            "created": int(time.time()),
            "model": model,
        }

    def around(self, choices: Sequence[Json], **more: Any) -> Json:
        """The object with the choices."""
        return {**self._fields, "choices": choices, **more}


def usage(choices: Sequence[Choice], replies: int) -> Json:
    """How many tokens went in and came out; a prompt counts once, whatever its replies."""
    prompts = [choice.task for choice in choices[::replies]]
    prompt = sum(len(task.prompt) for task in prompts)
    made = sum(choice.tokens for choice in choices)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": made,
        "total_tokens": prompt + made,
        "prompt_tokens_details": {"cached_tokens": sum(task.cached_tokens for task in prompts)},
    }


def error_object(error: RequestError) -> Json:
    """OpenAI's object of an error."""
    return {
        "error": {
            "message": str(error),
            "type": error.kind,
            "param": error.param,
            "code": error.code,
            **error.figures,
        }
    }
