"""The graph of role "cuda": a cache in a GPU's memory, and steps that are recorded.

B is the batch, T the new tokens, S the context, K key-value heads, D head size, V the vocabulary;
K, D, V and the number of cache tensors are read from the graph.

    input_ids [B, T], seqlens_k [B], total_sequence_length [], logits_index [N],
    cache float16 [B, K, S, D] -> logits float32 [N, V], likeliest int64 [N], cache

A step, one new token of each sequence, is recorded as a CUDA graph over its buffers when they are
first used, and replayed from then on: one launch in place of more than a hundred. A recorded graph
holds addresses, so that buffers are kept and used again. Tokens are chosen by a kernel of our own,
`choose.cu`, behind the step and on its stream, so that logits stay where they are.

All of it also runs on the CPU, without the recording and the kernel: that is how an export is
validated where there is no GPU.
"""

from __future__ import annotations

import threading
import warnings
from collections import defaultdict
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from atom_edge.bundle import Bundle
from atom_edge.errors import BundleError, ProviderError
from atom_edge.manifest import Role
from atom_edge.runtimes.engines.cuda_cache import CudaCache
from atom_edge.runtimes.engines.cuda_choosing import ChoosingCudaCache, Kernels
from atom_edge.runtimes.engines.interface import Device
from atom_edge.runtimes.installation import import_onnxruntime
from atom_edge.runtimes.providers import check_cuda, find_gpu, open_graph, open_on_cuda

if TYPE_CHECKING:
    import onnxruntime

_CHOOSE = Path(__file__).parent / "choose.cu"
# What onnxruntime calls a run that is not recorded.
_NOT_RECORDED = -1


class CudaEngine:
    """An `Engine`: the session, and the buffers that no cache uses at the moment.

    Args:
        graph: the ONNX file, or what `Bundle.read_graph` read of it.
        device: where it runs.
        context_length: tokens of a sequence at most.
        kernels: what chooses tokens on the device. None for those of `choose.cu` on a GPU, where
            they can be had; what has none chooses on the host.

    Raises:
        ProviderError: if CUDA cannot be had, or a node would run elsewhere.
        BundleError: if the file is not such a graph.
    """

    role = Role.CUDA
    batches = True
    copies = False

    def __init__(
        self,
        graph: Path | bytes,
        device: Device,
        context_length: int,
        kernels: Kernels | None = None,
    ) -> None:
        self.device: Device = device
        self.context_length = context_length
        gpu = find_gpu() if device == "cuda" else None
        self.session = open_on_cuda(graph, gpu) if device == "cuda" else open_graph(graph)
        if device == "cuda" and gpu is None:
            warnings.warn(
                "CUDA's compiler cannot be loaded, so that tokens are chosen on the host, which is "
                "many times slower for batches. Run: pip install 'onnxruntime-gpu[cuda,cudnn]'",
                RuntimeWarning,
                stacklevel=2,
            )
        inputs = {value.name: value for value in self.session.get_inputs()}
        self.cache_names = [name for name in inputs if name.startswith("past_key_values.")]
        if not self.cache_names or not {"seqlens_k", "logits_index"} < set(inputs):
            raise BundleError(
                f"The graph is not a decoder for CUDA: its inputs are {sorted(inputs)}."
            )
        _, self.kv_heads, _, self.head_size = inputs[self.cache_names[0]].shape
        self.vocab_size: int = self.session.get_outputs()[0].shape[-1]
        if gpu is not None and kernels is None:
            kernels = gpu.compile(_CHOOSE.read_bytes(), {"VOCABULARY": self.vocab_size})
        self.kernels = kernels
        # Whoever runs anything holds it: what another thread began while a step is recorded would
        # be recorded with it.
        self.lock = threading.RLock()
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
        if self.kernels is not None:
            return ChoosingCudaCache(self, batch_size, self.kernels)
        return CudaCache(self, batch_size)

    def take(self, batch_size: int) -> StepBuffers:
        """Buffers for `batch_size` sequences: some that were given back, else new ones."""
        with self.lock:
            spare = self._spare[batch_size]
            return spare.pop() if spare else StepBuffers(self, batch_size, next(self._numbers))

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
        lengths: int32 `[B]`, behind how many tokens of each sequence the next one goes.
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
        self.lengths = graph.copy(np.zeros(batch_size, np.int32))
        self._places = graph.copy(np.arange(batch_size))
        # Read on the host when the step is recorded; what the rows see, `lengths` says.
        self._total = np.array(graph.context_length, np.int32)
        self._binding = self._bind(graph)
        self._options = graph.run_options(number)
        self._run = graph.session.run_with_iobinding
        self._last = graph.context_length - 1
        self._this_thread = threading.local()
        self.record(np.zeros(batch_size, np.int64))

    def _bind(self, graph: CudaEngine) -> onnxruntime.IOBinding:
        binding = graph.session.io_binding()
        binding.bind_ortvalue_input("input_ids", self.token_ids)
        binding.bind_ortvalue_input("seqlens_k", self.lengths)
        binding.bind_ortvalue_input("logits_index", self._places)
        binding.bind_cpu_input("total_sequence_length", self._total)
        for name, part in zip(graph.cache_names, self.cache, strict=True):
            binding.bind_ortvalue_input(name, part)
            binding.bind_ortvalue_output(name.replace("past_key_values", "present"), part)
        binding.bind_ortvalue_output("logits", self.logits)
        if "likeliest" in {value.name for value in graph.session.get_outputs()}:
            shape, place = [self.batch_size], self.token_ids.data_ptr()
            binding.bind_output("likeliest", graph.device, 0, np.int64, shape, place)
        return binding

    def record(self, lengths: NDArray[np.int64]) -> None:
        """Have the step recorded for this thread, as onnxruntime does for each.

        It runs the step several times, each of which finds the tokens that the one before left.
        So it is done by itself, at places whose contents the next step writes.
        """
        if hasattr(self._this_thread, "recorded"):
            return
        tokens = self.token_ids.numpy().copy()
        self.lengths.update_inplace(np.minimum(lengths, self._last).astype(np.int32))
        self.run()
        self.token_ids.update_inplace(tokens)
        self._this_thread.recorded = True

    def step(self, lengths: NDArray[np.int64]) -> None:
        """Run `token_ids` as the tokens at the places `lengths`, int64 `[B]`."""
        self.record(lengths)
        self.lengths.update_inplace(lengths.astype(np.int32))
        self.run()

    def run(self) -> None:
        """Run `token_ids` as the tokens at the places that `lengths` has; `record` comes first."""
        self._run(self._binding, self._options)
