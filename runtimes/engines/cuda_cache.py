"""The cache in a device's memory: what `runtimes.engines.cuda` runs the graph over."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from atom_edge.runtimes.engines.interface import (
    Array,
    Ids,
    Logits,
    Take,
    check_counts,
    last_places,
)

if TYPE_CHECKING:
    from atom_edge.runtimes.engines.cuda import CudaEngine

# Tokens of all sequences that one run takes at most: what a run allocates grows with them.
TOKENS_AT_ONCE = 16384


class CudaCache:
    """A `Cache` in the device's memory."""

    def __init__(self, engine: CudaEngine, batch_size: int) -> None:
        self._engine = engine
        self._buffers = engine.take(batch_size)
        self.lengths = np.zeros(batch_size, np.int64)

    def __del__(self) -> None:
        if hasattr(self, "_buffers"):  # they may not have fitted into the memory
            self._engine.give_back(self._buffers)

    def step(self, token_ids: Ids) -> Logits:
        """See `Cache`."""
        with self._engine.lock:
            self._step(token_ids, np.ones_like(self.lengths))
            logits: Logits = self._buffers.logits.numpy()
            return logits

    def step_greedily(self, token_ids: Ids | None, counts: Ids | None = None) -> Ids:
        """See `Cache`.

        Args:
            token_ids: int64 `[B]`; None for what the last step returned, which need not leave the
                device then.
            counts: see `Cache`.
        """
        counts = np.ones_like(self.lengths) if counts is None else counts
        with self._engine.lock:
            self._step(token_ids, counts)
            likeliest: Ids = self._buffers.token_ids.numpy()[:, 0]
            return likeliest[counts > 0]

    def _step(self, token_ids: Ids | None, counts: Ids) -> None:
        """Step all sequences, but keep those of count 0 where they are.

        What is run for these goes behind their tokens; one that fills the context loses its last.
        """
        check_counts(self.lengths, counts, self._engine.context_length)
        np.minimum(self.lengths, self._engine.context_length - (counts == 0), out=self.lengths)
        if token_ids is not None:
            self._buffers.token_ids.update_inplace(token_ids.reshape(-1, 1))
        self._buffers.step(self.lengths)
        self.lengths += counts

    def append(
        self, token_ids: Ids, counts: Ids | None = None, places: Ids | None = None
    ) -> Logits:
        """See `Cache`."""
        batch, tokens = token_ids.shape
        counts = np.full(batch, tokens) if counts is None else counts
        places = last_places(tokens, counts) if places is None else places
        with self._engine.lock:
            if tokens == 1 and batch > 1:
                self._step(token_ids[:, 0], counts)
                stepped: Logits = self._buffers.logits.numpy()
                return stepped[places]
            check_counts(self.lengths, counts, self._engine.context_length)
            logits = self._prefill_all(token_ids, counts, places)
            self.lengths += counts
            return logits

    def _prefill_all(
        self, token_ids: Ids, counts: Ids, places: Ids | None = None, *, leave: bool = False
    ) -> Logits:
        """Run tokens of all sequences as `append` is given them; see `_prefill`."""
        tokens = token_ids.shape[1]
        places = last_places(tokens, counts) if places is None else places
        sequence, token = np.divmod(places, tokens)
        logits = [np.zeros((0, self._engine.vocab_size), np.float32)]
        for first, last in self._runs(tokens, counts):
            width = int(counts[first:last].max())
            here = (sequence >= first) & (sequence < last)
            # A place behind the last real token has no logits that mean anything.
            wanted = (sequence[here] - first) * width + np.minimum(token[here], width - 1)
            part = np.ascontiguousarray(token_ids[first:last, :width])
            logits.append(self._prefill(part, counts[first:last], first, wanted, leave))
        return np.concatenate(logits)

    def crop(self, lengths: Ids) -> None:
        """See `Cache`."""
        np.minimum(self.lengths, lengths, out=self.lengths)

    def _runs(self, tokens: int, counts: Ids) -> Iterator[tuple[int, int]]:
        """The sequences that are run together: neighbours, and only as their first tokens."""
        together = max(1, TOKENS_AT_ONCE // tokens)
        begins = self.lengths == 0
        first = last = 0
        for row in np.flatnonzero(counts).tolist():
            joins = row == last and row - first < together and begins[first] and begins[row]
            if not joins:
                if last > first:
                    yield first, last
                first = row
            last = row + 1
        if last > first:
            yield first, last

    def _prefill(
        self, token_ids: Ids, counts: Ids, first: int, places: Ids, leave: bool = False
    ) -> Logits:
        """Run the tokens of the sequences from `first` on.

        Args:
            token_ids: int64 `[N, T]`.
            counts: int64 `[N]`, how many are real.
            first: the first of the N sequences.
            places: int64 `[P]`, the tokens to give logits for.
            leave: whether they are left on the device, as those of N sequences after a step.

        Returns:
            float32 `[P, V]`; `[0, V]` where they are left.
        """
        graph = self._engine
        rows, width = token_ids.shape
        lengths = self.lengths[first : first + rows]
        # The operator takes tokens as the first of their rows when the total is their number.
        total = np.array(int(lengths[0]) + width, np.int32)
        binding = graph.session.io_binding()
        # A binding holds addresses only: these must outlive the run.
        ids, index = graph.copy(token_ids), graph.copy(places)
        seqlens = graph.copy((lengths + counts - 1).astype(np.int32))
        binding.bind_ortvalue_input("input_ids", ids)
        binding.bind_ortvalue_input("logits_index", index)
        binding.bind_ortvalue_input("seqlens_k", seqlens)
        binding.bind_cpu_input("total_sequence_length", total)
        shape = (rows, graph.kv_heads, graph.context_length, graph.head_size)
        row_bytes = int(np.prod(shape[1:])) * np.dtype(np.float16).itemsize
        for name, part in zip(graph.cache_names, self._buffers.cache, strict=True):
            place = (graph.device, 0, np.float16, shape, part.data_ptr() + first * row_bytes)
            binding.bind_input(name, *place)
            binding.bind_output(name.replace("past_key_values", "present"), *place)
        if leave:
            row_bytes = graph.vocab_size * np.dtype(np.float32).itemsize
            address = self._buffers.logits.data_ptr() + first * row_bytes
            size = (rows, graph.vocab_size)
            binding.bind_output("logits", graph.device, 0, np.float32, size, address)
        else:
            binding.bind_output("logits", "cpu")
        graph.session.run_with_iobinding(binding, graph.run_options())
        if leave:
            return np.zeros((0, graph.vocab_size), np.float32)
        logits: Logits = binding.get_outputs()[-1].numpy()
        return logits

    def copy(self, source: int, target: int, length: int) -> None:
        """See `Cache`; all of the cache goes to the host and back."""
        for part in self._buffers.cache:
            contents = part.numpy().copy()
            contents[target, :, :length] = contents[source, :, :length]
            part.update_inplace(contents)
        self.lengths[target] = length

    def fork(self, rows: Ids) -> CudaCache:
        """See `Cache`."""
        copy = CudaCache(self._engine, len(rows))
        for mine, its in zip(self._buffers.cache, copy._buffers.cache, strict=True):
            its.update_inplace(mine.numpy()[rows])
        copy.lengths[:] = self.lengths[rows]
        return copy

    def save(self) -> list[Array]:
        """See `Cache`: `[K, P, D]` for each tensor."""
        return [part.numpy()[0, :, : self.lengths[0]] for part in self._buffers.cache]

    def load(self, length: int, take: Take) -> None:
        """See `Cache`."""
        shape = (self._engine.kv_heads, length, self._engine.head_size)
        parts = [take(shape, np.float16) for _ in self._buffers.cache]
        for held, part in zip(self._buffers.cache, parts, strict=True):
            contents = held.numpy().copy()
            contents[0, :, :length] = part
            held.update_inplace(contents)
        self.lengths[:] = length
