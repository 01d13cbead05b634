"""The kernels for GPUs, compiled for the CPU: their threads take turns."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atom_edge.runtimes.engines import cuda

KERNELS = Path(cuda.__file__).resolve().parent / "choose.cu"
# A warp: fewer turns to take.
_THREADS = 32


class HostKernels:
    """What `atom_edge.runtimes.gpu.Kernels` does on a device, on the host."""

    def __init__(self, vocab_size: int, folder: Path, threads: int = _THREADS) -> None:
        library = folder / f"kernels-{vocab_size}.so"
        subprocess.run(
            [
                *("g++", "-x", "c++", "-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror"),
                *("-ffp-contract=off", "-shared", "-fPIC", f"-DVOCABULARY={vocab_size}"),
                *(f'-DKERNELS="{KERNELS}"', "-o", str(library)),
                str(Path(__file__).parent / "cuda_emulator.cpp"),
            ],
            check=True,
        )
        self._library = ctypes.CDLL(str(library))
        self._threads = threads
        self.launched: list[str] = []

    def upload(self, array: NDArray[Any], address: int) -> None:
        array = np.ascontiguousarray(array)
        ctypes.memmove(address, array.ctypes.data, array.nbytes)

    def download(self, address: int, array: NDArray[Any]) -> None:
        ctypes.memmove(array.ctypes.data, address, array.nbytes)

    def launch(self, name: str, blocks: int, threads: int, *arguments: Any) -> None:
        self.launched.append(name)
        places = (ctypes.c_void_p * len(arguments))(*map(ctypes.addressof, arguments))
        threads = min(threads, self._threads)
        met = self._library.launch(name.encode(), ctypes.c_uint(blocks), threads, places)
        assert met, f"{name}: not all threads came to the same barriers, or there is no such kernel"
