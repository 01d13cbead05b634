"""From logits to a token: filters and samplers, composed from functions.

The order is that of transformers: repetition penalty, temperature, top-k, top-p, min-p, draw.

A filter takes and returns candidates: ids `[N]` in rising order, and their logits `[N]`, float32 or
float64, divided by the temperature already. Each keeps at least one candidate.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from atom_edge.runtimes.decoder import Logits

Sampler = Callable[[Logits], int]
Ids = NDArray[np.intp]
Scores = NDArray[np.floating]
Filter = Callable[[Ids, Scores], tuple[Ids, Scores]]


def greedy(logits: Logits) -> int:
    """The most likely token; the first of several equal ones."""
    return int(logits.argmax())


def make_sampler(
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    seed: int | None = None,
) -> Sampler:
    """Compose a sampler; at temperature 0 it is `greedy`, whatever the filters.

    With a seed the same logits give the same tokens on every platform: one uniform number from
    NumPy's PCG64 decides each token.

    Args:
        temperature: divides the logits; 0 for greedy.
        top_k: see `keep_top_k`; 0 for all.
        top_p: see `keep_top_p`; 1 for all.
        min_p: see `keep_min_p`; 0 for all.
        seed: of the generator; None for one that the system chooses.
    """
    if temperature == 0:
        return greedy
    filters: list[Filter] = []
    if top_k:
        filters.append(lambda ids, scores: keep_top_k(ids, scores, top_k))
    if top_p < 1:
        filters.append(lambda ids, scores: keep_top_p(ids, scores, top_p))
    if min_p:
        filters.append(lambda ids, scores: keep_min_p(ids, scores, min_p))
    uniform = np.random.Generator(np.random.PCG64(seed)).random

    # A division would turn the logits to float64, which takes four times as long.
    sharpness = np.float32(1 / temperature)

    def sample(logits: Logits) -> int:
        scores: Scores = logits * sharpness
        ids = _all_ids(len(scores))
        for keep in filters:
            ids, scores = keep(ids, scores)
        return int(ids[draw(probabilities(scores), uniform())])

    return sample


@lru_cache(maxsize=1)
def _all_ids(size: int) -> Ids:
    ids = np.arange(size)
    ids.flags.writeable = False
    return ids


def probabilities(scores: Scores) -> Scores:
    """Softmax of logits `[N]`, in their type."""
    weights = scores - scores.max()
    np.exp(weights, out=weights)
    weights /= weights.sum()
    return weights


def draw(weights: Scores, uniform: float) -> int:
    """Index of `weights` `[N]` at the quantile `uniform`, in [0, 1), of the distribution."""
    # In float64: a running sum of thousands of float32 drifts.
    cumulative = weights.cumsum(dtype=np.float64)
    index = int(cumulative.searchsorted(uniform * cumulative[-1], side="right"))
    return min(index, len(weights) - 1)  # the product may round up to the sum itself


def keep_top_k(ids: Ids, scores: Scores, k: int) -> tuple[Ids, Scores]:
    """Keep the k most likely, and all that are as likely as the last of them."""
    if k >= len(scores):
        return ids, scores
    return _take(ids, scores, scores >= np.partition(scores, -k)[-k])


def keep_top_p(ids: Ids, scores: Scores, p: float) -> tuple[Ids, Scores]:
    """Keep the nucleus, and all that are as likely as the last of it.

    The nucleus is the fewest most likely candidates that hold the share p together (Holtzman et
    al., arXiv 1904.09751).
    """
    weights = probabilities(scores)
    # Those below (1 - p) / N hold less than 1 - p together, so that the nucleus does without
    # them: few are left to sort.
    descending = np.sort(weights[weights >= (1 - p) / len(weights)])[::-1]
    last = min(int(descending.cumsum().searchsorted(p)), len(descending) - 1)
    return _take(ids, scores, weights >= descending[last])


def keep_min_p(ids: Ids, scores: Scores, p: float) -> tuple[Ids, Scores]:
    """Keep what is at least p times as likely as the most likely one (arXiv 2407.01082)."""
    return _take(ids, scores, scores >= float(scores.max()) + math.log(p))


def _take(ids: Ids, scores: Scores, kept: NDArray[np.bool_]) -> tuple[Ids, Scores]:
    places = kept.nonzero()[0]  # searched once, and not for each of the two
    return ids[places], scores[places]


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
    """Log-softmax of logits `[vocab]`, in float64."""
    scores = logits.astype(np.float64)
    scores -= scores.max()
    scores -= np.log(np.exp(scores).sum())
    return scores
