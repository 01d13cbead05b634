"""The graph of role "native": one operator of this package over a cache in pages.

`exporters/native.py` describes the graph. Here B sequences take turns in one array of pages: page i
of sequence b is page `i * B + b` of the array, so that more room for all of them is more pages at
its end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from atom_edge.bundle import Bundle
from atom_edge.errors import BundleError
from atom_edge.manifest import Role
from atom_edge.runtimes.engines.choices import Choices, Chosen
from atom_edge.runtimes.engines.interface import (
    Array,
    Device,
    Ids,
    Logits,
    Take,
    check_counts,
    check_fit,
    last_places,
)
from atom_edge.runtimes.providers import open_graph

PAGE_TOKENS = 16
# Tokens for which a cache has room at first; then it doubles.
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


class NativeCache:
    """A `Cache`, and what is bound to it."""

    def __init__(self, engine: NativeEngine, batch_size: int) -> None:
        self._engine = engine
        self._batch_size = batch_size
        self._pages = engine.take_pages(0)
        self._page_table = np.zeros((batch_size, 0), np.int64)
        self._lay_out()
        self.lengths = np.zeros(batch_size, np.int64)
        self._one_token = np.zeros((batch_size, 1), np.int64)
        self._ones = np.ones(batch_size, np.int64)
        self._last_places = np.arange(batch_size)
        self._logits = np.zeros((batch_size, engine.vocab_size), np.float32)
        self._step: Callable[[], None] | None = None
        self._loop: _Loop | None = None

    def __del__(self) -> None:
        if hasattr(self, "_pages"):
            self._engine.give_back(self._pages)

    def step(self, token_ids: Ids) -> Logits:
        """See `Cache`."""
        longest = int(self.lengths.max())
        if longest >= self._room or self._step is None:
            check_fit(longest, 1, self._engine.context_length)
            self._make_room(longest + 1)
            self._step = self._bind_step()
        self._one_token[:, 0] = token_ids
        self._step()
        self.lengths += 1
        return self._logits

    def append(
        self, token_ids: Ids, counts: Ids | None = None, places: Ids | None = None
    ) -> Logits:
        """See `Cache`."""
        batch, tokens = token_ids.shape
        counts = np.full(batch, tokens) if counts is None else counts
        check_counts(self.lengths, counts, self._engine.context_length)
        places = last_places(tokens, counts) if places is None else places
        self._make_room(int((self.lengths + counts).max()))
        rows = np.flatnonzero(counts)
        sequence, token = np.divmod(places, tokens)
        logits = np.empty((len(places), self._engine.vocab_size), np.float32)
        feeds = {
            "input_ids": np.ascontiguousarray(token_ids[rows], np.int64),
            "counts": counts[rows],
            "past_lengths": self.lengths[rows],
            "logit_rows": np.searchsorted(rows, sequence) * tokens + token,
            "pages": self._page_table[rows],
        }
        self.bind(feeds, {"logits": logits})()
        self.lengths += counts
        return logits

    def choose(self, token_ids: Ids, counts: Ids, choices: Choices, steps: int) -> Chosen:
        """See `ChoosingCache`."""
        check_counts(self.lengths, counts + (counts > 0) * (steps - 1), self._engine.context_length)
        self._make_room(int((self.lengths + counts).max()) + steps - 1)
        rows = np.flatnonzero(counts)
        if self._loop is None or not self._loop.fits(choices, rows, token_ids.shape[1], steps):
            self._loop = _Loop(self, choices, rows, token_ids.shape[1], steps)
        chosen = self._loop.run(token_ids, counts, self.lengths)
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

    def copy(self, source: int, target: int, length: int) -> None:
        """See `Cache`."""
        used = -(-length // PAGE_TOKENS)
        self._by_sequence[:used, target] = self._by_sequence[:used, source]
        self.lengths[target] = length

    def fork(self, rows: Ids) -> NativeCache:
        """See `Cache`."""
        copy = NativeCache(self._engine, len(rows))
        copy.lengths[:] = self.lengths[rows]
        longest = int(copy.lengths.max())
        if longest > 0:
            copy._make_room(longest)
            used = -(-longest // PAGE_TOKENS)
            copy._by_sequence[:used] = self._by_sequence[:used, rows]
        return copy

    def save(self) -> list[Pages]:
        """See `Cache`: its pages, with zeros behind the tokens."""
        used, left = divmod(int(self.lengths[0]), PAGE_TOKENS)
        pages = self._by_sequence[: used + (left > 0), 0].copy()
        if left:  # keys are [K, D, 16], values [K, 16, D]
            layers, _, heads, size = self._engine.page_shape
            size //= PAGE_TOKENS
            pages[-1, :, 0].reshape(layers, heads, size, PAGE_TOKENS)[..., left:] = 0
            pages[-1, :, 1].reshape(layers, heads, PAGE_TOKENS, size)[:, :, left:] = 0
        return [pages]

    def load(self, length: int, take: Take) -> None:
        """See `Cache`."""
        used = -(-length // PAGE_TOKENS)
        pages = take((used, *self._engine.page_shape), np.float32)
        self._make_room(length)
        self._by_sequence[:used, 0] = pages
        self.lengths[:] = length

    @property
    def vocab_size(self) -> int:
        """V."""
        return self._engine.vocab_size

    def pages_of(self, rows: Ids) -> Ids:
        """int64 `[N, M]`, the pages of some sequences."""
        return self._page_table[rows]

    @property
    def _room(self) -> int:
        """Tokens of each sequence that have a page."""
        return min(self._page_table.shape[1] * PAGE_TOKENS, self._engine.context_length)

    @property
    def _by_sequence(self) -> Pages:
        """The pages `[M, B, ...]` for M pages of each sequence."""
        batch, count = self._page_table.shape
        return self._pages[: batch * count].reshape(count, batch, *self._engine.page_shape)

    def _make_room(self, length: int) -> None:
        """Let each sequence have pages for at least `length` tokens."""
        if length <= self._page_table.shape[1] * PAGE_TOKENS:
            return
        wanted = max(length, min(2 * self._room, self._engine.context_length), _FIRST_ROOM)
        count = self._batch_size * -(-wanted // PAGE_TOKENS)
        if count > len(self._pages):
            pages = np.empty((count, *self._engine.page_shape), np.float32)
            held = self._page_table.size
            pages[:held] = self._pages[:held]
            self._pages = pages
        self._lay_out()

    def _lay_out(self) -> None:
        """Deal all pages out to the sequences."""
        count = len(self._pages) // self._batch_size
        places = np.arange(self._batch_size * count).reshape(count, self._batch_size)
        self._page_table = np.ascontiguousarray(places.T)
        self._step = None
        self._loop = None

    def _bind_step(self) -> Callable[[], None]:
        feeds = {
            "input_ids": self._one_token,
            "counts": self._ones,
            "past_lengths": self.lengths,
            "logit_rows": self._last_places,
            "pages": self._page_table,
        }
        return self.bind(feeds, {"logits": self._logits})

    def bind(self, feeds: Mapping[str, Array], outputs: Mapping[str, Array]) -> Callable[[], None]:
        """Bind arrays; the function returned runs the operator over what they hold then."""
        feeds = {**_NO_LOOP, **feeds, "cache": self._pages}
        outputs = {**outputs, "cache_out": self._pages}
        session = self._engine.session
        binding = session.io_binding()
        for name, array in feeds.items():
            binding.bind_cpu_input(name, array)  # its memory, not a copy
        for name, array in outputs.items():
            binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        # A binding holds addresses only: the arrays must outlive it.
        kept = (feeds, outputs)
        return lambda: session.run_with_iobinding(binding) if kept else None


class _Loop:
    """The operator's loop, bound for some sequences of a cache."""

    def __init__(
        self, cache: NativeCache, choices: Choices, rows: Ids, tokens: int, steps: int
    ) -> None:
        count = len(rows)
        self._choices, self._rows, self._steps = choices, rows, steps
        self._ids = np.zeros((count, tokens), np.int64)
        self._counts, self._lengths = np.zeros(count, np.int64), np.zeros(count, np.int64)
        rated = max(0, min(choices.alternatives, cache.vocab_size))
        asked = choices.alternatives >= 0
        self._chosen = Chosen(
            np.zeros((count, steps), np.int64),
            np.zeros((count, steps, rated), np.int64),
            np.zeros((count, steps, 1 + rated if asked else 0)),
        )
        feeds: dict[str, Array] = {
            "input_ids": self._ids,
            "counts": self._counts,
            "past_lengths": self._lengths,
            "logit_rows": np.zeros(0, np.int64),
            "pages": cache.pages_of(rows),
            "steps": np.array([steps]),
            "end_ids": choices.end_ids,
            "sampling": choices.sampling,
            "seeds": choices.seeds,
            "history": choices.history,
            "alternatives": np.array([rated if asked else -1]),
        }
        given = self._chosen._asdict() if asked else {"tokens": self._chosen.tokens}
        self._run = cache.bind(feeds, given)

    def fits(self, choices: Choices, rows: Ids, tokens: int, steps: int) -> bool:
        """Whether it is the loop of such a run."""
        return (
            choices is self._choices
            and steps == self._steps
            and tokens == self._ids.shape[1]
            and np.array_equal(rows, self._rows)
        )

    def run(self, token_ids: Ids, counts: Ids, lengths: Ids) -> Chosen:
        """Run it over the tokens and the lengths of all sequences of the cache."""
        self._ids[:] = token_ids[self._rows]
        self._counts[:] = counts[self._rows]
        self._lengths[:] = lengths[self._rows]
        self._run()
        return self._chosen


_NO_LOOP: dict[str, Array] = {
    "steps": np.zeros(1, np.int64),
    "end_ids": np.zeros(0, np.int64),
    "sampling": np.zeros((0, 5)),
    "seeds": np.zeros((0, 2), np.int64),
    "history": np.zeros((0, 0), np.int64),
    "alternatives": np.full(1, -1, np.int64),
}
