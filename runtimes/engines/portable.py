"""The graph of role "model", which runs anywhere: each run returns its cache, longer by a copy.

B is the batch, T the new tokens, P those in the cache, S = P + T, K key-value heads, D head size,
V the vocabulary. K and D may differ from layer to layer; they are read from the graph.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

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
    last_places,
)
from atom_edge.runtimes.providers import open_graph

if TYPE_CHECKING:
    import onnxruntime

Tensors = list[NDArray[Any]]

# Rows by which a cache grows.
_ROWS = 64
_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


class Graph(Protocol):
    """A model as a function of tokens and a cache, which it returns extended.

    Attributes:
        vocab_size: V.
    """

    vocab_size: int

    def empty_cache(self, batch_size: int) -> Tensors:
        """A cache of no tokens, `[B, K, 0, D]` each."""
        ...

    def run(
        self, input_ids: Ids, attention_mask: Ids, cache: Tensors, position_ids: Ids
    ) -> tuple[Logits, Tensors]:
        """Run the model once.

        Args:
            input_ids: int64 `[B, T]`.
            attention_mask: int64 `[B, S]`, 1 for a token and 0 for padding.
            cache: `[B, K, P, D]` each.
            position_ids: int64 `[B, T]`.

        Returns:
            logits float32 `[B, T, V]` and the cache `[B, K, S, D]`.
        """
        ...


class PortableGraph:
    """The graph as an onnxruntime session.

    Raises:
        BundleError: if its inputs and outputs are not those of such a graph.
    """

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session = session
        self._cache_inputs = [
            value for value in session.get_inputs() if value.name.startswith("past_key_values.")
        ]
        self._cache_names = [value.name for value in self._cache_inputs]
        self._outputs = [
            "logits",
            *(name.replace("past_key_values", "present") for name in self._cache_names),
        ]
        self._check()
        logits = next(value for value in session.get_outputs() if value.name == "logits")
        self.vocab_size: int = logits.shape[2]

    def _check(self) -> None:
        expected = {"input_ids", "attention_mask", "position_ids", *self._cache_names}
        inputs = {value.name for value in self._session.get_inputs()}
        outputs = {value.name for value in self._session.get_outputs()}
        if not self._cache_names or inputs != expected or outputs != set(self._outputs):
            raise BundleError(
                "The graph is not a decoder with its KV cache: its inputs are "
                f"{sorted(inputs)} and its outputs {sorted(outputs)}."
            )

    def empty_cache(self, batch_size: int) -> Tensors:
        """See `Graph`."""
        return [
            np.zeros((batch_size, value.shape[1], 0, value.shape[3]), _DTYPES[value.type])
            for value in self._cache_inputs
        ]

    def run(
        self, input_ids: Ids, attention_mask: Ids, cache: Tensors, position_ids: Ids
    ) -> tuple[Logits, Tensors]:
        """See `Graph`."""
        feeds: dict[str, NDArray[Any]] = dict(zip(self._cache_names, cache, strict=True))
        feeds["input_ids"] = input_ids
        feeds["attention_mask"] = attention_mask
        feeds["position_ids"] = position_ids
        logits, *present = self._session.run(self._outputs, feeds)
        return logits, present


class PortableEngine:
    """An `Engine` over such a graph, or over a PyTorch model that is called like one."""

    role = Role.MODEL
    device: Device = "cpu"
    batches = True
    copies = True

    def __init__(self, graph: Graph, context_length: int) -> None:
        self.graph = graph
        self.vocab_size = graph.vocab_size
        self.context_length = context_length

    @classmethod
    def open(cls, bundle: Bundle, threads: int | None = None) -> PortableEngine:
        """The portable graph of a bundle; `threads` as in `open_graph`."""
        graph = PortableGraph(open_graph(bundle.read_graph(), threads=threads))
        return cls(graph, bundle.context_length)

    def new_cache(self, batch_size: int = 1) -> PortableCache:
        """See `Engine`."""
        return PortableCache(self, batch_size)


class PortableCache:
    """A `Cache` of which sequence b has the rows `0 .. lengths[b]`."""

    def __init__(self, engine: PortableEngine, batch_size: int) -> None:
        self._engine = engine
        self._parts = engine.graph.empty_cache(batch_size)
        self.lengths = np.zeros(batch_size, np.int64)

    def append(
        self, token_ids: Ids, counts: Ids | None = None, places: Ids | None = None
    ) -> Logits:
        """See `Cache`."""
        batch, tokens = token_ids.shape
        counts = np.full(batch, tokens) if counts is None else counts
        places = last_places(tokens, counts) if places is None else places
        check_counts(self.lengths, counts, self._engine.context_length)
        rows = np.flatnonzero(counts)
        lengths = self.lengths[rows]
        before = int(lengths.max())
        # Some models count columns, so that nothing may lie between the tokens of a sequence.
        held = np.arange(before) >= before - lengths[:, None]
        mask = np.concatenate([held, np.ones((len(rows), tokens), bool)], axis=1).astype(np.int64)
        # Padding may stand behind the context, where a table of positions would end.
        last = self._engine.context_length - 1
        positions = np.minimum(lengths[:, None] + np.arange(tokens), last)
        whole = len(rows) == batch
        past = self._first_rows(before, None if whole else rows)
        if before > lengths.min():
            past = [_moved_right(part, lengths) for part in past]
        ids = np.ascontiguousarray(token_ids[rows], np.int64)
        logits, present = self._engine.graph.run(ids, mask, past, positions)
        if whole and before == lengths.min():
            self._parts = present
        else:
            self._keep(present, rows, before, counts[rows])
        self.lengths = self.lengths + counts
        sequence, token = np.divmod(places, tokens)
        return logits[np.searchsorted(rows, sequence), token]

    def _keep(self, present: Tensors, rows: Ids, before: int, counts: Ids) -> None:
        """Take from what a run of the sequences `rows` gave their new tokens, at `before`."""
        lengths = self.lengths[rows]
        self._make_room(int((lengths + counts).max()))
        each = np.repeat(np.arange(len(rows)), counts)
        offset = np.arange(len(each)) - np.repeat(counts.cumsum() - counts, counts)
        sources, targets = (each, slice(None), before + offset), rows[each]
        for held, new in zip(self._parts, present, strict=True):
            held[targets, :, lengths[each] + offset] = new[sources]

    def _make_room(self, length: int) -> None:
        """Let all parts have at least `length` rows, in memory that nobody else has."""
        if length > self._parts[0].shape[2]:
            rows = min(-(-length // _ROWS) * _ROWS, self._engine.context_length)
            more = [(0, 0), (0, 0), (0, rows - self._parts[0].shape[2]), (0, 0)]
            self._parts = [np.pad(part, more) for part in self._parts]

    def step(self, token_ids: Ids) -> Logits:
        """See `Cache`."""
        return self.append(token_ids[:, None])

    def step_greedily(self, token_ids: Ids, counts: Ids | None = None) -> Ids:
        """See `Cache`."""
        return self.append(token_ids[:, None], counts).argmax(axis=1)

    def crop(self, lengths: Ids) -> None:
        """See `Cache`."""
        self.lengths = np.minimum(self.lengths, lengths)

    def copy(self, source: int, target: int, length: int) -> None:
        """See `Cache`."""
        for part in self._parts:
            part[target, :, :length] = part[source, :, :length]
        self.lengths[target] = length

    def fork(self, rows: Ids) -> PortableCache:
        """See `Cache`."""
        copy = PortableCache(self._engine, len(rows))
        copy._parts = [part[rows] for part in self._parts]
        copy.lengths = self.lengths[rows]
        return copy

    def save(self) -> Tensors:
        """See `Cache`: `[K, P, D]` for each part."""
        return [part[0, :, : self.lengths[0]] for part in self._parts]

    def load(self, length: int, take: Take) -> None:
        """See `Cache`."""
        shapes = [(part.shape[1], length, part.shape[3]) for part in self._parts]
        kinds = [part.dtype for part in self._parts]
        parts = [take(shape, kind) for shape, kind in zip(shapes, kinds, strict=True)]
        self._parts = [part[None].copy() for part in parts]
        self.lengths[:] = length

    def _first_rows(self, length: int, sequences: Ids | None) -> Tensors:
        """The first rows of some sequences or, if None, of all; not copied where that is all."""
        if sequences is not None:
            return [part[sequences, :, :length] for part in self._parts]
        if self._parts[0].shape[2] == length:
            return self._parts
        return [np.ascontiguousarray(part[:, :, :length]) for part in self._parts]


def _moved_right(part: NDArray[Any], lengths: Ids) -> NDArray[Any]:
    """A copy of `[B, K, P, D]` in which each sequence's first `lengths[b]` rows are its last."""
    moved = np.zeros_like(part)
    for sequence, length in enumerate(lengths):
        moved[sequence, :, part.shape[2] - length :] = part[sequence, :, :length]
    return moved
