"""The graph of role "cuda": a cache in a GPU's memory, and steps that are recorded.

B is the batch, T the new tokens, S the context, K key-value heads, D head size, V the vocabulary;
K, D, V and the number of cache tensors are read from the graph.

    input_ids [B, T], seqlens_k [B], total_sequence_length [], logits_index [N],
    cache float16 [B, K, S, D] -> logits float32 [N, V], likeliest int64 [N], cache

A step, one new token of each sequence, is recorded as a CUDA graph over its buffers when they are
first used, and replayed from then on: one launch in place of more than a hundred. A recorded graph
holds addresses, so that buffers are kept and used again.

All of it also runs on the CPU, without the recording: that is how an export is validated where
there is no GPU.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from atom_edge.bundle import Bundle
from atom_edge.errors import BundleError, ProviderError
from atom_edge.manifest import Role
from atom_edge.runtimes.engines.interface import (
    Array,
    Device,
    Ids,
    Logits,
    Take,
    check_counts,
    last_places,
)
from atom_edge.runtimes.installation import import_onnxruntime
from atom_edge.runtimes.providers import check_cuda, open_graph, open_on_cuda

if TYPE_CHECKING:
    import onnxruntime

# Tokens of all sequences that one run takes at most: what a run allocates grows with them.
_TOKENS_AT_ONCE = 16384
# What onnxruntime calls a run that is not recorded.
_NOT_RECORDED = -1


class CudaEngine:
    """An `Engine`: the session, and the buffers that no cache uses at the moment.

    Args:
        graph: the ONNX file, or what `Bundle.read_graph` read of it.
        device: where it runs.
        context_length: tokens of a sequence at most.

    Raises:
        ProviderError: if CUDA cannot be had, or a node would run elsewhere.
        BundleError: if the file is not such a graph.
    """

    role = Role.CUDA
    batches = True
    copies = False

    def __init__(self, graph: Path | bytes, device: Device, context_length: int) -> None:
        self.device: Device = device
        self.context_length = context_length
        self.session = open_on_cuda(graph) if device == "cuda" else open_graph(graph)
        inputs = {value.name: value for value in self.session.get_inputs()}
        self.cache_names = [name for name in inputs if name.startswith("past_key_values.")]
        if not self.cache_names or not {"seqlens_k", "logits_index"} < set(inputs):
            raise BundleError(
                f"The graph is not a decoder for CUDA: its inputs are {sorted(inputs)}."
            )
        _, self.kv_heads, _, self.head_size = inputs[self.cache_names[0]].shape
        self.vocab_size: int = self.session.get_outputs()[0].shape[-1]
        self._spare: dict[int, list[StepBuffers]] = defaultdict(list)
        self._numbers = count(1)

    @classmethod
    def open(cls, bundle: Bundle) -> CudaEngine:
        """The graph of a bundle that has it, on a GPU.

        Raises:
            ProviderError: if there is no such graph, or no CUDA.
        """
        check_cuda()
        if "cuda" not in bundle.roles:
            raise ProviderError(
                f"The bundle {bundle.path} has no graph for CUDA. Export the model again with: "
                "atom-edge export --target cuda"
            )
        return cls(bundle.read_graph(Role.CUDA), "cuda", bundle.context_length)

    def new_cache(self, batch_size: int = 1) -> CudaCache:
        """See `Engine`."""
        return CudaCache(self, batch_size)

    def take(self, batch_size: int) -> StepBuffers:
        """Buffers for `batch_size` sequences: some that were given back, else new ones."""
        try:
            return self._spare[batch_size].pop()
        except IndexError:
            return StepBuffers(self, batch_size, next(self._numbers))

    def give_back(self, buffers: StepBuffers) -> None:
        """Keep what a cache has no use for any more, for the next one."""
        self._spare[buffers.batch_size].append(buffers)

    def copy(self, contents: NDArray[Any]) -> onnxruntime.OrtValue:
        """`contents` in the device's memory."""
        onnxruntime = import_onnxruntime()
        return onnxruntime.OrtValue.ortvalue_from_numpy(contents.copy(), self.device, 0)

    def run_options(self, recording: int = _NOT_RECORDED) -> onnxruntime.RunOptions:
        """Options of a run that is recorded, then replayed, under a number; or not at all."""
        options = import_onnxruntime().RunOptions()
        if self.device == "cuda":
            options.add_run_config_entry("gpu_graph_id", str(recording))
        return options


