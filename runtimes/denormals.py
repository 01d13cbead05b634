"""Denormal numbers flushed to zero while a graph runs.

The softmax of masked attention takes exponentials so small that they are denormal on the way to
zero. x86 CPUs of Intel leave those to microcode, at a hundred cycles each: prefill takes a third
longer for numbers that end as 0 either way. onnxruntime's own `session.set_denormal_as_zero` sets
the mode of the calling thread once for the whole process, where other code would find it; here it
is set for a run and restored.
"""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

# glibc's and musl's <fenv.h> of x86-64: the x87 environment, and MXCSR behind it.
_SIZE, _MXCSR = 32, slice(28, 32)
_FLUSH_TO_ZERO, _DENORMALS_ARE_ZERO = 1 << 15, 1 << 6


class _FloatMode:
    """The floating-point environment of a thread, as C's library gets and sets it."""

    def __init__(self) -> None:
        library = ctypes.CDLL(None)
        self._get, self._set = library.fegetenv, library.fesetenv

    def read(self) -> bytes:
        environment = ctypes.create_string_buffer(_SIZE)
        self._get(environment)
        return environment.raw

    def write(self, environment: bytes) -> None:
        self._set(environment)


def _float_mode() -> _FloatMode | None:
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return None
    try:
        return _FloatMode()
    except (OSError, AttributeError):
        return None


_MODE = _float_mode()
CAN_FLUSH = _MODE is not None


def flushed_denormals() -> AbstractContextManager[None]:
    """Flush denormals of this thread to zero within the context, where that is known how."""
    return nullcontext() if _MODE is None else _flushed(_MODE)


@contextmanager
def _flushed(mode: _FloatMode) -> Iterator[None]:
    before = mode.read()
    bits = int.from_bytes(before[_MXCSR], "little") | _FLUSH_TO_ZERO | _DENORMALS_ARE_ZERO
    mode.write(before[: _MXCSR.start] + bits.to_bytes(4, "little"))
    try:
        yield
    finally:
        mode.write(before)
