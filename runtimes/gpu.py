"""The first CUDA device, by the driver's own interface: a stream, copies, and kernels.

A kernel is compiled from its source when it is needed, for the device that is there, by NVRTC:
`onnxruntime-gpu[cuda]` brings it, and so does PyTorch.
"""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Mapping, Sequence
from ctypes import byref, c_char_p, c_int, c_size_t, c_uint, c_void_p
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atom_edge.errors import ProviderError

# What a kernel takes: an address, or a 32-bit integer.
Argument = c_void_p | c_int

_DRIVERS = ("libcuda.so.1", "nvcuda.dll")
_COMPILERS = ("libnvrtc.so.13", "libnvrtc.so.12", "nvrtc64_130_0.dll", "nvrtc64_120_0.dll")
# Where wheels of NVIDIA's have them, in the namespace package `nvidia`.
_IN_WHEELS = ("*/lib/libnvrtc.so.1?", "*/bin/**/nvrtc64_*_0.dll")
# A stream that work on the default stream does not wait for.
_NON_BLOCKING = 1
# Attributes of a device: the two numbers of its compute capability.
_MAJOR, _MINOR = 75, 76


class Gpu:
    """The device, for the thread that makes it and for any other.

    Attributes:
        stream: the address of a stream, on which everything here is done in order.

    Raises:
        ProviderError: if there is no driver, no device or no NVRTC.
    """

    def __init__(self) -> None:
        self._driver = _library(_DRIVERS)
        self._compiler = _library((*_COMPILERS, *_compilers_in_wheels()))
        self._call("cuInit", c_uint(0))
        device, context, stream = c_int(), c_void_p(), c_void_p()
        self._call("cuDeviceGet", byref(device), c_int(0))
        # The context that onnxruntime works in, too.
        self._call("cuDevicePrimaryCtxRetain", byref(context), device)
        self._context = context
        self._call("cuCtxSetCurrent", context)
        numbers = [c_int(), c_int()]
        for number, attribute in zip(numbers, (_MAJOR, _MINOR), strict=True):
            self._call("cuDeviceGetAttribute", byref(number), c_int(attribute), device)
        self._architecture = "sm_{}{}".format(*(number.value for number in numbers))
        self._call("cuStreamCreate", byref(stream), c_uint(_NON_BLOCKING))
        assert stream.value is not None
        self.stream: int = stream.value

    def compile(self, source: bytes, constants: Mapping[str, int]) -> Kernels:
        """The kernels of a source in CUDA C++.

        Args:
            source: functions that are `extern "C" __global__`.
            constants: macros that are defined for it.

        Raises:
            ProviderError: if it does not compile or load.
        """
        module = c_void_p()
        self._call("cuCtxSetCurrent", self._context)
        self._call("cuModuleLoadData", byref(module), self._compiled(source, constants))
        return Kernels(self, module)

    def _compiled(self, source: bytes, constants: Mapping[str, int]) -> bytes:
        program, size = c_void_p(), c_size_t()
        none = (byref(program), source, b"kernels.cu", c_int(0), None, None)
        self._compile("nvrtcCreateProgram", *none)
        options = [f"--gpu-architecture={self._architecture}", "--std=c++17", "--fmad=false"]
        options += [f"-D{name}={value}" for name, value in constants.items()]
        array = (c_char_p * len(options))(*(option.encode() for option in options))
        try:
            self._compile("nvrtcCompileProgram", program, c_int(len(options)), array)
        except ProviderError as error:
            self._compile("nvrtcGetProgramLogSize", program, byref(size))
            log = ctypes.create_string_buffer(size.value)
            self._compile("nvrtcGetProgramLog", program, log)
            raise ProviderError(f"{error} {log.value.decode(errors='replace')}") from error
        self._compile("nvrtcGetCUBINSize", program, byref(size))
        code = ctypes.create_string_buffer(size.value)
        self._compile("nvrtcGetCUBIN", program, code)
        self._compile("nvrtcDestroyProgram", byref(program))
        return code.raw

    def _call(self, name: str, *arguments: Any) -> None:
        if status := getattr(self._driver, name)(*arguments):
            text = c_char_p()
            self._driver.cuGetErrorName(c_int(status), byref(text))
            named = (text.value or b"an unknown error").decode()
            raise ProviderError(f"The CUDA driver's {name} failed: {named} ({status}).")

    def _compile(self, name: str, *arguments: Any) -> None:
        if status := getattr(self._compiler, name)(*arguments):
            self._compiler.nvrtcGetErrorString.restype = c_char_p
            named = self._compiler.nvrtcGetErrorString(c_int(status)).decode()
            raise ProviderError(f"CUDA's compiler failed in {name}: {named}.")


class Kernels:
    """Kernels of one source on a device, and copies to and from its memory."""

    def __init__(self, gpu: Gpu, module: c_void_p) -> None:
        self._gpu = gpu
        self._module = module
        self._functions: dict[str, c_void_p] = {}

    def upload(self, array: NDArray[Any], address: int) -> None:
        """Copy an array into the device's memory."""
        array = np.ascontiguousarray(array)
        source, size = c_void_p(array.ctypes.data), c_size_t(array.nbytes)
        self._do("cuMemcpyHtoDAsync_v2", c_void_p(address), source, size)

    def download(self, address: int, array: NDArray[Any]) -> None:
        """Wait for all that was begun, and fill an array from the device's memory."""
        target, size = c_void_p(array.ctypes.data), c_size_t(array.nbytes)
        self._do("cuMemcpyDtoHAsync_v2", target, c_void_p(address), size)
        self._gpu._call("cuStreamSynchronize", c_void_p(self._gpu.stream))

    def launch(self, name: str, blocks: int, threads: int, *arguments: Argument) -> None:
        """Begin a kernel, behind what was begun before."""
        self._gpu._call("cuCtxSetCurrent", self._gpu._context)
        if name not in self._functions:
            found = self._functions[name] = c_void_p()
            self._gpu._call("cuModuleGetFunction", byref(found), self._module, name.encode())
        places = (c_void_p * len(arguments))(*(ctypes.addressof(each) for each in arguments))
        grid, block = (c_uint(blocks), *[c_uint(1)] * 2), (c_uint(threads), *[c_uint(1)] * 2)
        stream = c_void_p(self._gpu.stream)
        function = self._functions[name]
        self._gpu._call("cuLaunchKernel", function, *grid, *block, c_uint(0), stream, places, None)

    def _do(self, name: str, *arguments: Any) -> None:
        self._gpu._call("cuCtxSetCurrent", self._gpu._context)
        self._gpu._call(name, *arguments, c_void_p(self._gpu.stream))


def _compilers_in_wheels() -> list[str]:
    spec = importlib.util.find_spec("nvidia")
    folders = (spec and spec.submodule_search_locations) or ()
    found = [path for folder in folders for each in _IN_WHEELS for path in Path(folder).glob(each)]
    return [str(path) for path in sorted(found, reverse=True)]


def _library(names: Sequence[str]) -> ctypes.CDLL:
    for name in names:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise ProviderError(
        f"{names[0]} cannot be loaded. Run: pip install 'onnxruntime-gpu[cuda,cudnn]'"
    )
