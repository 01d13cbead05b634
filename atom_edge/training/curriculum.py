"""Which window of which source is seen at which step.

The whole order is a function of the seed, so that a run that continues at some step sees what it
would have seen without the break.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from atom_edge.training.cache import TokenCache, Tokens
from atom_edge.training.recipe import Recipe
from atom_edge.training.sources import batched

Counts = npt.NDArray[np.int64]


def plan(recipe: Recipe) -> Counts:
    """Windows of each source at each step, int64 `[steps, sources]`.

    Each row is drawn with the shares of its moment, which go linearly from start to end, and adds
    up to the batch.
    """
    start = np.array([source.start for source in recipe.sources])
    end = np.array([source.end for source in recipe.sources])
    moment = np.linspace(0, 1, recipe.steps)[:, None]
    shares = start * (1 - moment) + end * moment
    shares /= shares.sum(axis=1, keepdims=True)
    return np.random.default_rng(recipe.seed).multinomial(recipe.batch_windows, shares)


class _Shuffled:
    """A source's windows in a new order each epoch, cut at another place each epoch.

    Of the windows that hold the start of a document, `aligned_share` is moved to begin there: a
    prompt is the beginning of a text with nothing before it, and windows cut anywhere seldom are.
    """

    def __init__(
        self, cache: TokenCache, context: int, aligned_share: float, seed: tuple[int, ...]
    ) -> None:
        self._tokens = cache.train
        self._starts = cache.document_starts
        self._context = context
        self._aligned_share = aligned_share
        self._seed = seed
        self._count = (len(self._tokens) - context) // context
        self._epoch = -1

    def take(self, first: int, count: int) -> Tokens:
        """Windows number `first` to `first + count` of the run, `[count, context + 1]`."""
        numbers = np.arange(first, first + count)
        epochs = numbers // self._count
        begins = np.empty(count, dtype=np.int64)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            begins[here] = self._epoch_begins(int(epoch))[numbers[here] % self._count]
        windows: Tokens = self._tokens[begins[:, None] + np.arange(self._context + 1)]
        return windows

    def _epoch_begins(self, epoch: int) -> Counts:
        if epoch != self._epoch:
            self._begins = self._cut(epoch)
            self._epoch = epoch
        return self._begins

    def _cut(self, epoch: int) -> Counts:
        """Where the windows of `epoch` begin, in their order, int64 `[windows]`."""
        chance = np.random.default_rng((*self._seed, epoch))
        offset = chance.integers(self._context)
        begins = offset + chance.permutation(self._count) * self._context
        following = np.searchsorted(self._starts, begins).clip(max=len(self._starts) - 1)
        starts = self._starts[following]
        within = (starts >= begins) & (starts < begins + self._context)
        movable = within & (starts + self._context < len(self._tokens))
        moved = movable & (chance.random(self._count) < self._aligned_share)
        return np.where(moved, starts, begins)


def batches(
    recipe: Recipe, counts: Counts, caches: Sequence[TokenCache], first_step: int = 0
) -> Iterator[Tokens]:
    """Yield each step's windows from `first_step` on, uint16 `[batch, context + 1]`.

    A window's last token is the next one's first, so that every token is predicted once an epoch,
    but for what a window that was moved to a document's start leaves out before it.
    """
    sources = [
        _Shuffled(cache, recipe.context, recipe.aligned_share, (recipe.seed, number))
        for number, cache in enumerate(caches)
    ]
    taken = counts[:first_step].sum(axis=0)
    for row in counts[first_step:]:
        parts = [
            source.take(int(begin), int(count))
            for source, begin, count in zip(sources, taken, row, strict=True)
        ]
        taken = taken + row
        yield np.concatenate(parts)


def validation_batches(tokens: Tokens, context: int, windows: int) -> Iterator[Tokens]:
    """Yield the held-out windows in order, `windows` at once; the last batch may be smaller."""
    starts = range(0, len(tokens) - context, context)
    for begins in batched(starts, windows):
        yield np.stack([tokens[begin : begin + context + 1] for begin in begins])
