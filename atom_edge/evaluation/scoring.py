"""Log-likelihoods of continuations, in batches, with what options share computed once.

The options of a question have the same context. It is run once, and its cache is handed to each
of the options, so that a context costs as much as one option.

    requests -> options, those of one context together -> groups -> runs

A group is what one worker does at a time: its contexts, then its options, shortest first, so that
little of a run is padding.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from atom_edge.evaluation.models import Model
from atom_edge.runtimes.engines.interface import Engine, Ids, Logits, Tensors

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
    prefixes = list(dict.fromkeys(option.prefix for option in group))
    owners = {prefix: row for row, prefix in enumerate(prefixes)}
    lengths = np.array([len(prefix) for prefix in prefixes])
    cache = _run_prefixes(engine, prefixes)
    results: dict[_Option, Score] = {}
    options = sorted(group, key=lambda option: len(option.fed))
    for part in _runs(engine, [len(option.fed) for option in options]):
        run = options[part]
        rows = np.array([owners[option.prefix] for option in run])
        before = lengths[rows]
        options_cache = engine.new_cache(len(run))
        if before.any():
            options_cache.write([tensor[rows, :, : before.max()] for tensor in cache], before)
        wanted = _padded([option.wanted for option in run], -1)
        places = np.flatnonzero(wanted >= 0)
        logits = options_cache.append(_padded([option.fed for option in run]), places=places)
        starts = np.cumsum([0, *(len(option.fed) for option in run[:-1])])
        sums, greedy = _log_likelihoods(logits, wanted.ravel()[places], starts)
        results |= zip(run, zip(sums.tolist(), greedy.tolist(), strict=True), strict=True)
    return results


def _run_prefixes(engine: Engine, prefixes: Sequence[TokenIds]) -> Tensors:
    """The cache `[Q, K, P, D]` of each prefix, filled up on the right; empty if all are.

    Args:
        engine: runs the model.
        prefixes: the longest first.
    """
    cache: Tensors = []
    filled = [prefix for prefix in prefixes if prefix]
    for run in _runs(engine, [len(prefix) for prefix in filled]):
        ids = _padded(filled[run])
        beginnings = engine.new_cache(len(ids))
        beginnings.append(ids, places=np.zeros(0, np.int64))
        parts = beginnings.read(ids.shape[1])
        if not cache:
            batch, length = len(prefixes), len(prefixes[0])
            shapes = ((batch, part.shape[1], length, part.shape[3]) for part in parts)
            cache = [np.zeros(s, part.dtype) for s, part in zip(shapes, parts, strict=True)]
        for whole, part in zip(cache, parts, strict=True):
            whole[run, :, : part.shape[2]] = part
    return cache


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
