"""What comes out of a generation: pieces as they come, and the whole reply."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Literal, NamedTuple

FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True)
class TokenLogprob:
    """How likely a token was, under the model's own distribution: no temperature, no filter.

    Attributes:
        token_id: the token that was chosen.
        logprob: its natural log-probability.
        top: (id, log-probability) of the likeliest tokens, the likeliest first.
    """

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...]


class Piece(NamedTuple):
    """One step of a reply: one token, and the text that became certain with it.

    Attributes:
        text: often empty: incomplete UTF-8 and what may become a stop text are held back.
        token_id: the token; an end-of-sequence token comes last and has no text.
        logprob: as asked for, else None.
        prompt_tokens: tokens of the prompt that the model saw.
        generation_tokens: tokens of the reply so far, an end-of-sequence token not counted.
        prompt_seconds: time from the request to the first logits.
        generation_seconds: time from the first token to this one.
        finish_reason: None but for the last piece: "stop" at an end-of-sequence token or a stop
            text, "length" at `max_new_tokens` or at the end of the context, "cancelled" by the
            caller.
        truncated_tokens: tokens of the prompt that were dropped at its start.
    """

    text: str
    token_id: int
    logprob: TokenLogprob | None
    prompt_tokens: int
    generation_tokens: int
    prompt_seconds: float
    generation_seconds: float
    finish_reason: FinishReason | None
    truncated_tokens: int

    @property
    def prompt_tps(self) -> float:
        """Prompt tokens a second."""
        return self.prompt_tokens / self.prompt_seconds if self.prompt_seconds else 0.0

    @property
    def generation_tps(self) -> float:
        """Tokens a second after the first one, which belongs to the prompt's time; 0 if alone."""
        following = self.generation_tokens - 1
        return following / self.generation_seconds if following > 0 else 0.0


@dataclass(frozen=True)
class Generation:
    """A whole reply.

    Attributes:
        text: the reply, without the prompt and without a stop text.
        token_ids: its tokens, those of a stop text included, an end-of-sequence token not.
        finish_reason: as in `Piece`.
        prompt_tokens: tokens of the prompt that the model saw.
        truncated_tokens: tokens of the prompt that were dropped at its start.
        generation_tokens: the number of `token_ids`.
        prompt_tps: prompt tokens a second.
        generation_tps: tokens a second after the first one.
        logprobs: one for each of `token_ids`; None unless asked for.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    prompt_tokens: int
    truncated_tokens: int
    generation_tokens: int
    prompt_tps: float
    generation_tps: float
    logprobs: tuple[TokenLogprob, ...] | None

    def _repr_html_(self) -> str:
        """As a notebook shows it: the text, and a line of counts."""
        from html import escape

        return (
            f"<pre style='white-space: pre-wrap'>{escape(self.text)}</pre>"
            f"<small>{self.prompt_tokens} + {self.generation_tokens} tokens, "
            f"{self.generation_tps:,.0f} a second, ended by {self.finish_reason}</small>"
        )


def collect(pieces: Sequence[Piece], end_ids: Set[int]) -> Generation:
    """Join the pieces of a reply."""
    last = pieces[-1]
    tokens = [piece for piece in pieces if piece.token_id not in end_ids]
    logprobs = tuple(piece.logprob for piece in tokens if piece.logprob is not None)
    return gathered(
        last._replace(text="".join(piece.text for piece in pieces)),
        [piece.token_id for piece in tokens],
        None if last.logprob is None else logprobs,
    )


def gathered(
    last: Piece, token_ids: Sequence[int], logprobs: tuple[TokenLogprob, ...] | None = None
) -> Generation:
    """The reply of which a piece is the last, with all of its text."""
    assert last.finish_reason is not None
    return Generation(
        text=last.text,
        token_ids=tuple(token_ids),
        finish_reason=last.finish_reason,
        prompt_tokens=last.prompt_tokens,
        truncated_tokens=last.truncated_tokens,
        generation_tokens=last.generation_tokens,
        prompt_tps=last.prompt_tps,
        generation_tps=last.generation_tps,
        logprobs=logprobs,
    )
