"""From logits to a token: filters and samplers, composed from functions.

The order is that of transformers: repetition penalty, temperature, top-k, top-p, min-p, draw.

A weight is a token's probability up to a common factor. A filter sets weights `[N]` to 0 in place,
never all of them. After a step of the model little of Python and NumPy is left in the processor's
caches, so that here the number of calls counts, and how much memory they touch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from atom_edge.runtimes.engines.interface import Logits
from atom_edge.runtimes.options import GenerationOptions

Sampler = Callable[[Logits], int]
Ids = NDArray[np.intp]
Scores = NDArray[np.float64]
Weights = NDArray[np.floating]
Filter = Callable[[Weights], None]

# Weights that are summed together before one of them is looked for.
_BLOCK = 64


def greedy(logits: Logits) -> int:
    """The most likely token; the first of several equal ones."""
    return int(logits.argmax())


def make_sampler(options: GenerationOptions) -> Sampler:
    """Compose a sampler; at temperature 0 it is `greedy`, whatever the filters.

    With a seed the same logits give the same tokens on every platform: one uniform number from
    NumPy's PCG64 decides each token. The repetition penalty is not part of it.
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
    uniform = np.random.Generator(np.random.PCG64(options.seed)).random
    # A division would turn the logits to float64, which takes four times as long.
    sharpness = np.float32(1 / options.temperature)

    def sample(logits: Logits) -> int:
        weights: Weights = logits * sharpness
        to_weights(weights)
        for keep in filters:
            keep(weights)
        return draw(weights, uniform())

    return sample


def to_weights(scores: Weights) -> None:
    """Make logits `[N]` weights in place; the largest becomes 1."""
    np.subtract(scores, scores.max(), out=scores)
    np.exp(scores, out=scores)


def draw(weights: Weights, uniform: float) -> int:
    """Index of `weights` `[N]` at the quantile `uniform`, in [0, 1), of the distribution."""
    sums = np.add.reduceat(weights, _block_starts(len(weights)), dtype=np.float64)
    block, rest = _search(sums, uniform)
    start = block * _BLOCK
    within, _ = _search(weights[start : start + _BLOCK], rest)
    return start + within


def _search(weights: Weights, share: float) -> tuple[int, float]:
    """The index at which the running sum passes `share` of the whole.

    Returns:
        the index, whose weight is not 0, and the share of that weight alone that was passed.
    """
    cumulative = weights.cumsum(dtype=np.float64)
    whole = float(cumulative[-1])
    # The product may round up to the whole itself, which no weight passes.
    target = min(share * whole, math.nextafter(whole, 0))
    index = int(cumulative.searchsorted(target, side="right"))
    before = float(cumulative[index - 1]) if index else 0.0
    return index, (target - before) / (float(cumulative[index]) - before)


@lru_cache(maxsize=1)
def _block_starts(size: int) -> Ids:
    return np.arange(0, size, _BLOCK)


def keep_top_k(weights: Weights, k: int) -> None:
    """Keep the k most likely, and all that are as likely as the last of them."""
    if k < len(weights):
        _keep_from(weights, np.partition(weights, -k)[-k])


def keep_top_p(weights: Weights, p: float) -> None:
    """Keep the nucleus, and all that are as likely as the last of it.

    The nucleus is the fewest most likely candidates that hold the share p together (Holtzman et
    al., arXiv 1904.09751).
    """
    whole = float(weights.sum())
    # Those below (1 - p) / N of the whole hold less than 1 - p together, so that the nucleus does
    # without them: few are left to sort.
    descending = np.sort(weights[weights >= (1 - p) * whole / len(weights)])[::-1]
    last = min(int(descending.cumsum().searchsorted(p * whole)), len(descending) - 1)
    _keep_from(weights, descending[last])


def keep_min_p(weights: Weights, p: float) -> None:
    """Keep what is at least p times as likely as the most likely one (arXiv 2407.01082)."""
    _keep_from(weights, p * float(weights.max()))


def _keep_from(weights: Weights, least: float) -> None:
    np.multiply(weights, weights >= least, out=weights)


def penalize_repetition(logits: Logits, seen: Ids, penalty: float) -> Logits:
    """Make tokens that occurred less likely: positive logits are divided, others multiplied.

    Source: CTRL, Keskar et al., arXiv 1909.05858.

    Args:
        logits: float32 `[vocab]`; not changed.
        seen: ids `[N]` of the tokens of the prompt and of the reply so far, each once.
        penalty: 1 for none; above it the less likely.
    """
    old = logits[seen]
    penalized = logits.copy()
    penalized[seen] = np.where(old > 0, old / penalty, old * penalty)
    return penalized


def log_probabilities(logits: Logits) -> Scores:
    """Log-softmax of logits `[..., vocab]`, in float64."""
    scores = logits.astype(np.float64)
    scores -= scores.max(axis=-1, keepdims=True)
    scores -= np.log(np.exp(scores).sum(axis=-1, keepdims=True))
    return scores
