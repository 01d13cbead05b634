"""Which pages of an array belong to which sequence of a cache."""

from __future__ import annotations

import numpy as np

from atom_edge.runtimes.engines.interface import Ids

PAGE_TOKENS = 16
# Pages that a sequence gets at a time.
_AT_A_TIME = 4


class PageTable:
    """The pages of B sequences, of each as many as its own tokens take.

    Attributes:
        numbers: int64 `[B, M]`, the pages of each sequence in order, then any number.
        room: int64 `[B]`, tokens of each sequence that have a page.
        count: pages that the array must have; never fewer than before.
    """

    def __init__(self, batch_size: int, context_length: int) -> None:
        self._context_length = context_length
        self.numbers = np.zeros((batch_size, -(-context_length // PAGE_TOKENS)), np.int64)
        self.room = np.zeros(batch_size, np.int64)
        self.count = 0
        self._free: list[int] = []

    def reserve(self, lengths: Ids) -> None:
        """Let each sequence have pages for at least so many tokens."""
        short = np.flatnonzero(lengths > self.room)
        for sequence in short:
            held, wanted = self._pages(self.room[sequence]), self._pages(lengths[sequence])
            wanted = min(-(-wanted // _AT_A_TIME) * _AT_A_TIME, self.numbers.shape[1])
            self.numbers[sequence, held:wanted] = self._take(wanted - held)
            self.room[sequence] = min(wanted * PAGE_TOKENS, self._context_length)

    def release(self, lengths: Ids) -> None:
        """Free the pages of each sequence beyond so many tokens."""
        whole = PAGE_TOKENS * _AT_A_TIME
        kept = np.minimum(-(-lengths // whole) * whole, self._context_length)
        long = np.flatnonzero(kept < self.room)
        for sequence in long:
            begin, end = self._pages(kept[sequence]), self._pages(self.room[sequence])
            self._free += self.numbers[sequence, begin:end].tolist()
            self.room[sequence] = kept[sequence]

    def of(self, sequence: int, length: int) -> Ids:
        """The pages that the first `length` tokens of a sequence lie in."""
        return self.numbers[sequence, : self._pages(length)]

    def _take(self, count: int) -> list[int]:
        """Pages that are free, then new ones."""
        again = min(count, len(self._free))
        taken = [self._free.pop() for _ in range(again)]
        taken += range(self.count, self.count + count - again)
        self.count += count - again
        return taken

    @staticmethod
    def _pages(tokens: int) -> int:
        return int(-(-tokens // PAGE_TOKENS))
