"""The native operator's loop, which chooses tokens and appends them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from atom_edge.runtimes.engines.binding import Binding
from atom_edge.runtimes.engines.choices import Choices, Chosen
from atom_edge.runtimes.engines.interface import Array

if TYPE_CHECKING:
    import onnxruntime as ort


class Loop:
    """The loop over sequences of a cache; only what has a new shape is bound anew."""

    def __init__(self, session: ort.InferenceSession, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._binding = Binding(session)
        self._feeds: dict[str, Array] = {"logit_rows": np.zeros(0, np.int64)}
        self._chosen = _room_for(0, 0, -1)

    def run(
        self, sequences: Mapping[str, Array], pages: Array, choices: Choices, steps: int
    ) -> Chosen:
        """Run it; the next run may overwrite what it gives.

        Args:
            sequences: the inputs that say which tokens of which sequences are new.
            pages: of the cache.
            choices: how the sequences go on.
            steps: tokens to choose for each.
        """
        alternatives = min(choices.alternatives, self._vocab_size)
        numbers = {"steps": np.array([steps]), "alternatives": np.array([alternatives])}
        for name, values in {**sequences, **numbers}.items():
            self._keep(name, values)
        room = _room_for(len(choices.sampling), steps, alternatives)
        if any(new.shape != old.shape for new, old in zip(room, self._chosen, strict=True)):
            self._chosen = room
        given = {"tokens": self._chosen.tokens} if alternatives < 0 else self._chosen._asdict()
        self._binding.feed(
            {
                **self._feeds,
                "cache": pages,
                "end_ids": choices.end_ids,
                "sampling": choices.sampling,
                "seeds": choices.seeds,
                "history": choices.history,
            }
        )
        self._binding.take({**given, "cache_out": pages})
        self._binding.run()
        return self._chosen

    def _keep(self, name: str, values: Array) -> None:
        """Hold values in the memory that is bound already, if they fit it."""
        held = self._feeds.get(name)
        if held is not None and held.shape == values.shape:
            held[...] = values
        else:
            self._feeds[name] = values.copy()


def _room_for(count: int, steps: int, alternatives: int) -> Chosen:
    return Chosen(
        np.zeros((count, steps), np.int64),
        np.zeros((count, steps, max(alternatives, 0)), np.int64),
        np.zeros((count, steps, 1 + alternatives)),
    )
