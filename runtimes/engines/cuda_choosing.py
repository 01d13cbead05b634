"""The cache in a GPU's memory whose tokens are chosen there: what `choose.cu` is run over.

N sequences of the cache's B take part, S tokens of each are chosen.
"""

from __future__ import annotations

import math
from ctypes import c_int, c_void_p
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from atom_edge.runtimes.engines.choices import Choices, Chosen
from atom_edge.runtimes.engines.cuda_cache import TOKENS_AT_ONCE, CudaCache
from atom_edge.runtimes.engines.interface import Ids, Logits, check_counts, last_places
from atom_edge.runtimes.sampling import (
    MOST,
    log_probabilities,
    not_finite,
    share_of,
    sharpness_of,
)

if TYPE_CHECKING:
    from onnxruntime import OrtValue

    from atom_edge.runtimes.engines.cuda import CudaEngine
    from atom_edge.runtimes.gpu import Argument

# `Sequence` in choose.cu.
_SEQUENCE = np.dtype(
    [
        ("seed", np.uint64),
        ("drawn", np.uint64),
        ("top_p", np.uint64),
        ("sharpness", np.float32),
        ("penalty", np.float32),
        ("top_k", np.int32),
        ("least", np.int32),
        ("place", np.int32),
        ("room", np.int32),
        ("ended", np.int32),
    ],
    align=True,
)
# Threads that choose for a sequence, at most 256.
_THREADS = 256
# Weights that fit into a block's own memory, and what stands for no token, as choose.cu has them.
_HELD, _NOT_FINITE = 8192, -2
_BITS = 32
# Sequences whose prompts are run aside together at most, and bytes that are moved at a time.
_ASIDE, _WORD = 256, 4


class Kernels(Protocol):
    """`atom_edge.runtimes.gpu.Kernels`, or what stands for it."""

    def upload(self, array: NDArray[Any], address: int) -> None:
        """Copy an array into the device's memory."""
        ...

    def download(self, address: int, array: NDArray[Any]) -> None:
        """Wait for all that was begun, and fill an array from the device's memory."""
        ...

    def launch(self, name: str, blocks: int, threads: int, *arguments: Argument) -> None:
        """Begin a kernel, behind what was begun before."""
        ...


