"""What caches that are written in place have in common: steps over arrays that are bound once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np

from atom_edge.runtimes.engines.interface import Ids, Logits, check_fit


class SteppingCache(ABC):
    """The part of a `Cache` that appends one token to each sequence.

    Attributes:
        lengths: int64 `[B]`, the tokens of each sequence.
    """

    def __init__(self, batch_size: int, vocab_size: int, context_length: int) -> None:
        self._batch_size = batch_size
        self._context_length = context_length
        self.lengths = np.zeros(batch_size, np.int64)
        self._one_token = np.zeros((batch_size, 1), np.int64)
        self._last_places = np.arange(batch_size)
        self._logits = np.zeros((batch_size, vocab_size), np.float32)
        # Runs a step over what is bound; None once that is no longer the cache's memory.
        self._step: Callable[[], None] | None = None

    def step(self, token_ids: Ids) -> Logits:
        """See `Cache`."""
        if self._step is None or (self.lengths >= self._room).any():
            check_fit(int(self.lengths.max()), 1, self._context_length)
            self._make_room(self.lengths + 1)
            self._step = self._step or self._bind_step()
        self._one_token[:, 0] = token_ids
        self._step()
        self.lengths += 1
        return self._logits

    @property
    @abstractmethod
    def _room(self) -> Ids:
        """int64 `[B]` or `[1]`: tokens of each sequence, or of any, that there is room for."""

    @abstractmethod
    def _make_room(self, lengths: Ids) -> None:
        """Let there be room for so many tokens of each sequence, int64 `[B]`."""

    @abstractmethod
    def _bind_step(self) -> Callable[[], None]:
        """Bind `_one_token`, `lengths` and `_logits`; the function returned runs a step."""
