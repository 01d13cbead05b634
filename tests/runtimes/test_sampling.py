"""Samplers against their definitions: distributions by chi-square, filters by properties."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from atom_edge.errors import GenerationError
from atom_edge.runtimes import sampling
from atom_edge.runtimes.options import GenerationOptions
from atom_edge.runtimes.sampling import (
    MOST,
    Sampler,
    draw,
    greedy,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    log_probabilities,
    penalize_repetition,
    random_number,
    share_of,
    to_weights,
)


def make_sampler(**options: float) -> Sampler:
    """A sampler that filters nothing but what the options say."""
    return sampling.make_sampler(
        GenerationOptions.of({"temperature": 1.0, "top_p": 1.0, **options})
    )


def floats(values: list[float]) -> NDArray[np.float32]:
    return np.array(values, np.float32)


scores = st.lists(st.floats(-30, 30), min_size=1, max_size=50).map(floats)
# On a coarse grid there are many ties.
tied_scores = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=50).map(floats)


def logits_of(*chances: float) -> NDArray[np.float32]:
    return np.log(np.array(chances, np.float32))


def probabilities(values: NDArray[np.float32]) -> NDArray[np.float64]:
    weights = to_weights(values)
    return weights / weights.sum(dtype=np.int64)


def kept_by(keep: Callable[..., None], weights: NDArray[np.int32], value: float) -> list[int]:
    """Indices that a filter keeps; it must leave their weights alone."""
    filtered = weights.copy()
    keep(filtered, value)
    kept = np.flatnonzero(filtered)
    assert filtered[kept].tolist() == weights[kept].tolist()
    return list(kept.tolist())


def chi_square(counts: NDArray[np.int64], expected: NDArray[np.float64]) -> float:
    """Standardised: about N(0, 1) when the counts come from the expected distribution."""
    statistic = float(((counts - expected) ** 2 / expected).sum())
    degrees = len(counts) - 1
    # Wilson and Hilferty's cube-root transformation of the chi-square distribution.
    variance = 2 / (9 * degrees)
    return ((statistic / degrees) ** (1 / 3) - (1 - variance)) / math.sqrt(variance)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0.4, 0.3, 0.15, 0.1, 0.05]),
        ({"temperature": 0.5}, [0.16, 0.09, 0.0225, 0.01, 0.0025]),
        ({"temperature": 2.0}, [0.4**0.5, 0.3**0.5, 0.15**0.5, 0.1**0.5, 0.05**0.5]),
        ({"top_k": 3}, [0.4, 0.3, 0.15, 0, 0]),
        ({"top_p": 0.6}, [0.4, 0.3, 0, 0, 0]),
        ({"top_p": 0.84}, [0.4, 0.3, 0.15, 0, 0]),
        ({"min_p": 0.3}, [0.4, 0.3, 0.15, 0, 0]),
        ({"top_k": 4, "top_p": 0.88, "min_p": 0.5}, [0.4, 0.3, 0, 0, 0]),
        # Temperature comes first: at 2 the shares are .27 .24 .17 .14 .10, so that half of the
        # most likely one's is 0.14 and leaves out but the last.
        ({"temperature": 2.0, "min_p": 0.45}, [0.4**0.5, 0.3**0.5, 0.15**0.5, 0.1**0.5, 0]),
    ],
)
def test_tokens_come_as_often_as_they_should(
    options: dict[str, float], expected: list[float]
) -> None:
    sample = make_sampler(seed=1, **options)
    # Two unlikely tokens at the ends, so that ids and ranks differ.
    logits = np.concatenate([[-90], logits_of(0.05, 0.4, 0.1, 0.3, 0.15), [-90]]).astype(np.float32)
    order = [2, 4, 5, 3, 1]
    draws = 20_000
    counts = np.bincount([sample(logits) for _ in range(draws)], minlength=7)
    shares = np.array(expected) / sum(expected)
    assert counts[[0, 6]].sum() == 0
    assert (counts[order][shares == 0] == 0).all()
    likely = shares > 0
    assert abs(chi_square(counts[order][likely], draws * shares[likely])) < 4


def test_a_large_vocabulary_is_sampled_as_it_should() -> None:
    logits = np.random.default_rng(0).normal(0, 2, 400).astype(np.float32)
    sample = make_sampler(top_p=0.9, seed=5)
    draws = 20_000
    counts = np.bincount([sample(logits) for _ in range(draws)], minlength=400)
    shares = probabilities(logits)
    ranked = np.argsort(-shares)
    nucleus = ranked[: 1 + int((shares[ranked].cumsum() < 0.9).sum())]
    assert set(np.flatnonzero(counts)) <= set(nucleus)
    assert len(nucleus) < 350
    expected = draws * shares[nucleus] / shares[nucleus].sum()
    assert abs(chi_square(counts[nucleus], expected)) < 4


@settings(max_examples=100, deadline=None)
@given(
    size=st.integers(8, 40),
    seed=st.integers(0, 2**32),
    temperature=st.floats(0.3, 3),
    top_k=st.integers(1, 12),
    top_p=st.floats(0.05, 0.99),
    min_p=st.floats(0.001, 0.5),
    penalty=st.floats(0.5, 2),
)
def test_the_filters_and_their_order_are_those_of_transformers(
    size: int,
    seed: int,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    penalty: float,
) -> None:
    values = np.random.default_rng(seed).normal(0, 3, size).astype(np.float32)
    seen = [0, 3, 5]
    warpers = LogitsProcessorList(
        [
            RepetitionPenaltyLogitsProcessor(penalty),
            TemperatureLogitsWarper(temperature),
            TopKLogitsWarper(top_k),
            TopPLogitsWarper(top_p),
            MinPLogitsWarper(min_p),
        ]
    )
    logits = torch.tensor(values)[None]
    theirs = torch.isfinite(warpers(torch.tensor([seen]), logits)[0]).nonzero()[:, 0]
    own = to_weights(penalize_repetition(values, np.array(seen), penalty), temperature)
    keep_top_k(own, top_k)
    keep_top_p(own, top_p)
    keep_min_p(own, min_p)
    assert np.flatnonzero(own).tolist() == theirs.tolist()


@given(scores | tied_scores, st.integers(1, 60))
def test_top_k_keeps_the_likeliest_and_their_equals(values: NDArray[np.float32], k: int) -> None:
    weights = to_weights(values)
    limit = max(np.sort(weights)[-min(k, len(weights))], 1)
    assert kept_by(keep_top_k, weights, k) == np.flatnonzero(weights >= limit).tolist()


@given(scores | tied_scores, st.floats(0.001, 0.999))
def test_top_p_keeps_the_smallest_nucleus(values: NDArray[np.float32], p: float) -> None:
    shares = probabilities(values)
    ids = kept_by(keep_top_p, to_weights(values), p)
    assert shares[ids].sum() >= p - 1e-9
    assert shares[ids][shares[ids] > shares[ids].min()].sum() < p + 1e-9
    assert (np.delete(shares, ids) < shares[ids].min()).all()


@given(scores | tied_scores, st.floats(0.001, 1))
def test_min_p_keeps_what_is_likely_enough(values: NDArray[np.float32], p: float) -> None:
    weights = to_weights(values)
    ids = kept_by(keep_min_p, weights, p)
    assert int(values.argmax()) in ids
    assert (weights[ids] >= p * MOST).all()
    assert (np.delete(weights, ids) < max(p * MOST, 1)).all()


numbers = st.integers(0, 2**64 - 1)


@given(scores | tied_scores)
def test_weights_are_powers_of_e(values: NDArray[np.float32]) -> None:
    weights = to_weights(values)
    expected = MOST * np.exp(values.astype(np.float64) - values.max())
    # Scores are rounded to float32, and weights to integers.
    assert (np.abs(weights - expected) <= 1 + 6e-6 * expected).all()
    assert weights.max() == MOST


@given(st.lists(st.integers(0, MOST), min_size=1, max_size=400), numbers)
def test_a_draw_is_the_quantile(values: list[int], number: int) -> None:
    weights = np.array([*values, 1], np.int32)
    index = draw(weights, number)
    whole, before = sum(weights.tolist()), sum(weights[:index].tolist())
    assert before * 2**64 <= number * whole < (before + int(weights[index])) * 2**64


def test_a_draw_never_passes_the_end() -> None:
    last = 2**64 - 1
    assert draw(np.array([3, 7], np.int32), last) == 1
    assert draw(np.array([1], np.int32), last) == 0
    assert draw(np.array([0, 1, 0], np.int32), 0) == 1
    weights = np.zeros(200, np.int32)
    weights[[70, 130]] = MOST
    assert draw(weights, last) == 130
    assert draw(weights, 0) == 70


@given(st.integers(0, 2**64), st.floats(0, 1))
def test_a_share_is_rounded_up(whole: int, p: float) -> None:
    assert share_of(whole, p) == math.ceil(Fraction(whole) * Fraction(int(p * 2**53), 2**53))


def test_random_numbers_are_those_of_splitmix64() -> None:
    """The numbers of Vigna's splitmix64.c from the state 1234567."""
    expected = (6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431)
    assert tuple(random_number(1234567, index) for index in range(4)) == expected


