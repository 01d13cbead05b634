"""The graph of role "native": one operator of this package over a cache in pages.

`exporters/native.py` describes the graph. The B sequences of a cache have pages in one array, each
as many as its own tokens take.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from atom_edge.bundle import Bundle
from atom_edge.errors import BundleError
from atom_edge.manifest import Role
from atom_edge.runtimes.engines.binding import Binding
from atom_edge.runtimes.engines.choices import Choices, Chosen
from atom_edge.runtimes.engines.interface import (
    Array,
    Device,
    Ids,
    Logits,
    Take,
    check_counts,
    last_places,
)
from atom_edge.runtimes.engines.native_loop import Loop
from atom_edge.runtimes.engines.pages import PAGE_TOKENS, PageTable
from atom_edge.runtimes.engines.steps import SteppingCache
from atom_edge.runtimes.providers import open_graph

# Tokens of every sequence for which the array of a cache has room at first; then it doubles.
_FIRST_ROOM = 128

Pages = NDArray[np.float32]


class NativeEngine:
    """An `Engine` over the operator.

    Its logits are the same bits whatever runs beside a sequence, and however it was fed.

    Args:
        graph: the bytes of an ONNX file.
        context_length: tokens of a sequence at most.
        threads: of one run, at most; see `open_graph`.

    Raises:
        BundleError: if it is not such a graph, or cannot run here.
        ProviderError: if there is no native library.
    """

    role = Role.NATIVE
    device: Device = "cpu"
    batches = True
    copies = True

    def __init__(self, graph: bytes, context_length: int, threads: int | None = None) -> None:
        self.session = open_graph(graph, threads=threads, native=True)
        self.context_length = context_length
        inputs = {value.name: value.shape for value in self.session.get_inputs()}
        try:
            self.page_shape: tuple[int, ...] = tuple(inputs["cache"][1:])
        except KeyError as error:
            raise BundleError(
                f"The graph is not the operator over pages: it has no {error}; its inputs are "
                f"{sorted(inputs)}."
            ) from error
        self.vocab_size: int = self.session.get_outputs()[0].shape[-1]
        self._spare: list[Pages] = []

    @classmethod
    def open(cls, bundle: Bundle, threads: int | None = None) -> NativeEngine:
        """The graph of a bundle that has it."""
        return cls(bundle.read_graph(Role.NATIVE), bundle.context_length, threads)

    def new_cache(self, batch_size: int = 1) -> NativeCache:
        """See `Engine`."""
        return NativeCache(self, batch_size)

    def take_pages(self, count: int) -> Pages:
        """At least `count` pages of any content: those given back last, if there are enough.

        New memory costs a page fault every 4 KB: a tenth of the time to the first token.
        """
        try:
            spare = self._spare.pop()
        except IndexError:
            spare = np.empty((0, *self.page_shape), np.float32)
        return spare if len(spare) >= count else np.empty((count, *self.page_shape), np.float32)

    def give_back(self, pages: Pages) -> None:
        """Keep what a cache has no use for any more, for the next one."""
        if not self._spare:
            self._spare.append(pages)


class NativeCache(SteppingCache):
    """A `Cache`, and what is bound to it."""

    def __init__(self, engine: NativeEngine, batch_size: int) -> None:
        super().__init__(batch_size, engine.vocab_size, engine.context_length)
        self._engine = engine
        self._pages = engine.take_pages(0)
        self._table = PageTable(batch_size, engine.context_length)
        self._ones = np.ones(batch_size, np.int64)
        self._loop: Loop | None = None

    def __del__(self) -> None:
        if hasattr(self, "_pages"):
            self._engine.give_back(self._pages)

    def append(
        self, token_ids: Ids, counts: Ids | None = None, places: Ids | None = None
    ) -> Logits:
        """See `Cache`."""
        batch, tokens = token_ids.shape
        counts = np.full(batch, tokens) if counts is None else counts
        check_counts(self.lengths, counts, self._context_length)
        places = last_places(tokens, counts) if places is None else places
        self._make_room(self.lengths + counts)
        rows = np.flatnonzero(counts)
        sequence, token = np.divmod(places, tokens)
        logits = np.empty((len(places), self._engine.vocab_size), np.float32)
        feeds = {
            "input_ids": np.ascontiguousarray(token_ids[rows], np.int64),
            "counts": counts[rows],
            "past_lengths": self.lengths[rows],
            "logit_rows": np.searchsorted(rows, sequence) * tokens + token,
            "pages": self.pages_of(rows),
        }
        self._bind(feeds, {"logits": logits}).run()
        self.lengths += counts
        return logits

    def choose(self, token_ids: Ids, counts: Ids, choices: Choices, steps: int) -> Chosen:
        """See `ChoosingCache`; all get as many tokens as the one with the least room."""
        steps = min(steps, int(choices.rooms.min()))
        most = counts + (counts > 0) * (steps - 1)
        check_counts(self.lengths, most, self._context_length)
        self._make_room(self.lengths + most)
        rows = np.flatnonzero(counts)
        self._loop = self._loop or Loop(self._engine.session, self.vocab_size)
        sequences = {
            "input_ids": token_ids[rows],
            "counts": counts[rows],
            "past_lengths": self.lengths[rows],
            "pages": self.pages_of(rows),
        }
        chosen = self._loop.run(sequences, self._pages, choices, steps)
        more = choices.note(chosen.tokens)
        self.lengths[rows] += counts[rows] + np.maximum(more - 1, 0)
        return chosen

    def step_greedily(self, token_ids: Ids, counts: Ids | None = None) -> Ids:
        """See `Cache`."""
        if counts is None or counts.all():
            return self.step(token_ids).argmax(axis=1)
        return self.append(token_ids[:, None], counts).argmax(axis=1)

    def crop(self, lengths: Ids) -> None:
        """See `Cache`."""
        np.minimum(self.lengths, lengths, out=self.lengths)
        self._table.release(self.lengths)

    def copy(self, source: int, target: int, length: int) -> None:
        """See `Cache`."""
        self.lengths[target] = length
        self._make_room(self.lengths)
        self._pages[self._table.of(target, length)] = self._pages[self._table.of(source, length)]

    def fork(self, rows: Ids) -> NativeCache:
        """See `Cache`."""
        copy = NativeCache(self._engine, len(rows))
        copy.lengths[:] = self.lengths[rows]
        copy._make_room(copy.lengths)
        for new, (old, length) in enumerate(zip(rows.tolist(), copy.lengths.tolist(), strict=True)):
            copy._pages[copy._table.of(new, length)] = self._pages[self._table.of(old, length)]
        return copy

    def save(self) -> list[Pages]:
        """See `Cache`: its pages, with zeros behind the tokens."""
        length = int(self.lengths[0])
        pages = self._pages[self._table.of(0, length)]
        if left := length % PAGE_TOKENS:  # keys are [K, D, 16], values [K, 16, D]
            layers, _, heads, size = self._engine.page_shape
            size //= PAGE_TOKENS
            pages[-1, :, 0].reshape(layers, heads, size, PAGE_TOKENS)[..., left:] = 0
            pages[-1, :, 1].reshape(layers, heads, PAGE_TOKENS, size)[:, :, left:] = 0
        return [pages]

    def load(self, length: int, take: Take) -> None:
        """See `Cache`."""
        pages = take((-(-length // PAGE_TOKENS), *self._engine.page_shape), np.float32)
        self._make_room(np.array([length]))
        self._pages[self._table.of(0, length)] = pages
        self.lengths[:] = length

    @property
    def vocab_size(self) -> int:
        """V."""
        return self._engine.vocab_size

    def pages_of(self, rows: Ids) -> Ids:
        """int64 `[N, M]`, the pages of some sequences."""
        return self._table.numbers[rows]

    @property
    def _room(self) -> Ids:
        return self._table.room

    def _make_room(self, lengths: Ids) -> None:
        held = self._table.count
        self._table.reserve(lengths)
        if self._table.count > len(self._pages):
            first = self._batch_size * -(-_FIRST_ROOM // PAGE_TOKENS)
            most = min(max(2 * len(self._pages), first), self._table.numbers.size)
            count = max(self._table.count, most)
            pages = np.empty((count, *self._engine.page_shape), np.float32)
            pages[:held] = self._pages[:held]
            self._pages = pages
            self._step = None

    def _bind_step(self) -> Callable[[], None]:
        feeds = {
            "input_ids": self._one_token,
            "counts": self._ones,
            "past_lengths": self.lengths,
            "logit_rows": self._last_places,
            "pages": self._table.numbers,
        }
        return self._bind(feeds, {"logits": self._logits}).run

    def _bind(self, feeds: Mapping[str, Array], outputs: Mapping[str, Array]) -> Binding:
        binding = Binding(self._engine.session)
        binding.feed({**_NO_LOOP, **feeds, "cache": self._pages})
        binding.take({**outputs, "cache_out": self._pages})
        return binding


_NO_LOOP: dict[str, Array] = {
    "steps": np.zeros(1, np.int64),
    "end_ids": np.zeros(0, np.int64),
    "sampling": np.zeros((0, 5)),
    "seeds": np.zeros((0, 2), np.int64),
    "history": np.zeros((0, 0), np.int64),
    "alternatives": np.full(1, -1, np.int64),
}
