"""Log-likelihoods of continuations, in batches, with what options share computed once.

The options of a question have the same context. It is run once, and its cache is handed to each
of the options, so that a context costs as much as one option.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray

from atom_edge.evaluation.models import Cache, Graph, Ids

# Rows times columns of one run: large enough for full products, small enough for 8 GB.
_BATCH_TOKENS = 4096
TokenIds = Sequence[int]
Score = tuple[float, bool]


@dataclass(frozen=True)
class _Question:
    """Continuations of one context: `options` are (number of the request, its tokens)."""

    prefix: tuple[int, ...]  # the context without its last token
    last: int  # the context's last token, which is fed with the options
    options: list[tuple[int, TokenIds]]

    @property
    def width(self) -> int:
        return max(len(tokens) for _, tokens in self.options)


def score(
    graph: Graph,
    requests: Sequence[tuple[TokenIds, TokenIds]],
    context_length: int,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Score]:
    """Sum of log-probabilities of each continuation, and whether each token is the likeliest.

    Args:
        graph: the model.
        requests: (context, continuation) token ids; neither is empty. What is longer than the
            model's context loses tokens of the context's beginning.
        context_length: tokens that the model takes at most.
        progress: told how many requests have been done since the last call.

    Returns:
        (natural logarithm, is greedy) of each request, in their order.
    """
    results: list[Score] = [(0.0, False)] * len(requests)
    for batch in _batches(_questions(requests, context_length)):
        for number, result in _score_batch(graph, batch):
            results[number] = result
        progress(sum(len(question.options) for question in batch))
    return results


def _questions(
    requests: Sequence[tuple[TokenIds, TokenIds]], context_length: int
) -> list[_Question]:
    grouped: dict[tuple[int, ...], list[tuple[int, TokenIds]]] = defaultdict(list)
    for number, (context, continuation) in enumerate(requests):
        # All tokens but the last are fed, so that one more than the context can be scored.
        scored = tuple(continuation[-context_length:])
        whole = (*context, *continuation)[-(context_length + 1) :]
        grouped[whole[: len(whole) - len(scored)]].append((number, scored))
    return [_Question(context[:-1], context[-1], options) for context, options in grouped.items()]


def _batches(questions: list[_Question]) -> Iterator[list[_Question]]:
    """Questions of similar lengths together; those without a prefix apart from the others."""
    ordered = sorted(questions, key=lambda q: (len(q.prefix) > 0, len(q.prefix) // 8, q.width))
    for _, group in groupby(ordered, key=lambda q: len(q.prefix) > 0):
        batch: list[_Question] = []
        rows = prefix = width = 0
        for question in group:
            rows += len(question.options)
            prefix = max(prefix, len(question.prefix))
            width = max(width, question.width)
            cost = max(rows * width, (len(batch) + 1) * prefix, rows * (prefix + width) // 4)
            if batch and cost > _BATCH_TOKENS:
                yield batch
                batch, rows = [], len(question.options)
                prefix, width = len(question.prefix), question.width
            batch.append(question)
        yield batch


def _score_batch(graph: Graph, batch: list[_Question]) -> Iterator[tuple[int, Score]]:
    cache, prefix_mask = _run_prefixes(graph, batch)
    rows = [
        (index, number, question.last, tokens)
        for index, question in enumerate(batch)
        for number, tokens in question.options
    ]
    width = max(len(tokens) for *_, tokens in rows)
    ids = np.zeros((len(rows), width), np.int64)
    targets = np.full((len(rows), width), -1, np.int64)
    starts = np.zeros((len(rows), 1), np.int64)
    for row, (index, _, last, tokens) in enumerate(rows):
        ids[row, : len(tokens)] = [last, *tokens[:-1]]
        targets[row, : len(tokens)] = tokens
        starts[row] = len(batch[index].prefix)
    owners = np.array([index for index, *_ in rows])
    # What lies to the right of a row's tokens is never attended to by them.
    mask = np.concatenate([prefix_mask[owners], np.ones_like(ids)], axis=1)
    real = np.arange(width) * (targets >= 0)
    logits, _ = graph.run(ids, mask, [tensor[owners] for tensor in cache], starts + real)
    sums, greedy = _sum_log_probabilities(logits, targets)
    for row, (_, number, *_) in enumerate(rows):
        yield number, (float(sums[row]), bool(greedy[row]))


def _run_prefixes(graph: Graph, batch: list[_Question]) -> tuple[Cache, Ids]:
    """The cache of each question's prefix, padded on the left, and the mask of its tokens."""
    width = max(len(question.prefix) for question in batch)
    cache = graph.empty_cache(len(batch))
    ids = np.zeros((len(batch), width), np.int64)
    mask = np.zeros_like(ids)
    for row, question in enumerate(batch):
        if question.prefix:
            ids[row, -len(question.prefix) :] = question.prefix
            mask[row, -len(question.prefix) :] = 1
    if width:
        positions = np.maximum(mask.cumsum(axis=1) - 1, 0)
        _, cache = graph.run(ids, mask, cache, positions)
    return cache, mask


def _sum_log_probabilities(
    logits: NDArray[np.float32], targets: Ids
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Sums over each row's targets (-1 is none), and whether all of them are the likeliest."""
    scored = torch.from_numpy(targets) >= 0
    rows, wanted = torch.from_numpy(logits)[scored], torch.from_numpy(targets)[scored]
    chosen = rows.gather(1, wanted[:, None]).squeeze(1)
    sums = torch.zeros(targets.shape, dtype=torch.float64)
    sums[scored] = (chosen - rows.logsumexp(dim=1)).double()
    right = torch.ones(targets.shape, dtype=torch.bool)
    right[scored] = rows.argmax(dim=1) == wanted
    return sums.sum(dim=1).numpy(), right.all(dim=1).numpy()