def test_without_a_seed_replies_differ() -> None:
    logits = np.zeros(4096, np.float32)
    first, second = make_sampler(), make_sampler()
    assert [first(logits) for _ in range(8)] != [second(logits) for _ in range(8)]


def test_temperature_zero_is_greedy_whatever_the_filters() -> None:
    sample = make_sampler(temperature=0, top_k=2, top_p=0.1, min_p=0.9, seed=3)
    assert sample is greedy
    assert sample(np.array([1.0, 3.0, 3.0, 2.0], np.float32)) == 1


def test_a_seed_gives_the_same_tokens_everywhere() -> None:
    """These tokens must never change."""
    sample = make_sampler(temperature=0.9, top_k=40, top_p=0.95, seed=42)
    logits = (np.arange(512, dtype=np.float32) * 37 % 521) / 64
    assert [sample(logits) for _ in range(8)] == [366, 84, 154, 183, 28, 436, 112, 394]


@given(st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=30))
def test_log_probabilities_are_those_of_pytorch(values: list[float]) -> None:
    expected = torch.log_softmax(torch.tensor(values, dtype=torch.float64), -1)
    own = log_probabilities(np.array(values, np.float32))
    np.testing.assert_allclose(own, expected.numpy(), atol=1e-9)


def test_logits_are_not_changed() -> None:
    logits = np.linspace(-2, 2, 64, dtype=np.float32)
    before = logits.copy()
    make_sampler(temperature=0.7, top_k=9, top_p=0.9, min_p=0.1, seed=0)(logits)
    penalize_repetition(logits, np.array([1, 50]), 1.5)
    log_probabilities(logits)
    assert np.array_equal(logits, before)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_logits_that_are_no_numbers_are_an_error(value: float, temperature: float) -> None:
    sample = make_sampler(temperature=temperature, seed=1)
    logits = np.linspace(-1, 1, 50, dtype=np.float32)
    logits[3] = -np.inf  # a token that is never drawn is none
    sample(logits)
    logits[7] = value
    with pytest.raises(GenerationError, match="not finite numbers"):
        sample(logits)
    with pytest.raises(GenerationError, match="not finite numbers"):
        sample(np.full(50, -np.inf, np.float32))
