"""Perplexity on text, and how far a bundle's predictions are from its snapshot's.

Text is cut into windows of the model's context, each predicted from its own beginning, as
llama.cpp's perplexity tool does for KL divergence.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from atom_edge.errors import EvaluationError
from atom_edge.evaluation.divergence import Divergence, Estimate
from atom_edge.evaluation.models import Model
from atom_edge.evaluation.progress import progress_bar
from atom_edge.evaluation.results import Result
from atom_edge.runtimes.engines.interface import Ids, Logits

_TASK = "perplexity"
_PERCENTILES = (50, 90, 99, 99.9)


def perplexity(
    model: Model, text: str, against: Model | None = None, limit: int | None = None
) -> list[Result]:
    """Perplexity of `model` on `text`; with `against`, also what divides the two.

    Args:
        model: what is measured.
        text: running text, at least one window of it.
        against: the model that `model` was made from, with the same tokenizer.
        limit: only so many windows.

    Returns:
        Perplexity; with `against` also its perplexity, the ratio, the mean KL divergence (nats)
        with percentiles, and the share of equal top tokens, over all tokens and by position.
    """
    windows = list(_windows(model, text))[:limit]
    divergence = Divergence()
    positions: list[Ids] = []
    with progress_bar(len(windows)) as progress:
        for window in windows:
            logits = _predict(model, window)
            reference = logits if against is None else _predict(against, window)
            divergence.add(reference, logits, window[1:])
            positions.append(np.arange(len(window) - 1))
            progress(1)
    results = [_result("perplexity", divergence.perplexity, divergence.tokens)]
    if against is not None:
        results += _comparison(divergence, np.concatenate(positions), model.context_length)
    return results


def _windows(model: Model, text: str) -> Iterator[Ids]:
    ids = np.array(model.tokenizer.encode(text), dtype=np.int64)
    if len(ids) < model.context_length:
        raise EvaluationError(
            f"The text has {len(ids)} tokens, fewer than one window of {model.context_length}."
        )
    for start in range(0, len(ids) - model.context_length + 1, model.context_length):
        yield ids[start : start + model.context_length]


def _predict(model: Model, window: Ids) -> Logits:
    """Logits of what follows all but the last token, `[T - 1, V]`."""
    ids = window[None, :-1]
    return model.engine.new_cache().append(ids, places=np.arange(ids.size))


def _comparison(divergence: Divergence, positions: Ids, context: int) -> list[Result]:
    tokens = divergence.tokens
    kl, same = np.concatenate(divergence.kl), np.concatenate(divergence.same_top)
    results = [
        _result("perplexity of the snapshot", divergence.reference_perplexity, tokens),
        _result("perplexity ratio", divergence.perplexity_ratio, tokens),
        _result("mean KL", divergence.mean_kl, tokens),
        _result("same top token", divergence.same_top_token, tokens),
    ]
    results += [
        Result(_TASK, f"KL, percentile {q:g}", float(np.percentile(kl, q)), math.nan, tokens)
        for q in _PERCENTILES
    ]
    for first, last in _position_ranges(context):
        here = (positions >= first) & (positions < last)
        name, count = f"{_TASK}, tokens {first}-{last - 1}", int(here.sum())
        results.append(_result("mean KL", Estimate.of(kl[here]), count, name))
        results.append(_result("same top token", Estimate.of(same[here]), count, name))
    return results


def _position_ranges(context: int) -> list[tuple[int, int]]:
    """Places of a window: the first few tokens, then ranges that double."""
    bounds = [0, *(size for size in (16, 64, 128, 256) if size < context), context]
    return list(pairwise(bounds))


def _result(metric: str, estimate: Estimate, count: int, task: str = _TASK) -> Result:
    return Result(task, metric, estimate.value, estimate.standard_error, count)
