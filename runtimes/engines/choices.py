"""What an engine needs to know to choose tokens itself, and what it says of them.

N sequences take part, S tokens of each are chosen, A likeliest ones are rated beside each.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from atom_edge.runtimes.engines.interface import Ids
from atom_edge.runtimes.options import GenerationOptions


class Chosen(NamedTuple):
    """The tokens of a run; the next run may overwrite the arrays.

    Attributes:
        tokens: int64 `[N, S]`; -1 behind one that ends its sequence, or fills its room.
        top_tokens: int64 `[N, S, A]`, the likeliest first.
        log_probabilities: float64 `[N, S, 1 + A]`, of the chosen token and of those; `[N, S, 0]` if
            they were not asked for.
    """

    tokens: Ids
    top_tokens: Ids
    log_probabilities: NDArray[np.float64]


class Sequel(NamedTuple):
    """How one sequence goes on.

    Attributes:
        options: with a seed.
        drawn: tokens that were chosen before.
        seen: the tokens that a repetition penalty is for; none without one.
        room: tokens that it may get at most.
    """

    options: GenerationOptions
    drawn: int
    seen: Sequence[int]
    room: int


class Choices:
    """How the sequences of a run go on, as the native operator takes it.

    Attributes:
        end_ids: int64 `[E]`.
        sampling: float64 `[N, 5]`.
        seeds: int64 `[N, 2]`: the seed's bits, and the numbers that were drawn.
        rooms: int64 `[N]`, tokens that each may still get.
        history: int64 `[N, H]`, -1 behind the tokens that were seen; H is 0 without a penalty.
        alternatives: A; -1 for no log-probabilities.
    """

    def __init__(self, sequels: Sequence[Sequel], end_ids: Set[int]) -> None:
        each = [sequel.options for sequel in sequels]
        self.end_ids = np.array(sorted(end_ids), np.int64)
        self.sampling = np.array(
            [(o.temperature, o.top_k, o.top_p, o.min_p, o.repetition_penalty) for o in each],
            np.float64,
        )
        seeds = [(sequel.options.seed or 0, sequel.drawn) for sequel in sequels]
        self.seeds = np.array(seeds, np.uint64).view(np.int64)
        self.rooms = np.array([sequel.room for sequel in sequels], np.int64)
        self.alternatives = max(-1 if o.logprobs is None else o.logprobs for o in each)
        self._seen = np.zeros(len(sequels), np.int64)
        if all(o.repetition_penalty == 1 for o in each):
            self.history = np.zeros((len(sequels), 0), np.int64)
            return
        width = max(len(sequel.seen) + sequel.room for sequel in sequels)
        self.history = np.full((len(sequels), width), -1, np.int64)
        for row, sequel in enumerate(sequels):
            self._note(row, sequel.seen)

    def note(self, tokens: Ids) -> Ids:
        """Go on behind `Chosen.tokens`; int64 `[N]`, how many were chosen of each sequence."""
        counts: Ids = (tokens >= 0).sum(axis=1)
        self.seeds[:, 1] += counts
        self.rooms -= counts
        if self.history.shape[1]:
            for row, count in enumerate(counts.tolist()):
                self._note(row, tokens[row, :count])
        return counts

    def _note(self, row: int, tokens: Sequence[int] | Ids) -> None:
        start = self._seen[row]
        self.history[row, start : start + len(tokens)] = tokens
        self._seen[row] += len(tokens)


@runtime_checkable
class ChoosingCache(Protocol):
    """A `Cache` whose engine chooses tokens itself."""

    def choose(self, token_ids: Ids, counts: Ids, choices: Choices, steps: int) -> Chosen:
        """Append tokens, then choose and append up to `steps` more; the last is not appended.

        Args:
            token_ids: int64 `[B, T]`, padded on the right.
            counts: int64 `[B]`, how many are real; 0 for a sequence that takes no part.
            choices: of those that take part, in order; they go on behind what is chosen.
            steps: S at most, at least 1; a sequence gets no more than it has room for.

        Raises:
            GenerationError: if a sequence would leave the context; nothing is appended then.
        """
        ...
