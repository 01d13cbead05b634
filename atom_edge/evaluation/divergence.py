"""How far one model's predictions are from another's on the same text.

Knows nothing of models: it is fed logits of both and the tokens that came next.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


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

    def exp(self) -> Estimate:
        """The exponential, its error to first order (the delta method)."""
        return Estimate(math.exp(self.value), math.exp(self.value) * self.standard_error)


def log_softmax(logits: npt.NDArray[np.floating]) -> Floats:
    """Log-probabilities over the last axis, float64."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


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
        log_p, log_q = log_softmax(reference), log_softmax(logits)
        rows = np.arange(len(targets))
        self.kl.append((np.exp(log_p) * (log_p - log_q)).sum(axis=-1))
        self.reference_nll.append(-log_p[rows, targets])
        self.nll.append(-log_q[rows, targets])
        self.same_top.append(log_p.argmax(-1) == log_q.argmax(-1))

    @property
    def tokens(self) -> int:
        """Predictions collected."""
        return sum(len(part) for part in self.kl)

    @property
    def mean_kl(self) -> Estimate:
        """Mean divergence in nats a token."""
        return Estimate.of(np.concatenate(self.kl))

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
        return Estimate.of(np.concatenate(self.nll) - np.concatenate(self.reference_nll)).exp()

    @property
    def same_top_token(self) -> Estimate:
        """Share of the predictions in which both models put the same token first."""
        return Estimate.of(np.concatenate(self.same_top))
