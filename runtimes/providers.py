"""Where a graph runs, and with how many threads.

A provider that was asked for and cannot be had is an error: onnxruntime itself would go on, on the
CPU, without a word.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from atom_edge.errors import GenerationError, ProviderError
from atom_edge.runtimes.installation import (
    how_to_mend,
    import_onnxruntime,
    installed_flavours,
    mixture,
)
from atom_edge.runtimes.native import register

if TYPE_CHECKING:
    from types import ModuleType

    import onnxruntime

    from atom_edge.runtimes.gpu import Gpu

Provider = Literal["cpu", "cuda", "auto"]

_CUDA = "CUDAExecutionProvider"
# Severities of onnxruntime's log; the second is its default.
_FATAL, _WARNING = 4, 2
# A step of a model of a few million parameters is a tenth of a millisecond of work per product:
# past this, more threads cost more in waiting for each other than they compute.
_MOST_THREADS = 4
# Bytes of a graph whose products are too short to share: to wake a second thread takes longer than
# its part of one.
_SMALL = 16 * 2**20
_THREAD_LIMIT = 1024  # of what a caller may ask for


def open_graph(
    graph: Path | bytes, *, threads: int | None = None, native: bool = False
) -> onnxruntime.InferenceSession:
    """Load a graph of a verified bundle on the CPU.

    Args:
        graph: the ONNX file, or what `Bundle.read_graph` read of it.
        threads: threads that one run uses. None for `default_threads(graph)`; those sleep while
            they have nothing to do, so that whatever else runs keeps its cores. A number is for
            cores that nothing else wants: more than one thread then wait by spinning, for some
            milliseconds after a run too, which is faster there and much slower elsewhere.
        native: whether it has operators of the native library.

    Raises:
        BundleError: if this onnxruntime cannot run the graph.
        GenerationError: if `threads` is not from 1 to 1,024.
        MissingExtraError: if onnxruntime is not installed.
        ProviderError: if the native library is needed and cannot be had.
    """
    check_threads(threads)
    options = import_onnxruntime().SessionOptions()
    options.intra_op_num_threads = threads or default_threads(graph)
    # An arena doubles as it grows and gives nothing back; without it a step is as fast.
    options.enable_cpu_mem_arena = False
    options.add_session_config_entry(
        "session.intra_op.allow_spinning", "0" if threads is None else "1"
    )
    if native:
        register(options)
        # One node: the optimizers would cost a millisecond and a megabyte for nothing.
        options.graph_optimization_level = (
            import_onnxruntime().GraphOptimizationLevel.ORT_DISABLE_ALL
        )
    return _load(graph, options, ["CPUExecutionProvider"])


def find_gpu() -> Gpu | None:
    """The GPU, to run kernels of our own on; None where they cannot be compiled.

    Raises:
        ProviderError: if the installed onnxruntime has no CUDA in it.
        MissingExtraError: if none is installed.
    """
    from atom_edge.runtimes.gpu import Gpu  # with ctypes and numpy, which few need

    onnxruntime = check_cuda()
    with quietly():
        onnxruntime.preload_dlls()
    try:
        return Gpu()
    except ProviderError:
        return None


def open_on_cuda(graph: Path | bytes, gpu: Gpu | None = None) -> onnxruntime.InferenceSession:
    """Load a graph of a verified bundle on a GPU, its runs to be recorded as CUDA graphs.

    Args:
        graph: the ONNX file, or what `Bundle.read_graph` read of it.
        gpu: whose stream the runs are to be on; None for one of onnxruntime's own.

    Raises:
        ProviderError: if CUDA cannot be had, or a node of the graph would run on the CPU.
        BundleError: if this onnxruntime cannot run the graph.
        MissingExtraError: if onnxruntime is not installed.
    """
    onnxruntime = check_cuda()
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    with quietly() as printed:
        onnxruntime.preload_dlls()  # finds the CUDA libraries that come as wheels
        settings = {"enable_cuda_graph": "1"}
        if gpu is not None:
            settings["user_compute_stream"] = str(gpu.stream)
        session = _load(graph, options, [(_CUDA, settings)])
    if _CUDA not in session.get_providers():
        reason = missing_libraries(printed.getvalue()) or (
            "there is no usable GPU, or its driver is older than the CUDA libraries. "
            "`nvidia-smi` shows both."
        )
        raise ProviderError(f"CUDA was asked for and onnxruntime could not start it: {reason}")
    check_placement(session, _CUDA)
    return session


def missing_libraries(printed: str) -> str | None:
    """What `preload_dlls` printed as a sentence with its remedy; None if it found everything."""
    missing = sorted(set(re.findall(r"Failed to load (\S+?):", printed)))
    if not missing:
        return None
    return f"{', '.join(missing)} cannot be loaded. Run: pip install 'onnxruntime-gpu[cuda,cudnn]'"


@contextlib.contextmanager
def quietly() -> Iterator[io.StringIO]:
    """Keep what onnxruntime prints on stdout, and its log, to the caller: errors say it better."""
    onnxruntime = import_onnxruntime()
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        onnxruntime.set_default_logger_severity(_FATAL)
        try:
            yield printed
        finally:
            onnxruntime.set_default_logger_severity(_WARNING)


def check_cuda() -> ModuleType:
    """The module `onnxruntime`, if it is one with CUDA in it.

    Raises:
        ProviderError: if it is not.
        MissingExtraError: if none is installed.
    """
    onnxruntime = import_onnxruntime("cuda")
    if _CUDA not in onnxruntime.get_available_providers():
        flavours = installed_flavours()
        raise ProviderError(
            "CUDA was asked for, and the installed onnxruntime has no CUDA in it. "
            f"{mixture(flavours) or ''} {how_to_mend(flavours, 'cuda')}".replace("  ", " ")
        )
    return onnxruntime


def check_placement(session: onnxruntime.InferenceSession, provider: str) -> None:
    """Refuse a session with a node that another provider than `provider` runs.

    Such a node is slow, since its inputs are copied back and forth, and can be wrong: onnxruntime
    1.31's float32 GroupQueryAttention falls back to the CPU and misses what a shared cache holds.

    Args:
        session: opened with `session.record_ep_graph_assignment_info`.
        provider: onnxruntime's name of it.

    Raises:
        ProviderError: with the operators that landed elsewhere.
    """
    elsewhere: Counter[str] = Counter()
    for part in session.get_provider_graph_assignment_info():
        if part.ep_name != provider:
            elsewhere.update(f"{node.op_type} on {part.ep_name}" for node in part.get_nodes())
    if elsewhere:
        named = ", ".join(f"{count} {where}" for where, count in sorted(elsewhere.items()))
        raise ProviderError(
            f"Not all of the graph runs on {provider}: {named}. Export the bundle again with this "
            "release of atom-edge and --target cuda, or install an onnxruntime-gpu that has these "
            "operators."
        )


def check_threads(threads: int | None) -> None:
    """Refuse a number of threads that makes no sense.

    Raises:
        GenerationError: if it is neither from 1 to 1,024 nor None.
    """
    if threads is not None and not (isinstance(threads, int) and 1 <= threads <= _THREAD_LIMIT):
        raise GenerationError(
            f"threads is {threads!r}; it must be an integer from 1 to {_THREAD_LIMIT}, or None."
        )


def default_threads(graph: Path | bytes | None = None) -> int:
    """1 for a graph of less than 16 MB; else half of the usable cores, from 1 to 4.

    Usable are the cores that affinity and a container's CPU quota leave to this process. Half of
    them, because two logical cores are often one physical one, and because a thread that has to
    wait for a busy core stops all others.
    """
    if graph is not None and _size(graph) < _SMALL:
        return 1
    return max(1, min(usable_cores() // 2, _MOST_THREADS))


def serving_threads(graph: Path, cores: int | None = None) -> tuple[int, int]:
    """How a server makes use of some cores: its batches at once, and the threads of each.

    Args:
        graph: what it runs. Of a small one the products are too short to share, and each thread
            has a batch of its own.
        cores: None for half of the usable ones, from 2 to 4; a server has them to itself.

    Raises:
        GenerationError: if it is not from 1 to 1,024.
    """
    check_threads(cores)
    if cores is None:
        cores = max(default_threads(), min(2, usable_cores()))
    return (cores, 1) if _size(graph) < _SMALL else (1, cores)


def _size(graph: Path | bytes) -> int:
    return len(graph) if isinstance(graph, bytes) else graph.stat().st_size


def usable_cores() -> int:
    """Cores that this process may use: the lesser of its affinity and its cgroup's CPU quota."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS or Windows
        cores = os.cpu_count() or 1
    quota = _cgroup_quota(Path("/sys/fs/cgroup"))
    return cores if quota is None else max(1, min(cores, int(quota)))


def _cgroup_quota(root: Path) -> float | None:
    """CPUs' worth of time that the container is given; None without a limit.

    Reads cgroup v2's `cpu.max` ("QUOTA PERIOD" or "max PERIOD", in microseconds) or v1's pair.
    """
    try:
        if (root / "cpu.max").exists():
            quota, period = (root / "cpu.max").read_text().split()
        else:
            quota = (root / "cpu" / "cpu.cfs_quota_us").read_text()
            period = (root / "cpu" / "cpu.cfs_period_us").read_text()
        return int(quota) / int(period) if int(quota) > 0 else None
    except (OSError, ValueError, ZeroDivisionError):  # no cgroup, or the word "max"
        return None


def _load(
    graph: Path | bytes, options: onnxruntime.SessionOptions, providers: Sequence[Any]
) -> onnxruntime.InferenceSession:
    import_onnxruntime()
    from atom_edge.runtimes.onnx_session import OnnxSession

    options.inter_op_num_threads = 1
    return OnnxSession(graph if isinstance(graph, bytes) else str(graph), options, providers)
