"""What every engine gives: logits after a cache of B sequences.

B is the batch, T the new tokens, V the vocabulary. The sequences of a cache have lengths of their
own; shorter ones of a run are padded on the right.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from atom_edge.errors import GenerationError
from atom_edge.manifest import Role

Ids = NDArray[np.int64]
Logits = NDArray[np.float32]
Device = Literal["cpu", "cuda"]
Array = NDArray[Any]
# Gives the next array of a saved cache, which must be of this shape and type.
Take = Callable[[tuple[int, ...], DTypeLike], Array]


class Cache(Protocol):
    """The tokens of B sequences and what the model remembers of them."""

    @property
    def lengths(self) -> Ids:
        """int64 `[B]`, the tokens of each sequence; not to be changed."""
        ...

    def append(
        self, token_ids: Ids, counts: Ids | None = None, places: Ids | None = None
    ) -> Logits:
        """Append T tokens to each sequence, or fewer.

        Args:
            token_ids: int64 `[B, T]`, padded on the right.
            counts: int64 `[B]`, how many of them are real; all when None. A sequence of none
                takes no part in the run.
            places: int64 `[N]`, the tokens to give logits for, as `b * T + t` and in order; the
                last real one of each sequence that takes part when None.

        Returns:
            float32 `[N, V]`, the logits of what follows each place.

        Raises:
            GenerationError: if a sequence would leave the context; nothing is appended then.
        """
        ...

    def step(self, token_ids: Ids) -> Logits:
        """Append one token, int64 `[B]`, to each sequence.

        Returns:
            float32 `[B, V]`, the logits of what follows; the next call may overwrite them.

        Raises:
            GenerationError: if a sequence fills the context already.
        """
        ...

    def step_greedily(self, token_ids: Ids, counts: Ids | None = None) -> Ids:
        """Append one token, int64 `[B]`, to each sequence, or to those of which `counts` is 1.

        Returns:
            int64 `[N]`, the likeliest next token of each sequence that takes part.
        """
        ...

    def crop(self, lengths: Ids) -> None:
        """Forget all but the first `lengths[b]` tokens of each sequence."""
        ...

    def copy(self, source: int, target: int, length: int) -> None:
        """Make sequence `target` the first `length` tokens of sequence `source`."""
        ...

    def fork(self, rows: Ids) -> Cache:
        """A new cache whose sequences begin as copies of those of `rows`, int64 `[N]`."""
        ...

    def save(self) -> list[Array]:
        """What is remembered of the first sequence: enough for `load`, in a layout of its own."""
        ...

    def load(self, length: int, take: Take) -> None:
        """Remember `length` tokens, as `save` gave them, as the only sequence."""
        ...


class Engine(Protocol):
    """A model that is ready to run; threads may share it, each with caches of its own.

    Attributes:
        role: of the graph that runs.
        device: where it runs.
        vocab_size: V.
        context_length: tokens of a sequence at most.
        batches: whether a sequence's logits are the same, but for rounding, whatever runs beside
            it.
        copies: whether `copy` costs less than to run the tokens again.
    """

    role: Role
    device: Device
    vocab_size: int
    context_length: int
    batches: bool
    copies: bool

    def new_cache(self, batch_size: int = 1) -> Cache:
        """A cache of `batch_size` sequences of no tokens."""
        ...


def check_fit(length: int, new: int, context_length: int) -> None:
    """Raise `GenerationError` unless `new` tokens may follow `length` in the context."""
    if not 0 < new <= context_length - length:
        raise GenerationError(
            f"{new} tokens cannot follow {length} in a context of {context_length}."
        )


def check_counts(lengths: Ids, counts: Ids, context_length: int) -> None:
    """Raise `GenerationError` unless `counts` tokens may follow `lengths`, and at least one does.

    Args:
        lengths: int64 `[B]`, tokens of each sequence.
        counts: int64 `[B]`, tokens to append to each; 0 for one that takes no part.
        context_length: tokens of a sequence at most.
    """
    if not counts.any():
        raise GenerationError("There are no tokens to append.")
    for sequence in np.flatnonzero((lengths + counts > context_length) & (counts > 0)):
        check_fit(int(lengths[sequence]), int(counts[sequence]), context_length)


def last_places(tokens: int, counts: Ids) -> Ids:
    """The places `b * tokens + t` of the last real token of each sequence that has one."""
    sequences = np.flatnonzero(counts)
    return sequences * tokens + counts[sequences] - 1
