"""How far one model's predictions are from another's on the same text.

Knows nothing of models: it is fed logits of both and the tokens that came next.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_BLOCK = 2**17  # logits that are compared at a time


@dataclass(frozen=True)
class Estimate:
    """A mean over tokens with its standard error."""

    value: float
    standard_error: float

    @classmethod
    def of(cls, samples: npt.NDArray[np.floating | np.bool_]) -> Estimate:
        """The mean of independent `samples` and its standard error (NaN for fewer than two)."""
        count = len(samples)
        error = float(np.std(samples, ddof=1)) / math.sqrt(count) if count > 1 else math.nan
        return cls(float(np.mean(samples)), error)

    def __add__(self, other: Estimate) -> Estimate:
        """The sum of two independent estimates."""
        error = math.hypot(self.standard_error, other.standard_error)
        return Estimate(self.value + other.value, error)

    def exp(self) -> Estimate:
        """The exponential, its error to first order (the delta method)."""
        return Estimate(math.exp(self.value), math.exp(self.value) * self.standard_error)


def log_softmax(logits: npt.NDArray[np.floating]) -> Floats:
    """Log-probabilities over the last axis, float64; NaN where a logit is not finite."""
    shifted = logits.astype(np.float64)
    with np.errstate(invalid="ignore"):  # what is not finite shows in the result
        shifted -= shifted.max(axis=-1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def kl_divergence(reference: npt.NDArray[np.floating], logits: npt.NDArray[np.floating]) -> Floats:
    """KL divergence in nats `[N]` of each prediction: logits `[N, V]` of both models."""
    parts = [
        _kl(log_softmax(reference[rows]), log_softmax(logits[rows])) for rows in _blocks(logits)
    ]
    return np.concatenate(parts)


def _kl(log_p: Floats, log_q: Floats) -> Floats:
    divergence: Floats = (np.exp(log_p) * (log_p - log_q)).sum(axis=-1)
    return divergence


def _blocks(logits: npt.NDArray[np.floating]) -> Iterator[slice]:
    """Slices of the rows of `[N, V]`, so small that float64 copies of them stay in a cache."""
    rows = max(1, _BLOCK // logits.shape[1])
    return (slice(start, start + rows) for start in range(0, len(logits), rows))


@dataclass
class Divergence:
    """Per-token figures of a model against a reference, collected window by window.

    The measures are those of llama.cpp's perplexity tool: the Kullback-Leibler divergence of the
    reference's distribution from the model's (in nats), the perplexities and their ratio, and how
    often both put the same token first.
    """

    kl: list[Floats] = field(default_factory=list)
    reference_nll: list[Floats] = field(default_factory=list)
    nll: list[Floats] = field(default_factory=list)
    same_top: list[npt.NDArray[np.bool_]] = field(default_factory=list)

    def add(
        self,
        reference: npt.NDArray[np.float32],
        logits: npt.NDArray[np.float32],
        targets: npt.NDArray[np.int64],
    ) -> None:
        """Add N predictions: logits `[N, V]` of both models and the tokens `[N]` that came next."""
        for rows in _blocks(logits):
            log_p, log_q = log_softmax(reference[rows]), log_softmax(logits[rows])
            ahead = np.arange(len(log_p)), targets[rows]
            self.kl.append(_kl(log_p, log_q))
            self.reference_nll.append(-log_p[ahead])
            self.nll.append(-log_q[ahead])
            self.same_top.append(log_p.argmax(-1) == log_q.argmax(-1))

    @property
    def tokens(self) -> int:
        """Predictions collected."""
        return sum(len(part) for part in self.kl)

    @property
    def kl_samples(self) -> Floats:
        """Divergence of each prediction in nats, `[N]`."""
        return np.concatenate(self.kl)

    @property
    def log_ratio_samples(self) -> Floats:
        """How much less likely, in nats, the model held each next token, `[N]`."""
        return np.concatenate(self.nll) - np.concatenate(self.reference_nll)

    @property
    def same_top_samples(self) -> Floats:
        """1 for each prediction in which both models put the same token first, else 0, `[N]`."""
        return np.concatenate(self.same_top).astype(np.float64)

    @property
    def mean_kl(self) -> Estimate:
        """Mean divergence in nats a token."""
        return Estimate.of(self.kl_samples)

    @property
    def perplexity(self) -> Estimate:
        """The model's perplexity."""
        return Estimate.of(np.concatenate(self.nll)).exp()

    @property
    def reference_perplexity(self) -> Estimate:
        """The reference's perplexity."""
        return Estimate.of(np.concatenate(self.reference_nll)).exp()

    @property
    def perplexity_ratio(self) -> Estimate:
        """The model's perplexity over the reference's; its error is of the paired difference."""
        return Estimate.of(self.log_ratio_samples).exp()

    @property
    def same_top_token(self) -> Estimate:
        """Share of the predictions in which both models put the same token first."""
        return Estimate.of(self.same_top_samples)
