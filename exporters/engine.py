"""What the validation asks of an engine: less than the runtime does."""

from __future__ import annotations

from typing import Protocol

from atom_edge.exporters.reference import Ids, Logits


class Cache(Protocol):
    """The sequences of a batch, as an engine holds them."""

    def append(
        self, token_ids: Ids, counts: Ids | None = None, places: Ids | None = None
    ) -> Logits:
        """Append tokens `[B, T]`, `counts[b]` of them real; logits `[N, V]` after `places`."""
        ...

    def step(self, token_ids: Ids) -> Logits:
        """Append one token `[B]` to each sequence; logits `[B, V]`."""
        ...


class Engine(Protocol):
    """What runs the graph: any engine of the runtime, or the graph as foreign runtimes feed it."""

    def new_cache(self, batch_size: int = 1) -> Cache:
        """An empty cache of so many sequences."""
        ...
