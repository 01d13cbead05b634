"""The portable graph as a function of arrays: what validation and measurements call."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from atom_edge.runtimes import decoder
from atom_edge.runtimes.decoder import Cache, Logits
from atom_edge.runtimes.providers import open_graph


class PortableGraph:
    """A graph file that `trace` describes, with mask, positions and cache filled in."""

    def __init__(self, path: Path, threads: int | None = None) -> None:
        self._graph = decoder.PortableGraph(open_graph(path, threads=threads))

    def run(
        self,
        ids: NDArray[np.int64],
        mask: NDArray[np.int64] | None = None,
        past: Cache | None = None,
    ) -> tuple[Logits, Cache]:
        """Feed new tokens.

        Args:
            ids: int64 `[B, T]`.
            mask: int64 `[B, S]`, 1 for a token; all ones when None. Positions count its ones.
            past: the cache of the S - T tokens before, as `run` returned it; empty when None.

        Returns:
            logits float32 `[B, T, V]`, and the cache, float32 `[B, K, S, D]` each.
        """
        batch, tokens = ids.shape
        cache = self._graph.empty_cache(batch) if past is None else past
        total = cache[0].shape[2] + tokens
        mask = np.ones((batch, total), np.int64) if mask is None else mask
        positions = np.maximum(mask.cumsum(axis=1) - 1, 0)[:, total - tokens :]
        return self._graph.run(ids, mask, positions, cache)