class StepBuffers:
    """Cache, inputs and outputs of B sequences on the device, bound for a step of each.

    Attributes:
        cache: float16 `[B, K, S, D]` for each input of it.
        token_ids: int64 `[B, 1]`, the tokens of the next step; a step leaves the likeliest there.
        logits: float32 `[B, V]`, of the last step.
    """

    def __init__(self, graph: CudaEngine, batch_size: int, number: int) -> None:
        self.batch_size = batch_size
        shape = (batch_size, graph.kv_heads, graph.context_length, graph.head_size)
        # Zeros, and not whatever was there: what is masked is still multiplied, by 0.
        empty = np.zeros(shape, np.float16)
        self.cache = [graph.copy(empty) for _ in graph.cache_names]
        self.token_ids = graph.copy(np.zeros((batch_size, 1), np.int64))
        self.logits = graph.copy(np.zeros((batch_size, graph.vocab_size), np.float32))
        self._seqlens = graph.copy(np.zeros(batch_size, np.int32))
        self._places = graph.copy(np.arange(batch_size))
        # Read on the host when the step is recorded; what the rows see, `_seqlens` says.
        self._total = np.array(graph.context_length, np.int32)
        self._binding = self._bind(graph)
        self._options = graph.run_options(number)
        self._run = graph.session.run_with_iobinding
        # To record a step, onnxruntime runs it several times, each of which would find the tokens
        # that the one before left. So it is done now, over nothing.
        self.step(np.zeros(batch_size, np.int64))

    def _bind(self, graph: CudaEngine) -> onnxruntime.IOBinding:
        binding = graph.session.io_binding()
        binding.bind_ortvalue_input("input_ids", self.token_ids)
        binding.bind_ortvalue_input("seqlens_k", self._seqlens)
        binding.bind_ortvalue_input("logits_index", self._places)
        binding.bind_cpu_input("total_sequence_length", self._total)
        for name, part in zip(graph.cache_names, self.cache, strict=True):
            binding.bind_ortvalue_input(name, part)
            binding.bind_ortvalue_output(name.replace("past_key_values", "present"), part)
        binding.bind_ortvalue_output("logits", self.logits)
        shape, place = [self.batch_size], self.token_ids.data_ptr()
        binding.bind_output("likeliest", graph.device, 0, np.int64, shape, place)
        return binding

    def step(self, lengths: NDArray[np.int64]) -> None:
        """Run `token_ids` as the tokens at the places `lengths`, int64 `[B]`."""
        self._seqlens.update_inplace(lengths.astype(np.int32))
        self._run(self._binding, self._options)


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
        sequence, token = np.divmod(places, tokens)
        if tokens == 1 and batch > 1:
            self._step(token_ids[:, 0], counts)
            stepped: Logits = self._buffers.logits.numpy()
            return stepped[sequence]
        check_counts(self.lengths, counts, self._engine.context_length)
        logits = []
        for first, last in self._runs(tokens, counts):
            width = int(counts[first:last].max())
            here = (sequence >= first) & (sequence < last)
            # A place behind the last real token has no logits that mean anything.
            wanted = (sequence[here] - first) * width + np.minimum(token[here], width - 1)
            part = np.ascontiguousarray(token_ids[first:last, :width])
            logits.append(self._prefill(part, counts[first:last], first, wanted))
        self.lengths += counts
        return np.concatenate(logits)

    def crop(self, lengths: Ids) -> None:
        """See `Cache`."""
        np.minimum(self.lengths, lengths, out=self.lengths)

    def _runs(self, tokens: int, counts: Ids) -> Iterator[tuple[int, int]]:
        """The sequences that are run together: neighbours, and only as their first tokens."""
        together = max(1, _TOKENS_AT_ONCE // tokens)
        begins = (self.lengths == 0) & (counts > 0)
        first = 0
        while first < len(counts):
            last = first + 1
            while last < min(len(counts), first + together) and begins[first : last + 1].all():
                last += 1
            if counts[first]:
                yield first, last
            first = last

    def _prefill(self, token_ids: Ids, counts: Ids, first: int, places: Ids) -> Logits:
        """Run the tokens of the sequences from `first` on."""
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
        binding.bind_output("logits", "cpu")
        graph.session.run_with_iobinding(binding, graph.run_options())
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
