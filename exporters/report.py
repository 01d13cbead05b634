"""What a graph must hold, and figures beside those limits."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from atom_edge.evaluation.divergence import Estimate
from atom_edge.manifest import Figure

# A graph adds in another order than PyTorch does: its error may be this many times as large.
_MULTIPLE = 5
# Part of the largest logit: a few units in the last place of float32, for models so small that
# PyTorch hardly rounds.
_FLOOR = 2.0**-20
# float16 keeps 13 bits fewer than float32.
_HALF = 2.0**13
_HALF_RATIO, _HALF_KL = 1.001, 0.001
# Parts of the limit of the mean KL that the first few windows may show: little, where a safer way
# waits that would be taken after minutes anyhow; else all that more windows could still save.
_FEW_BEFORE_OTHERS, _FEW = 0.9, 2.0


@dataclass(frozen=True)
class Limits:
    """What a graph must hold; a limit of None is not applied.

    Attributes:
        logits: largest absolute difference of a logit.
        perplexity_ratio: the graph's perplexity over PyTorch's.
        mean_kl: mean divergence of a prediction, in nats.
        others_wait: whether there is a safer graph to take when this one is near its limits.
    """

    logits: float | None = None
    perplexity_ratio: float | None = None
    mean_kl: float | None = None
    others_wait: bool = False

    @property
    def kl_of_few_windows(self) -> float | None:
        """Mean divergence on the first windows, beyond which the rest need not be run."""
        part = _FEW_BEFORE_OTHERS if self.others_wait else _FEW
        return None if self.mean_kl is None else part * self.mean_kl

    @classmethod
    def of_float32(cls, noise: float, largest: float) -> Self:
        """The limits of the same model.

        Args:
            noise: the largest error of a logit of PyTorch's in float32, against float64.
            largest: the largest logit.
        """
        return cls(logits=_MULTIPLE * noise + _FLOOR * largest)

    @classmethod
    def of_float16(cls, noise: float, largest: float) -> Self:
        """The limits of the same model in half precision; arguments as of `of_float32`."""
        logits = cls.of_float32(noise, largest).logits
        assert logits is not None
        return cls(_HALF * logits, _HALF_RATIO, _HALF_KL)


def figure(name: str, measured: float | Estimate, limit: float | None = None) -> Figure:
    """The figure of a number, or of an estimated mean with its standard error."""
    if isinstance(measured, Estimate):
        finite = math.isfinite(measured.value) and math.isfinite(measured.standard_error)
        if finite:
            return Figure(name, measured.value, measured.standard_error, limit)
        return Figure(name, None, None, limit)
    return Figure(name, measured if math.isfinite(measured) else None, None, limit)


def until_failure(figures: Iterable[Figure]) -> tuple[Figure, ...]:
    """Measure, and stop at the first figure that does not hold."""
    measured: list[Figure] = []
    for one in figures:
        measured.append(one)
        if not one.holds:
            break
    return tuple(measured)
