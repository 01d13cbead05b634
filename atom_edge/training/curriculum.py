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
    """A source's windows in a new order each epoch, cut at another place each epoch."""

    def __init__(self, tokens: Tokens, context: int, seed: tuple[int, ...]) -> None:
        self._tokens = tokens
        self._context = context
        self._seed = seed
        self._count = (len(tokens) - context) // context
        self._epoch = -1

    def take(self, first: int, count: int) -> Tokens:
        """Windows number `first` to `first + count` of the run, `[count, context + 1]`."""
        windows = np.empty((count, self._context + 1), dtype=np.uint16)
        for row, number in enumerate(range(first, first + count)):
            epoch, index = divmod(number, self._count)
            if epoch != self._epoch:
                chance = np.random.default_rng((*self._seed, epoch))
                self._offset = int(chance.integers(self._context))
                self._order = chance.permutation(self._count)
                self._epoch = epoch
            begin = self._offset + self._order[index] * self._context
            windows[row] = self._tokens[begin : begin + self._context + 1]
        return windows


def batches(
    recipe: Recipe, counts: Counts, caches: Sequence[TokenCache], first_step: int = 0
) -> Iterator[Tokens]:
    """Yield each step's windows from `first_step` on, uint16 `[batch, context + 1]`.

    A window's last token is the next one's first, so that every token is predicted once an epoch.
    """
    sources = [
        _Shuffled(cache.train, recipe.context, (recipe.seed, number))
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
