"""Decoding on a static cache: buffers that the fast pair of graphs writes in place.

B is the batch, T the new tokens, S the rows of the cache that a run sees, K key-value heads, D
head size, V the vocabulary; see `static_graphs`.

Shorter sequences of a batch are padded on the right: what a padding token writes, the next real one
overwrites.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from atom_edge.errors import GenerationError
from atom_edge.runtimes.denormals import flushed_denormals
from atom_edge.runtimes.static_graphs import StaticGraphs

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnxruntime

Logits = NDArray[np.float32]
Ids = NDArray[np.int64]

# Attention costs what the graph sees of the cache, so that it sees only as many rows as are in
# use, rounded up: a new shape for every token would cost more in binding than it saves.
ROWS = 64
# Tokens of a sequence that one run of prefill takes. Attention multiplies every new token with
# every row, those that it masks included: of a long prompt, half. Shorter chunks save no more, and
# make the products less efficient. With them the memory of a run is bounded.
CHUNK = 128


class StaticCache:
    """The cache of B sequences, and what is bound to it.

    Attributes:
        lengths: int64 `[B]`, the tokens of each sequence; lower it to forget the last ones.
    """

    def __init__(self, graphs: StaticGraphs, context_length: int, batch_size: int = 1) -> None:
        self._graphs = graphs
        self._context_length = context_length
        self._batch_size = batch_size
        row = batch_size * graphs.kv_heads * graphs.head_size
        self._buffers = graphs.take_buffers((len(graphs.cache_names), row * context_length))
        self._rows = 0
        self.lengths = np.zeros(batch_size, np.int64)
        self._one_token = np.zeros((batch_size, 1), np.int64)
        self._last_places = np.arange(batch_size)
        self._logits = np.zeros((batch_size, graphs.vocab_size), np.float32)
        self._step: Callable[[], None] | None = None
        self._checks: dict[int, tuple[Ids, Logits, Callable[[], None]]] = {}
        # Plain cells of the first sequence: an array's arithmetic takes microseconds a token.
        self._first_length = memoryview(self.lengths.data)
        self._first_token = memoryview(self._one_token.reshape(-1).data)
        self._first_logits: Logits = self._logits[0]

    def __del__(self) -> None:
        if self._batch_size == 1:
            self._graphs.give_back(self._buffers)

    def step_first(self, token_id: int) -> Logits:
        """`step` of the only sequence: logits float32 `[V]`; the next call overwrites them."""
        length: int = self._first_length[0]
        if length >= self._rows or self._step is None:
            self._make_room(length + 1)
            self._step = self._bind_step()
        self._first_token[0] = token_id
        self._step()
        self._first_length[0] = length + 1
        return self._first_logits

    def check(self, token_ids: Sequence[int]) -> Logits:
        """Run a few tokens of the only sequence, without counting them as appended.

        Returns:
            logits float32 `[T, V]` of what follows each; the next check overwrites them.
        """
        count = len(token_ids)
        self._make_room(self._first_length[0] + count)
        if count not in self._checks:
            self._checks[count] = self._bind_check(count)
        ids, logits, run = self._checks[count]
        ids[0] = token_ids
        run()
        return logits

    def skip(self) -> None:
        """Count a token of the only sequence as appended that was checked before."""
        self._first_length[0] += 1

    def step(self, token_ids: Ids) -> Logits:
        """Append one token to each sequence.

        Args:
            token_ids: int64 `[B]`.

        Returns:
            logits float32 `[B, V]` of what follows; the next call overwrites them.
        """
        longest = int(self.lengths.max())
        if longest >= self._rows or self._step is None:
            self._make_room(longest + 1)
            self._step = self._bind_step()
        self._one_token[:, 0] = token_ids
        self._step()
        self.lengths += 1
        return self._logits

    def append(
        self, token_ids: Ids, counts: Ids | None = None, places: Ids | None = None
    ) -> Logits:
        """Append T tokens to each sequence, or fewer.

        Args:
            token_ids: int64 `[B, T]`, padded on the right.
            counts: int64 `[B]`, how many of them are real, at least 1; all when None.
            places: int64 `[N]`, the tokens to give logits for, as `b * T + t`; the last real one
                of each sequence when None.

        Returns:
            logits float32 `[N, V]` of what follows each place.

        Raises:
            GenerationError: if they do not fit into the context; nothing is appended then.
        """
        batch, tokens = token_ids.shape
        self._check_fit(int(self.lengths.max()) + tokens)
        counts = np.full(batch, tokens) if counts is None else counts
        if places is None:
            places = np.arange(batch) * tokens + counts - 1
        sequence, token = np.divmod(places, tokens)
        logits = np.empty((len(places), self._graphs.vocab_size), np.float32)
        for start in range(0, tokens, CHUNK):
            part = token_ids[:, start : start + CHUNK]
            width = part.shape[1]
            here = np.flatnonzero(token // CHUNK == start // CHUNK)
            wanted = sequence[here] * width + token[here] - start
            logits[here] = self._run_prefill(part, wanted)
            self.lengths += np.clip(counts - start, 0, width)
        return logits

    def _run_prefill(self, token_ids: Ids, places: Ids) -> Logits:
        ids = np.ascontiguousarray(token_ids, np.int64)
        places = np.ascontiguousarray(places, np.int64)
        self._make_room(int(self.lengths.max()) + ids.shape[1])
        logits = np.empty((len(places), self._graphs.vocab_size), np.float32)
        session = self._graphs.prefill
        binding = self._bind(session, ids, logits, places)
        with flushed_denormals():
            session.run_with_iobinding(binding)
        return logits

    def read(self, length: int) -> list[NDArray[np.float32]]:
        """A copy of the first `length` rows of each cache tensor, `[B, K, length, D]`."""
        return [self._view(buffer, self._rows)[:, :, :length].copy() for buffer in self._buffers]

    def write(self, parts: Sequence[NDArray[np.float32]], lengths: Ids) -> None:
        """Begin with a cache that `read` gave, of which sequence b has `lengths[b]` rows."""
        rows = parts[0].shape[2]
        self._make_room(rows)
        for buffer, part in zip(self._buffers, parts, strict=True):
            if rows:
                self._view(buffer, self._rows)[:, :, :rows] = part
        self.lengths[:] = lengths

    def _view(self, buffer: NDArray[np.float32], rows: int) -> NDArray[np.float32]:
        shape = (self._batch_size, self._graphs.kv_heads, rows, self._graphs.head_size)
        return buffer[: shape[0] * shape[1] * rows * shape[3]].reshape(shape)

    def _make_room(self, length: int) -> None:
        """Let the graphs see at least `length` rows."""
        if length <= self._rows:
            return
        self._check_fit(length)
        rows = min(-(-length // ROWS) * ROWS, self._context_length)
        if self._batch_size * self._graphs.kv_heads > 1 and self._rows:
            # Several heads lie one after the other: all but the first move up.
            for buffer in self._buffers:
                held = self._view(buffer, self._rows).copy()
                buffer[:] = 0
                self._view(buffer, rows)[:, :, : self._rows] = held
        self._rows = rows
        self._step = None
        self._checks.clear()

    def _check_fit(self, length: int) -> None:
        if length > self._context_length:
            raise GenerationError(
                f"{length} tokens do not fit into a context of {self._context_length}."
            )

    def _bind_step(self) -> Callable[[], None]:
        decode = self._graphs.decode if self._batch_size == 1 else None
        session = decode or self._graphs.prefill
        places = None if decode else self._last_places
        binding = self._bind(session, self._one_token, self._logits, places)
        run = session.run_with_iobinding
        return lambda: run(binding)

    def _bind_check(self, count: int) -> tuple[Ids, Logits, Callable[[], None]]:
        ids, places = np.zeros((1, count), np.int64), np.arange(count)
        logits = np.zeros((count, self._graphs.vocab_size), np.float32)
        session = self._graphs.check
        binding, run = self._bind(session, ids, logits, places), session.run_with_iobinding

        def check(held: Ids = places) -> None:  # which the binding only has the address of
            run(binding)

        return ids, logits, check

    def _bind(
        self,
        session: onnxruntime.InferenceSession,
        ids: Ids,
        logits: Logits,
        places: Ids | None,
    ) -> onnxruntime.IOBinding:
        """Bind the buffers. A binding holds addresses only: the arrays must outlive its runs."""
        binding = session.io_binding()

        def bind(name: str, array: NDArray[Any], output: str | None = None) -> None:
            place = ("cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
            binding.bind_input(name, *place)
            if output is not None:
                binding.bind_output(output, *place)

        bind("input_ids", ids)
        bind("past_length", self.lengths)
        shape = logits.shape
        if places is not None:
            bind("logits_index", places)
        else:
            shape = (shape[0], 1, shape[1])
        binding.bind_output("logits", "cpu", 0, np.float32, shape, logits.ctypes.data)
        for name, buffer in zip(self._graphs.cache_names, self._buffers, strict=True):
            present = name.replace("past_key_values", "present")
            bind(name, self._view(buffer, self._rows), present)
        return binding
