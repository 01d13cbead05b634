"""From logits to a token: filters and samplers, composed from functions.

The order is that of transformers: repetition penalty, temperature, top-k, top-p, min-p, draw.

A weight is a token's probability up to a common factor, as an integer: the likeliest token has
`MOST`, and one that is `MOST` times less likely has 0 and is never drawn. Sums of integers are the
same in any order, and powers are computed here in float32, step by step: the native operator, which
samples by itself, chooses the same tokens. A filter sets weights `[N]` to 0 in
place, never all of them.

After a step of the model little of Python and NumPy is left in the processor's caches, so that here
the number of calls counts, and how much memory they touch.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from atom_edge.errors import GenerationError
from atom_edge.runtimes.engines.interface import Logits
from atom_edge.runtimes.options import GenerationOptions

Sampler = Callable[[Logits], int]
Ids = NDArray[np.intp]
Scores = NDArray[np.float64]
Weights = NDArray[np.int32]
Filter = Callable[[Weights], None]

MOST = 2**30

# Logits that are made weights together: larger arrays would be new memory from the system each.
_PART = 4096
# Weights that are summed together before one of them is looked for.
_BLOCK = 64
_LOG2_E = 1.4426950408889634
# A polynomial for 2**f, f from -0.5 to 0.5, within 2e-7 of it: degree 0 first.
_POWER = [
    np.float32(factor * MOST)
    for factor in (1.0, 0.693147004, 0.240222424, 0.0555073358, 0.00967151299, 0.00132647285)
]
# Adding it leaves a small number's nearest integer in the low bits.
_ROUNDER = np.float32(1.5 * 2**23)
# 2**-40 of the most is no weight at all.
_LOWEST = np.float32(-40)
_BITS = 2**64 - 1


def greedy(logits: Logits) -> int:
    """The most likely token; the first of several equal ones.

    Raises:
        GenerationError: if a logit is not a number, or the greatest is infinite.
    """
    token = int(logits.argmax())
    _check_finite(logits[token])
    return token


def _check_finite(most: np.float32) -> None:
    """Raise for the greatest of logits, which a NaN among them makes NaN."""
    if not math.isfinite(most):
        raise not_finite(f": the greatest is {most}")


def not_finite(detail: str = "") -> GenerationError:
    """The error of logits that no token can be chosen by."""
    return GenerationError(
        f"The model's logits are not finite numbers{detail}. Its weights are damaged or overflow; "
        "validate the bundle with: atom-edge validate"
    )


def make_sampler(options: GenerationOptions) -> Sampler:
    """Compose a sampler; at temperature 0 it is `greedy`, whatever the filters.

    With a seed the same logits give the same tokens on every platform: one number of
    `random_number` decides each token.
    """
    if options.temperature == 0:
        return greedy
    filters: list[Filter] = []
    if options.top_k:
        filters.append(lambda weights: keep_top_k(weights, options.top_k))
    if options.top_p < 1:
        filters.append(lambda weights: keep_top_p(weights, options.top_p))
    if options.min_p:
        filters.append(lambda weights: keep_min_p(weights, options.min_p))
    seed = random_seed() if options.seed is None else options.seed
    drawn = 0

    def sample(logits: Logits) -> int:
        nonlocal drawn
        weights = to_weights(logits, options.temperature)
        for keep in filters:
            keep(weights)
        drawn += 1
        return draw(weights, random_number(seed, drawn - 1))

    return sample


def random_seed() -> int:
    """A seed that nobody knows."""
    return int.from_bytes(os.urandom(8))


def random_number(seed: int, index: int) -> int:
    """Number `index` of a seed, both of 64 bits: from 0 to 2**64 - 1.

    Source: SplitMix64, Steele, Lea and Flood, "Fast splittable pseudorandom number generators",
    OOPSLA 2014.
    """
    z = (seed + (index + 1) * 0x9E3779B97F4A7C15) & _BITS
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & _BITS
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & _BITS
    return z ^ (z >> 31)


def to_weights(logits: Logits, temperature: float = 1.0) -> Weights:
    """The weights of logits `[N]`.

    Raises:
        GenerationError: if a logit is not a number, or the greatest is infinite.
    """
    most, sharpness = logits.max(), np.float32(_LOG2_E / temperature)
    _check_finite(most)
    weights = np.empty(len(logits), np.int32)
    for start in range(0, len(logits), _PART):
        part = slice(start, start + _PART)
        weights[part] = _powers_of_two((logits[part] - most) * sharpness)
    return weights


def sharpness_of(temperatures: NDArray[np.float64]) -> Logits:
    """What `to_weights` multiplies logits by; 0 for temperature 0."""
    cold = temperatures == 0
    return np.where(cold, 0, _LOG2_E / np.where(cold, 1, temperatures)).astype(np.float32)


def _powers_of_two(scores: Logits) -> Weights:
    """`MOST` * 2**scores for scores up to 0, which are overwritten.

    Every operation is one of float32, rounded once: what NumPy and C++ compute alike.
    """
    np.maximum(scores, _LOWEST, out=scores)
    rounded = scores + _ROUNDER
    scores -= rounded - _ROUNDER
    power = scores * _POWER[-1]
    for factor in _POWER[-2:0:-1]:
        power += factor
        power *= scores
    power += _POWER[0]
    # The whole part goes into the exponent.
    exponents = rounded.view(np.int32)
    exponents <<= 23
    bits = power.view(np.int32)
    bits += exponents
    return power.astype(np.int32)


def draw(weights: Weights, number: int) -> int:
    """Index of `weights` `[N]` at the quantile `number` / 2**64 of the distribution."""
    sums = np.add.reduceat(weights, _block_starts(len(weights)), dtype=np.int64).cumsum()
    target = number * int(sums[-1]) >> 64
    block = int(sums.searchsorted(target, side="right"))
    start = block * _BLOCK
    within = weights[start : start + _BLOCK].cumsum(dtype=np.int64)
    before = int(sums[block - 1]) if block else 0
    return start + int(within.searchsorted(target - before, side="right"))


@lru_cache(maxsize=1)
def _block_starts(size: int) -> Ids:
    return np.arange(0, size, _BLOCK)


def keep_top_k(weights: Weights, k: int) -> None:
    """Keep the k most likely, and all that are as likely as the last of them."""
    if k < len(weights):
        _keep_from(weights, int(np.partition(weights, -k)[-k]))


def keep_top_p(weights: Weights, p: float) -> None:
    """Keep the nucleus, and all that are as likely as the last of it.

    The nucleus is the fewest most likely candidates that hold the share p together (Holtzman et
    al., arXiv 1904.09751).
    """
    whole = int(weights.sum(dtype=np.int64))
    # Those below (1 - p) / N of the whole hold less than 1 - p together, so that the nucleus does
    # without them: few are left to sort.
    descending = np.sort(weights[weights >= int((1 - p) * whole / len(weights))])[::-1]
    held = descending.cumsum(dtype=np.int64)
    last = min(int(held.searchsorted(share_of(whole, p))), len(held) - 1)
    _keep_from(weights, int(descending[last]))


def keep_min_p(weights: Weights, p: float) -> None:
    """Keep what is at least p times as likely as the most likely one (arXiv 2407.01082)."""
    _keep_from(weights, share_of(int(weights.max()), p))


def share_of(whole: int, p: float) -> int:
    """The share p, from 0 to 1, of a whole, rounded up."""
    return -(-whole * int(p * 2**53) >> 53)


def _keep_from(weights: Weights, least: int) -> None:
    np.multiply(weights, weights >= least, out=weights)


def penalize_repetition(logits: Logits, seen: Ids, penalty: float) -> Logits:
    """Make tokens that occurred less likely: positive logits are divided, others multiplied.

    Source: CTRL, Keskar et al., arXiv 1909.05858.

    Args:
        logits: float32 `[vocab]`; not changed.
        seen: ids `[N]` of the tokens of the prompt and of the reply so far, each once.
        penalty: 1 for none; above it the less likely.
    """
    factor = logits.dtype.type(penalty)
    old = logits[seen]
    penalized = logits.copy()
    penalized[seen] = np.where(old > 0, old / factor, old * factor)
    return penalized


def log_probabilities(logits: Logits) -> Scores:
    """Log-softmax of logits `[..., vocab]`, in float64."""
    scores = logits.astype(np.float64)
    scores -= scores.max(axis=-1, keepdims=True)
    scores -= np.log(np.exp(scores).sum(axis=-1, keepdims=True))
    return scores
