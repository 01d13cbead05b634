"""Log-likelihoods of continuations, in batches, with what options share computed once.

The options of a question have the same context. It is run once, and each option goes on in a copy
of its cache: a context costs as much as one option.

    requests -> options, those of one context together -> groups -> runs

A group is what one worker does at a time: its contexts, then its options, shortest first, so that
little of a run is padding.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from atom_edge.evaluation.models import Model
from atom_edge.runtimes.engines.interface import Cache, Engine, Ids, Logits

# Tokens of one run: enough for full products, few enough to stay in a core's own cache.
_RUN_TOKENS = 512
# Tokens of a group: with more there is less padding, and more memory is held for contexts.
_GROUP_TOKENS = 8192
TokenIds = tuple[int, ...]
Score = tuple[float, bool]


class _Option(NamedTuple):
    """A continuation, cut into what is shared, what is fed and what should come out.

    `fed` is the last token of the context and all of `wanted` but its last: equally many.
    """

    prefix: TokenIds
    fed: TokenIds
    wanted: TokenIds


def score(
    model: Model,
    requests: Sequence[tuple[Sequence[int], Sequence[int]]],
    progress: Callable[[int], None] = lambda done: None,
) -> list[Score]:
    """Sum of log-probabilities of each continuation, and whether each token is the likeliest.

    Args:
        model: what is scored.
        requests: (context, continuation) token ids; an empty context is a document's beginning.
            What is longer than the model's context loses tokens at its start.
        progress: told how many requests have been done since the last call.

    Returns:
        (natural logarithm, is greedy) of each request, in their order; (0, True) for nothing.
    """
    results: list[Score] = [(0.0, True)] * len(requests)
    numbers: dict[_Option, list[int]] = defaultdict(list)
    for number, (context, continuation) in enumerate(requests):
        if continuation:
            option = _option(context or [model.prefix_token], continuation, model.context_length)
            numbers[option].append(number)
    groups = list(_groups(numbers, model.context_length))
    with ThreadPoolExecutor(model.threads) as workers:
        for scored in workers.map(partial(_score_group, model.engine), groups):
            for option, result in scored.items():
                for number in numbers[option]:
                    results[number] = result
            progress(sum(len(numbers[option]) for option in scored))
    return results


def _option(context: Sequence[int], continuation: Sequence[int], context_length: int) -> _Option:
    # The last token is not fed, so that one more than the context can be scored.
    wanted = tuple(continuation[-context_length:])
    fed = (*context, *continuation)[-(context_length + 1) : -1]
    split = len(fed) - len(wanted)
    return _Option(fed[:split], fed[split:], wanted)


def _groups(options: Iterable[_Option], context_length: int) -> Iterator[list[_Option]]:
    """Options of like prefixes together, those of the longest first, which take longest."""
    ordered = sorted(options, key=lambda o: (len(o.prefix), o.prefix, len(o.fed)), reverse=True)
    group: list[_Option] = []
    tokens = width = 0
    for option in ordered:
        new = not group or option.prefix != group[-1].prefix
        tokens += len(option.fed) + len(option.prefix) * new
        width = max(width, len(option.fed))
        # The first has the longest prefix; a row of it with the widest option must fit.
        if group and (tokens > _GROUP_TOKENS or len(group[0].prefix) + width > context_length):
            yield group
            group = []
            tokens, width = len(option.prefix) + len(option.fed), len(option.fed)
        group.append(option)
    if group:
        yield group


def _score_group(engine: Engine, group: Sequence[_Option]) -> dict[_Option, Score]:
    by_prefix: dict[TokenIds, list[_Option]] = defaultdict(list)
    for option in group:
        by_prefix[option.prefix].append(option)
    prefixes = list(by_prefix)
    results: dict[_Option, Score] = {}
    for part in _runs(engine, [len(prefix) for prefix in prefixes]):
        run = prefixes[part]
        beginnings = _run_prefixes(engine, run)
        rows = {prefix: row for row, prefix in enumerate(run)}
        options = [option for prefix in run for option in by_prefix[prefix]]
        results |= _score_options(engine, beginnings, rows, options)
    return results


def _run_prefixes(engine: Engine, prefixes: Sequence[TokenIds]) -> Cache:
    """A cache of each prefix."""
    lengths = np.array([len(prefix) for prefix in prefixes])
    cache = engine.new_cache(len(prefixes))
    if lengths.any():
        # A run appends a token to each sequence at least.
        counts = np.maximum(lengths, 1)
        cache.append(_padded(prefixes), counts, places=np.zeros(0, np.int64))
        cache.crop(lengths)
    return cache


def _score_options(
    engine: Engine, beginnings: Cache, rows: Mapping[TokenIds, int], options: Sequence[_Option]
) -> dict[_Option, Score]:
    """Score options, each after its prefix, which is a row of `beginnings`."""
    results: dict[_Option, Score] = {}
    ordered = sorted(options, key=lambda option: len(option.fed))
    for part in _runs(engine, [len(option.fed) for option in ordered]):
        run = ordered[part]
        cache = beginnings.fork(np.array([rows[option.prefix] for option in run]))
        wanted = _padded([option.wanted for option in run], -1)
        places = np.flatnonzero(wanted >= 0)
        logits = cache.append(_padded([option.fed for option in run]), places=places)
        starts = np.cumsum([0, *(len(option.fed) for option in run[:-1])])
        sums, greedy = _log_likelihoods(logits, wanted.ravel()[places], starts)
        results |= zip(run, zip(sums.tolist(), greedy.tolist(), strict=True), strict=True)
    return results


def _runs(engine: Engine, lengths: Sequence[int]) -> Iterator[slice]:
    """Cut rows of these lengths, which are sorted, into what one run takes."""
    most = _RUN_TOKENS if engine.batches else 1
    first = width = 0
    for row, length in enumerate(lengths):
        width = max(width, length)
        if row > first and (row + 1 - first) * width > most:
            yield slice(first, row)
            first, width = row, length
    if lengths:
        yield slice(first, len(lengths))


def _padded(rows: Sequence[TokenIds], filler: int = 0) -> Ids:
    """int64 `[B, T]`, filled up on the right."""
    padded = np.full((len(rows), max(map(len, rows))), filler, np.int64)
    for row, tokens in enumerate(rows):
        padded[row, : len(tokens)] = tokens
    return padded


def _log_likelihoods(
    logits: Logits, wanted: Ids, starts: Ids
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Sums over the rows that begin at `starts`, and whether all tokens are the likeliest.

    Args:
        logits: float32 `[N, V]`.
        wanted: int64 `[N]`, the tokens that came.
        starts: int64 `[B]`, where each row's part of N begins.
    """
    normalizers = torch.from_numpy(logits).logsumexp(dim=1).numpy()  # twice as fast as numpy
    chosen = np.take_along_axis(logits, wanted[:, None], axis=1)[:, 0]
    sums = np.add.reduceat((chosen - normalizers).astype(np.float64), starts)
    greedy = np.logical_and.reduceat(logits.argmax(axis=1) == wanted, starts)
    return sums, greedy