class ChoosingCudaCache(CudaCache):
    """A `ChoosingCache` in the device's memory."""

    def __init__(self, engine: CudaEngine, batch_size: int, kernels: Kernels) -> None:
        super().__init__(engine, batch_size)
        self._kernels = kernels
        self._memory: dict[str, OrtValue] = {}
        self._remembered: tuple[Choices, list[int]] | None = None

    def choose(self, token_ids: Ids, counts: Ids, choices: Choices, steps: int) -> Chosen:
        """See `ChoosingCache`."""
        with self._engine.lock:
            return self._choose(token_ids, counts, choices, steps)

    def _choose(self, token_ids: Ids, counts: Ids, choices: Choices, steps: int) -> Chosen:
        steps = min(steps, int(choices.rooms.max()))
        self._buffers.record(self.lengths)
        rows = np.flatnonzero(counts)
        most = counts.copy()
        most[rows] += np.minimum(steps, choices.rooms) - 1
        check_counts(self.lengths, most, self._engine.context_length)
        self._feed(token_ids, counts)
        self._begin(rows, choices, steps)
        rated = []
        for step in range(steps):
            if step:
                self._buffers.run()
            self._launch(len(rows), choices, step, steps)
            if choices.alternatives >= 0:
                rated.append(self._rate(rows, choices, step, steps))
        tokens = self._tokens(len(rows), steps)
        more = choices.note(tokens)
        self.lengths[rows] += np.maximum(more - 1, 0)
        top, scores = zip(*rated, strict=True) if rated else ([np.zeros((len(rows), 0))],) * 2
        return Chosen(tokens, np.stack(top, axis=1), np.stack(scores, axis=1))

    def _feed(self, token_ids: Ids, counts: Ids) -> None:
        """Append tokens, and leave the logits of what follows each sequence's on the device.

        A step runs all sequences: what it writes behind the others' tokens, these overwrite.
        """
        single, several = counts * (counts == 1), counts * (counts > 1)
        lengths = self.lengths + counts
        if single.any():
            self._step(token_ids[:, 0], single)
        self._prefill_all(token_ids, several, leave=True)
        self.lengths[:] = np.where(counts, lengths, self.lengths)

    def _prefill_all(
        self, token_ids: Ids, counts: Ids, places: Ids | None = None, *, leave: bool = False
    ) -> Logits:
        """Run prompts that begin together, though others lie between them: aside."""
        begin = np.flatnonzero((self.lengths == 0) & (counts > 0))
        if leave and len(begin) > 1 and begin[-1] - begin[0] >= len(begin):
            most = max(1, min(_ASIDE, TOKENS_AT_ONCE // token_ids.shape[1]))
            for first in range(0, len(begin), most):
                self._prefill_aside(token_ids, counts, begin[first : first + most])
            counts = np.where(self.lengths == 0, 0, counts)
        return super()._prefill_all(token_ids, counts, places, leave=leave)

    def _prefill_aside(self, token_ids: Ids, counts: Ids, rows: Ids) -> None:
        """Run the prompts of some sequences in other buffers, and move what came of it."""
        count, width = len(rows), int(counts[rows].max())
        # Powers of two: few sizes, whose buffers are kept.
        aside = CudaCache(self._engine, 1 << (count - 1).bit_length())
        ids = np.ascontiguousarray(token_ids[rows, :width])
        aside._prefill(ids, counts[rows], 0, last_places(width, counts[rows]), leave=True)
        self._upload("rows", rows.astype(np.int32))
        mine, theirs = self._buffers, aside._buffers
        for to, source in zip(mine.cache, theirs.cache, strict=True):
            self._move(to, source, count, np.float16)
        self._move(mine.logits, theirs.logits, count, np.float32)

    def _move(self, to: OrtValue, source: OrtValue, count: int, dtype: type[np.generic]) -> None:
        """Copy the first rows to those that were uploaded."""
        words = math.prod(to.shape()[1:]) * np.dtype(dtype).itemsize // _WORD
        addresses = c_void_p(to.data_ptr()), c_void_p(source.data_ptr()), self._address("rows")
        self._kernels.launch("move", count, _THREADS, *addresses, c_int(words))

    def _begin(self, rows: Ids, choices: Choices, steps: int) -> None:
        """Lay out what the kernel goes by."""
        count = len(rows)
        temperature, top_k, top_p, min_p, penalty = choices.sampling.T
        sequences = np.zeros(count, _SEQUENCE)
        sequences["seed"], sequences["drawn"] = choices.seeds.view(np.uint64).T
        sequences["top_p"] = top_p * 2**53
        sequences["sharpness"] = sharpness_of(temperature)
        sequences["penalty"] = penalty
        sequences["top_k"] = np.minimum(top_k, self._engine.vocab_size)
        sequences["least"] = [share_of(MOST, share) if share else 0 for share in min_p.tolist()]
        sequences["place"] = rows
        sequences["room"] = choices.rooms
        self._upload("sequences", sequences)
        self._upload("end_ids", choices.end_ids)
        self._room_for("chosen", count * steps, np.int64)
        if self._engine.vocab_size > _HELD:
            self._room_for("weights", count * self._engine.vocab_size, np.int32)
        # A sequence that fills the context is run no further.
        room = np.minimum(self.lengths, self._engine.context_length - 1)
        self._kernels.upload(room.astype(np.int32), self._buffers.lengths.data_ptr())
        if choices.history.shape[1]:
            self._remember(rows, choices)

    def _remember(self, rows: Ids, choices: Choices) -> None:
        """Let the device know the tokens that were seen, unless it has kept account itself."""
        if self._remembered is not None:
            theirs, places = self._remembered
            if theirs is choices and places == rows.tolist():
                return
        count, length = choices.history.shape
        self._room_for("seen", count * math.ceil(self._engine.vocab_size / _BITS), np.uint32)
        self._upload("history", choices.history)
        arguments = (self._address("seen"), self._address("history"), c_int(length))
        self._kernels.launch("remember", count, _THREADS, *arguments)
        self._remembered = choices, rows.tolist()

    def _launch(self, count: int, choices: Choices, step: int, steps: int) -> None:
        self._kernels.launch(
            "choose",
            count,
            _THREADS,
            self._address("sequences"),
            c_void_p(self._buffers.logits.data_ptr()),
            self._address("seen") if choices.history.shape[1] else c_void_p(),
            self._address("end_ids"),
            c_int(len(choices.end_ids)),
            self._address("weights"),
            c_void_p(self._buffers.token_ids.data_ptr()),
            c_void_p(self._buffers.lengths.data_ptr()),
            self._address("chosen"),
            c_int(step),
            c_int(steps),
        )

    def _tokens(self, count: int, steps: int) -> Ids:
        """int64 `[N, S]`, what was chosen.

        Raises:
            GenerationError: if the logits were not finite.
        """
        tokens = np.zeros((count, steps), np.int64)
        self._kernels.download(self._memory["chosen"].data_ptr(), tokens)
        if (tokens == _NOT_FINITE).any():
            raise not_finite()
        return tokens

    def _rate(
        self, rows: Ids, choices: Choices, step: int, steps: int
    ) -> tuple[Ids, NDArray[np.float64]]:
        """The likeliest tokens `[N, A]`, and log-probabilities `[N, 1 + A]`, on the host."""
        shape = (self._buffers.batch_size, self._engine.vocab_size)
        logits = np.zeros(shape, np.float32)
        self._kernels.download(self._buffers.logits.data_ptr(), logits)
        scores = log_probabilities(logits[rows])
        top = np.argsort(-scores, axis=1, kind="stable")[:, : choices.alternatives]
        chosen = np.maximum(self._tokens(len(rows), steps)[:, step], 0)
        named = np.concatenate([chosen[:, None], top], axis=1)
        return top, np.take_along_axis(scores, named, axis=1)

    def _upload(self, name: str, array: NDArray[Any]) -> None:
        self._room_for(name, array.nbytes, np.uint8)
        self._kernels.upload(array, self._memory[name].data_ptr())

    def _room_for(self, name: str, size: int, dtype: type[np.generic]) -> None:
        """Have device memory of at least so many elements under a name."""
        needed = max(1, size) * np.dtype(dtype).itemsize
        held = self._memory.get(name)
        if held is None or held.shape()[0] < needed:
            self._memory[name] = self._engine.copy(np.zeros(needed, np.uint8))

    def _address(self, name: str) -> c_void_p:
        held = self._memory.get(name)
        return c_void_p(None if held is None else held.data_ptr())
