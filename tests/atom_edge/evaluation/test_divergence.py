"""The divergence measures against direct renderings and known values."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atom_edge.evaluation.divergence import Divergence, Estimate, log_softmax


def collected(reference: np.ndarray, logits: np.ndarray, targets: np.ndarray) -> Divergence:
    result = Divergence()
    half = len(targets) // 2
    for part in (slice(0, half), slice(half, None)):
        result.add(reference[part], logits[part], targets[part])
    return result


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), scale=st.floats(0.1, 30))
def test_the_measures_are_their_definitions(seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    reference = (rng.standard_normal((12, 7)) * scale).astype(np.float32)
    logits = (reference + rng.standard_normal((12, 7))).astype(np.float32)
    targets = rng.integers(0, 7, 12)
    result = collected(reference, logits, targets)
    kl, ratio = [], []
    for p_row, q_row, target in zip(reference, logits, targets, strict=True):
        p = [math.exp(x) for x in log_softmax(p_row)]
        q = [math.exp(x) for x in log_softmax(q_row)]
        kl.append(sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0))
        ratio.append(math.log(p[target] / q[target]))
    assert result.tokens == 12
    assert result.mean_kl.value == pytest.approx(np.mean(kl), rel=1e-6, abs=1e-9)
    assert result.perplexity_ratio.value == pytest.approx(math.exp(np.mean(ratio)), rel=1e-6)
    assert result.perplexity.value == pytest.approx(
        result.reference_perplexity.value * result.perplexity_ratio.value, rel=1e-6
    )
    same = (reference.argmax(1) == logits.argmax(1)).mean()
    assert result.same_top_token.value == pytest.approx(same)


def test_a_model_does_not_diverge_from_itself() -> None:
    logits = np.random.default_rng(0).standard_normal((9, 5)).astype(np.float32)
    result = collected(logits, logits, np.zeros(9, np.int64))
    assert result.mean_kl == Estimate(0.0, 0.0)
    assert result.perplexity_ratio == Estimate(1.0, 0.0)
    assert result.same_top_token.value == 1.0


def test_uniform_predictions_have_the_perplexity_of_the_vocabulary() -> None:
    flat = np.zeros((20, 8), np.float32)
    result = collected(flat, flat, np.arange(20) % 8)
    assert result.perplexity.value == pytest.approx(8)


def test_standard_error_shrinks_with_the_root_of_the_sample() -> None:
    samples = np.random.default_rng(1).standard_normal(10_000)
    assert Estimate.of(samples).standard_error == pytest.approx(0.01, rel=0.05)
    assert math.isnan(Estimate.of(samples[:1]).standard_error)
