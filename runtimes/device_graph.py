"""The graph of role `cuda` as a session, and the memory that its steps are bound to.

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
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from atom_edge.errors import BundleError
from atom_edge.runtimes.installation import import_onnxruntime
from atom_edge.runtimes.providers import open_graph, open_on_cuda

if TYPE_CHECKING:
    import onnxruntime

Device = Literal["cpu", "cuda"]

# What onnxruntime calls a run that is not recorded.
_NOT_RECORDED = -1


class DeviceGraph:
    """The session, and the buffers that no cache uses at the moment.

    Args:
        file: of the graph.
        device: where it runs.
        context_length: tokens of a sequence at most.

    Raises:
        ProviderError: if CUDA cannot be had, or a node would run elsewhere.
        BundleError: if the file is not such a graph.
    """

    def __init__(self, file: Path, device: Device, context_length: int) -> None:
        self.device: Device = device
        self.context_length = context_length
        self.session = open_on_cuda(file) if device == "cuda" else open_graph(file)
        inputs = {value.name: value for value in self.session.get_inputs()}
        self.cache_names = [name for name in inputs if name.startswith("past_key_values.")]
        if not self.cache_names or not {"seqlens_k", "logits_index"} < set(inputs):
            raise BundleError(
                f"The graph {file} is not a decoder for CUDA: its inputs are {sorted(inputs)}."
            )
        _, self.kv_heads, _, self.head_size = inputs[self.cache_names[0]].shape
        self.vocab_size: int = self.session.get_outputs()[0].shape[-1]
        self._spare: dict[int, list[StepBuffers]] = defaultdict(list)
        self._numbers = count(1)

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

    def __init__(self, graph: DeviceGraph, batch_size: int, number: int) -> None:
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

    def _bind(self, graph: DeviceGraph) -> onnxruntime.IOBinding:
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
