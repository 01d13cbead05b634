"""What a caller may ask of a generation, checked before any work is done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

from atom_edge.errors import GenerationError


class Options(TypedDict, total=False):
    """`GenerationOptions` as keyword arguments, all optional."""

    max_new_tokens: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    seed: int | None
    stop: str | Sequence[str]
    logprobs: int | None


@dataclass(frozen=True)
class GenerationOptions:
    """How a reply is chosen and when it ends.

    Attributes:
        max_new_tokens: the most tokens of the reply, at least 1.
        temperature: divides the logits; 0 takes the most likely token each time (greedy).
        top_k: sample among the k most likely tokens; 0 for all.
        top_p: sample among the most likely tokens that hold this share together; 1 for all.
        min_p: sample among tokens at least this many times as likely as the most likely; 0 for
            all.
        repetition_penalty: above 1, tokens of the prompt and of the reply become less likely.
        seed: with it the same request repeats exactly; None for another reply each time.
        stop: one text or several that end the reply; they are not part of it.
        logprobs: None for none; N for the log-probability of each token and of the N likeliest.

    Raises:
        GenerationError: for a value outside its range.
    """

    max_new_tokens: int = 128
    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 0.95
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: str | Sequence[str] = ()
    logprobs: int | None = None

    def __post_init__(self) -> None:
        _require(self.max_new_tokens >= 1, "max_new_tokens", self.max_new_tokens, "at least 1")
        _require(self.temperature >= 0, "temperature", self.temperature, "0 or above")
        _require(self.top_k >= 0, "top_k", self.top_k, "0 (all) or above")
        _require(0 < self.top_p <= 1, "top_p", self.top_p, "above 0 and at most 1")
        _require(0 <= self.min_p <= 1, "min_p", self.min_p, "between 0 and 1")
        _require(
            0 < self.repetition_penalty < float("inf"),
            "repetition_penalty",
            self.repetition_penalty,
            "above 0",
        )
        _require(self.seed is None or self.seed >= 0, "seed", self.seed, "0 or above")
        _require(all(self.stop_texts), "stop", self.stop, "texts of at least one character")
        _require(
            self.logprobs is None or self.logprobs >= 0, "logprobs", self.logprobs, "0 or above"
        )

    @property
    def is_greedy(self) -> bool:
        """Whether each token is the likeliest, whatever came before."""
        return self.temperature == 0 and self.repetition_penalty == 1

    @property
    def stop_texts(self) -> tuple[str, ...]:
        """`stop` as a tuple."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)


def _require(holds: bool, name: str, value: object, range_text: str) -> None:
    if not holds:
        raise GenerationError(f"{name} is {value!r}; it must be {range_text}.")
