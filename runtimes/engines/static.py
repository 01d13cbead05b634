"""The graph of role "prefill": stock operators in float32 over a cache written in place.

B is the batch, T the new tokens, S the rows of the cache that a run sees, K key-value heads, D
head size, V the vocabulary; K, D, V and the number of cache tensors are read from the graphs.

    input_ids [B, T], past_length [B], logits_index [N], cache [B, K, S, D]
    -> logits [N, V] of the places b * T + t, cache

Sequence b's tokens are rows `0 .. past_length[b]` of its cache. What a padding token writes, the
next real one overwrites.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from atom_edge.bundle import Bundle
from atom_edge.errors import BundleError
from atom_edge.manifest import Role
from atom_edge.runtimes.engines.interface import (
    Device,
    Ids,
    Logits,
    Take,
    check_counts,
    check_fit,
    last_places,
)
from atom_edge.runtimes.engines.steps import SteppingCache
from atom_edge.runtimes.providers import open_graph

if TYPE_CHECKING:
    import onnxruntime

# Attention costs what the graph sees of the cache, so that it sees only as many rows as are in
# use, rounded up: a new shape for every token would cost more in binding than it saves.
ROWS = 64
# Tokens of a sequence that one run of prefill takes. Attention multiplies every new token with
# every row, those that it masks included: of a long prompt, half. Shorter chunks save no more, and
# make the products less efficient. With them the memory of a run is bounded.
CHUNK = 128
Buffers = NDArray[np.float32]


class StaticEngine:
    """An `Engine` over a static cache.

    Args:
        session: of the graph.
        context_length: tokens of a sequence at most.
    """

    role = Role.PREFILL
    device: Device = "cpu"
    batches = True
    copies = True

    def __init__(self, session: onnxruntime.InferenceSession, context_length: int) -> None:
        self.session = session
        self.context_length = context_length
        inputs = {value.name: value for value in session.get_inputs()}
        self.cache_names = [name for name in inputs if name.startswith("past_key_values.")]
        if not self.cache_names or not {"input_ids", "past_length", "logits_index"} < set(inputs):
            raise BundleError(
                f"The graph is not a decoder with a static cache: its inputs are {sorted(inputs)}."
            )
        _, self.kv_heads, _, self.head_size = inputs[self.cache_names[0]].shape
        self.vocab_size: int = session.get_outputs()[0].shape[-1]
        self._spare: list[Buffers] = []

    @classmethod
    def open(cls, bundle: Bundle, threads: int | None = None) -> StaticEngine:
        """The graph of a bundle that has it, on the CPU; `threads` as in `open_graph`."""
        graph = bundle.read_graph(Role.PREFILL)
        return cls(open_graph(graph, threads=threads), bundle.context_length)

    def new_cache(self, batch_size: int = 1) -> StaticCache:
        """See `Engine`."""
        return StaticCache(self, batch_size)

    def take_buffers(self, shape: tuple[int, int]) -> Buffers:
        """float32 of `shape`: those given back last, if they fit; their numbers are finite.

        New memory costs a page fault every 4 KB: a tenth of the time to the first token.
        """
        try:
            spare = self._spare.pop()
        except IndexError:
            spare = np.empty((0, 0), np.float32)
        # Zeros, and not whatever was there: what is masked is still multiplied, by 0.
        return spare if spare.shape == shape else np.zeros(shape, np.float32)

    def give_back(self, buffers: Buffers) -> None:
        """Keep what a cache has no use for any more, for the next one."""
        if not self._spare:
            self._spare.append(buffers)


class StaticCache(SteppingCache):
    """A `Cache`, and what is bound to it."""

    def __init__(self, engine: StaticEngine, batch_size: int) -> None:
        super().__init__(batch_size, engine.vocab_size, engine.context_length)
        self._engine = engine
        row = batch_size * engine.kv_heads * engine.head_size
        self._buffers = engine.take_buffers((len(engine.cache_names), row * engine.context_length))
        self._rows = 0

    def __del__(self) -> None:
        if self._batch_size == 1 and hasattr(self, "_buffers"):
            self._engine.give_back(self._buffers)

    def append(
        self, token_ids: Ids, counts: Ids | None = None, places: Ids | None = None
    ) -> Logits:
        """See `Cache`."""
        batch, tokens = token_ids.shape
        counts = np.full(batch, tokens) if counts is None else counts
        check_counts(self.lengths, counts, self._context_length)
        places = last_places(tokens, counts) if places is None else places
        sequence, token = np.divmod(places, tokens)
        logits = np.empty((len(places), self._engine.vocab_size), np.float32)
        # What is run for a sequence of count 0 goes behind its tokens, where there must be room.
        context = self._context_length
        np.minimum(self.lengths, context - (counts == 0), out=self.lengths)
        start = 0
        while start < counts.max():
            room = context - int(self.lengths.max())
            check_fit(context - room, 1, context)
            part = token_ids[:, start : min(counts.max(), start + min(CHUNK, room))]
            width = part.shape[1]
            here = np.flatnonzero((token >= start) & (token < start + width))
            wanted = sequence[here] * width + token[here] - start
            logits[here] = self._run_prefill(part, wanted)
            self.lengths += np.clip(counts - start, 0, width)
            start += width
        return logits

    def _run_prefill(self, token_ids: Ids, places: Ids) -> Logits:
        ids = np.ascontiguousarray(token_ids, np.int64)
        places = np.ascontiguousarray(places, np.int64)
        self._make_room(self.lengths + ids.shape[1])
        logits = np.empty((len(places), self._engine.vocab_size), np.float32)
        self._engine.session.run_with_iobinding(self._bind(ids, logits, places))
        return logits

    def step_greedily(self, token_ids: Ids, counts: Ids | None = None) -> Ids:
        """See `Cache`."""
        return self.append(token_ids[:, None], counts).argmax(axis=1)

    def crop(self, lengths: Ids) -> None:
        """See `Cache`."""
        np.minimum(self.lengths, lengths, out=self.lengths)

    def copy(self, source: int, target: int, length: int) -> None:
        """See `Cache`."""
        for buffer in self._buffers:
            view = self._view(buffer, self._rows)
            view[target, :, :length] = view[source, :, :length]
        self.lengths[target] = length

    def fork(self, rows: Ids) -> StaticCache:
        """See `Cache`."""
        copy = StaticCache(self._engine, len(rows))
        copy.lengths[:] = self.lengths[rows]
        longest = int(copy.lengths.max())
        if longest > 0:
            copy._make_room(copy.lengths)
            for mine, its in zip(self._buffers, copy._buffers, strict=True):
                begun = self._view(mine, self._rows)[rows, :, :longest]
                copy._view(its, copy._rows)[:, :, :longest] = begun
        return copy

    def save(self) -> list[Buffers]:
        """See `Cache`: `[K, P, D]` for each tensor."""
        length = self.lengths[0]
        return [self._view(buffer, self._rows)[0, :, :length] for buffer in self._buffers]

    def load(self, length: int, take: Take) -> None:
        """See `Cache`."""
        shape = (self._engine.kv_heads, length, self._engine.head_size)
        parts = [take(shape, np.float32) for _ in self._buffers]
        self._make_room(np.array([length]))
        for buffer, part in zip(self._buffers, parts, strict=True):
            self._view(buffer, self._rows)[0, :, :length] = part
        self.lengths[:] = length

    def _view(self, buffer: NDArray[np.float32], rows: int) -> NDArray[np.float32]:
        shape = (self._batch_size, self._engine.kv_heads, rows, self._engine.head_size)
        return buffer[: shape[0] * shape[1] * rows * shape[3]].reshape(shape)

    @property
    def _room(self) -> Ids:
        return np.array([self._rows])

    def _make_room(self, lengths: Ids) -> None:
        """Let the graphs see at least so many rows."""
        length = int(lengths.max())
        if length <= self._rows:
            return
        rows = min(-(-length // ROWS) * ROWS, self._context_length)
        if self._batch_size * self._engine.kv_heads > 1 and self._rows:
            # Several heads lie one after the other: all but the first move up.
            for buffer in self._buffers:
                held = self._view(buffer, self._rows).copy()
                buffer[:] = 0
                self._view(buffer, rows)[:, :, : self._rows] = held
        self._rows = rows
        self._step = None

    def _bind_step(self) -> Callable[[], None]:
        binding = self._bind(self._one_token, self._logits, self._last_places)
        run = self._engine.session.run_with_iobinding
        return lambda: run(binding)

    def _bind(self, ids: Ids, logits: Logits, places: Ids) -> onnxruntime.IOBinding:
        """Bind the buffers. A binding holds addresses only: the arrays must outlive its runs."""
        binding = self._engine.session.io_binding()

        def bind(name: str, array: NDArray[Any], output: str | None = None) -> None:
            place = ("cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
            binding.bind_input(name, *place)
            if output is not None:
                binding.bind_output(output, *place)

        bind("input_ids", ids)
        bind("past_length", self.lengths)
        bind("logits_index", places)
        binding.bind_output("logits", "cpu", 0, np.float32, logits.shape, logits.ctypes.data)
        for name, buffer in zip(self._engine.cache_names, self._buffers, strict=True):
            present = name.replace("past_key_values", "present")
            bind(name, self._view(buffer, self._rows), present)
        return binding
