"""Decoding over a cache in a GPU's memory.

B is the batch, T the new tokens, S the context, V the vocabulary; see `device_graph`.

Shorter sequences of a batch are padded on the right: what a padding token writes, the next real one
overwrites.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from atom_edge.errors import GenerationError
from atom_edge.runtimes.device_graph import DeviceGraph

Logits = NDArray[np.float32]
Ids = NDArray[np.int64]

# Tokens of all sequences that one run takes at most: what a run allocates grows with them.
_TOKENS_AT_ONCE = 16384


class DeviceCache:
    """The cache of B sequences.

    Attributes:
        lengths: int64 `[B]`, the tokens of each sequence; lower it to forget the last ones.
    """

    def __init__(self, graph: DeviceGraph, batch_size: int = 1) -> None:
        self._graph = graph
        self._buffers = graph.take(batch_size)
        self.lengths = np.zeros(batch_size, np.int64)

    def __del__(self) -> None:
        if hasattr(self, "_buffers"):  # they may not have fitted into the memory
            self._graph.give_back(self._buffers)

    def step(self, token_ids: Ids) -> Logits:
        """Append one token, int64 `[B]`, to each sequence; logits float32 `[B, V]`.

        Raises:
            GenerationError: if a sequence fills the context already.
        """
        self._step(token_ids)
        logits: Logits = self._buffers.logits.numpy()
        return logits

    def step_greedily(self, token_ids: Ids | None = None) -> Ids:
        """Append one token to each sequence; return the likeliest next ones, int64 `[B]`.

        Args:
            token_ids: int64 `[B]`; None for what the last step returned, which need not leave the
                device then.

        Raises:
            GenerationError: if a sequence fills the context already.
        """
        self._step(token_ids)
        likeliest: Ids = self._buffers.token_ids.numpy()[:, 0]
        return likeliest

    def _step(self, token_ids: Ids | None) -> None:
        self._check_fit(int(self.lengths.max()) + 1)
        if token_ids is not None:
            self._buffers.token_ids.update_inplace(token_ids.reshape(-1, 1))
        self._buffers.step(self.lengths)
        self.lengths += 1

    def append(
        self, token_ids: Ids, counts: Ids | None = None, places: Ids | None = None
    ) -> Logits:
        """Append T tokens to each sequence, or fewer.

        Args:
            token_ids: int64 `[B, T]`, padded on the right.
            counts: int64 `[B]`, how many of them are real, at least 1; all when None.
            places: int64 `[N]`, the tokens to give logits for, as `b * T + t`, no sequence's
                before one of an earlier sequence; the last real one of each when None.

        Returns:
            logits float32 `[N, V]` of what follows each place.

        Raises:
            GenerationError: if they do not fit into the context; nothing is appended then.
        """
        batch, tokens = token_ids.shape
        counts = np.full(batch, tokens) if counts is None else counts
        self._check_fit(int((self.lengths + counts).max()))
        if places is None:
            places = np.arange(batch) * tokens + counts - 1
        sequence, token = np.divmod(places, tokens)
        logits = []
        for first, last in self._runs(tokens):
            width = int(counts[first:last].max())
            here = (sequence >= first) & (sequence < last)
            # A place behind the last real token has no logits that mean anything.
            wanted = (sequence[here] - first) * width + np.minimum(token[here], width - 1)
            part = np.ascontiguousarray(token_ids[first:last, :width])
            logits.append(self._prefill(part, counts[first:last], first, wanted))
        self.lengths += counts
        return np.concatenate(logits)

    def _runs(self, tokens: int) -> Iterator[tuple[int, int]]:
        """The sequences that are run together: several only as the first tokens of all."""
        batch = len(self.lengths)
        together = max(1, _TOKENS_AT_ONCE // tokens) if not self.lengths.any() else 1
        for first in range(0, batch, together):
            yield first, min(first + together, batch)

    def _prefill(self, token_ids: Ids, counts: Ids, first: int, places: Ids) -> Logits:
        """Run the tokens of the sequences from `first` on."""
        graph = self._graph
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
        binding.bind_output("logits", "cpu")
        graph.session.run_with_iobinding(binding, graph.run_options())
        logits: Logits = binding.get_outputs()[-1].numpy()
        return logits

    def read(self, length: int) -> list[NDArray[np.float32]]:
        """A copy of the first `length` rows of each cache tensor, `[B, K, length, D]`."""
        return [part.numpy()[:, :, :length].astype(np.float32) for part in self._buffers.cache]

    def write(self, parts: Sequence[NDArray[np.float32]], lengths: Ids) -> None:
        """Begin with a cache that `read` gave, of which sequence b has `lengths[b]` rows."""
        for held, part in zip(self._buffers.cache, parts, strict=True):
            contents = np.zeros(held.shape(), np.float16)
            contents[:, :, : part.shape[2]] = part
            held.update_inplace(contents)
        self.lengths[:] = lengths

    def _check_fit(self, length: int) -> None:
        if length > self._graph.context_length:
            raise GenerationError(
                f"{length} tokens do not fit into a context of {self._graph.context_length}."
            )


class DeviceDecoder:
    """A `Decoder` over such a cache."""

    def __init__(self, graph: DeviceGraph) -> None:
        self._cache = DeviceCache(graph)
        self.token_ids: list[int] = []
        self.looks_ahead = False  # it cannot

    def feed(self, token_ids: Sequence[int]) -> Logits:
        """Append tokens; return float32 `[vocab]`, the logits of what follows the last one.

        Raises:
            GenerationError: if there are no tokens, or more than the context holds.
        """
        if not token_ids:
            raise GenerationError("There are no tokens to continue.")
        ids = np.array([token_ids], np.int64)
        logits = self._cache.step(ids[0]) if len(token_ids) == 1 else self._cache.append(ids)
        self.token_ids += token_ids
        last: Logits = logits[0]
        return last

    def crop(self, length: int) -> None:
        """Forget all tokens but the first `length`."""
        if length < len(self.token_ids):
            self._cache.lengths[0] = length
            del self.token_ids[length:]
