"""Decoding one sequence over a static cache."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from atom_edge.errors import GenerationError
from atom_edge.runtimes.lookahead import Lookahead
from atom_edge.runtimes.static_cache import Logits, StaticCache
from atom_edge.runtimes.static_graphs import StaticGraphs


class StaticDecoder:
    """A `Decoder` over a static cache, with lookahead where the graphs have it."""

    looks_ahead = False

    def __init__(self, graphs: StaticGraphs, context_length: int) -> None:
        self._graphs = graphs
        self._cache = StaticCache(graphs, context_length)
        self._lookahead = Lookahead(graphs, self._cache, context_length)
        self._context_length = context_length
        self.token_ids: list[int] = []

    def feed(self, token_ids: Sequence[int]) -> Logits:
        """Append tokens; return float32 `[vocab]`, the logits of what follows the last one.

        Raises:
            GenerationError: if there are no tokens, or more than the context holds.
        """
        count = len(token_ids)
        if not 0 < count <= self._context_length - len(self.token_ids):
            raise GenerationError(
                f"{count} tokens cannot follow {len(self.token_ids)} in a context of "
                f"{self._context_length}."
            )
        if count > 1:
            self._lookahead.forget()
            logits: Logits = self._cache.append(np.array([token_ids], np.int64))[0]
            self.token_ids += token_ids
            return logits
        self.token_ids += token_ids
        if self.looks_ahead and self._graphs.lookahead_is_exact is not False:
            return self._lookahead.step(self.token_ids)
        self._lookahead.forget()
        return self._cache.step_first(token_ids[0])

    def crop(self, length: int) -> None:
        """Forget all tokens but the first `length`."""
        if length < len(self.token_ids):
            self._lookahead.forget()
            self._cache.lengths[0] = length
            del self.token_ids[length:]
