"""Parts of the held-out text, fed to a graph in every way in which tokens may come.

Of any length, after others on the cache, in a padded batch, and one by one; what comes of them is
compared with PyTorch's logits of the same tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from atom_edge.evaluation.divergence import kl_divergence
from atom_edge.exporters.engine import Engine
from atom_edge.exporters.reference import Ids, Logits, Reference

LENGTHS = (1, 2, 3, 7, 16, 33, 64, 127)
SPLITS = ((1, 2), (5, 45), (100, 117), (150, 300))
# Windows that are also run in pieces.
ROWS = 3
_LONGEST_STEPPED = 257
_SHORTEST_OF_BATCHES, _LONGEST_OF_BATCHES = 8, 192

Samples = npt.NDArray[np.float64]


@dataclass
class Pieces:
    """Logits of parts of the first windows, compared with PyTorch's."""

    reference: Reference
    _largest: list[float] = field(default_factory=list)
    _kl: list[Samples] = field(default_factory=list)
    _tokens: list[tuple[int, int, int]] = field(default_factory=list)

    def add(self, row: int, start: int, logits: Logits) -> None:
        """Compare logits `[T, V]` of the tokens of window `row` from `start` on."""
        end = start + len(logits)
        expected = self.reference.logits(row)[start:end]
        self._largest.append(float(np.max(np.abs(logits - expected))))
        self._kl.append(kl_divergence(expected, logits))
        self._tokens.append((row, start, end))

    @property
    def largest(self) -> float:
        """The largest difference of a logit; NaN if one is."""
        return float(np.max(self._largest))

    @property
    def kl(self) -> Samples:
        """KL divergence of each token, `[N]`."""
        return np.concatenate(self._kl)

    def same_tokens_of(self, whole: Pieces) -> Samples:
        """KL divergence `[N]` of the same tokens where their windows were run at once."""
        return np.concatenate([whole._kl[row][start:end] for row, start, end in self._tokens])


def run_whole(engine: Engine, ids: Ids) -> Logits:
    """Logits `[T, V]` of tokens `[T]` that are fed together."""
    return engine.new_cache(1).append(ids[None], places=np.arange(len(ids)))


def _lengths(engine: Engine, pieces: Pieces) -> None:
    window = pieces.reference.windows[0]
    for length in (length for length in LENGTHS if length < len(window)):
        pieces.add(0, 0, run_whole(engine, window[:length]))


def _continued(engine: Engine, pieces: Pieces) -> None:
    window = pieces.reference.windows[0]
    for past, total in SPLITS:
        if past < total <= len(window):
            cache = engine.new_cache(1)
            cache.append(window[None, :past])
            new = window[None, past:total]
            pieces.add(0, past, cache.append(new, places=np.arange(new.size)))


def _batches(engine: Engine, pieces: Pieces) -> None:
    """Sequences of different lengths, twice some tokens and then one."""
    windows = pieces.reference.windows
    rows = [row % len(windows) for row in range(ROWS)]
    width = min(len(windows[0]), _LONGEST_OF_BATCHES)
    if width < _SHORTEST_OF_BATCHES:
        return
    cache = engine.new_cache(len(rows))
    held = np.zeros(len(rows), np.int64)
    for counts in (
        np.array([width // 2, width // 3, 1]),
        np.array([1, width // 4, max(1, width // 16)]),
    ):
        ids = np.zeros((len(rows), counts.max()), np.int64)
        for index, (row, start, count) in enumerate(zip(rows, held, counts, strict=True)):
            ids[index, :count] = windows[row][start : start + count]
        real = np.arange(ids.shape[1]) < counts[:, None]
        logits = cache.append(ids, counts, np.flatnonzero(real))
        parts = np.split(logits, np.cumsum(counts)[:-1])
        for row, start, part in zip(rows, held, parts, strict=True):
            pieces.add(row, int(start), part)
        held += counts
    logits = cache.step(np.array([windows[row][at] for row, at in zip(rows, held, strict=True)]))
    for row, at, part in zip(rows, held, logits.copy(), strict=True):
        pieces.add(row, int(at), part[None])


def _steps(engine: Engine, pieces: Pieces) -> None:
    """Single tokens from the first on, and behind many."""
    window = pieces.reference.windows[0][:_LONGEST_STEPPED]
    for begin, end in ((0, 33), (len(window) - 17, len(window))):
        cache = engine.new_cache(1)
        if begin > 0:
            cache.append(window[None, :begin])
        for at in range(max(begin, 0), min(end, len(window))):
            pieces.add(0, at, cache.step(window[at : at + 1]).copy())


WAYS: tuple[tuple[str, Callable[[Engine, Pieces], None]], ...] = (
    ("lengths", _lengths),
    ("continued", _continued),
    ("batches", _batches),
    ("steps", _steps),
)
