"""The native library: the decoder as an operator of onnxruntime, and the C interface.

It is C++ that `pip install` compiles where there is a compiler; `build` compiles it later. Without
it bundles run on onnxruntime's own operators.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from atom_edge.errors import ProviderError

if TYPE_CHECKING:
    import onnxruntime

_FOLDER = Path(__file__).resolve().parent
INCLUDE_FOLDER = _FOLDER / "include"
CMAKE_FOLDER = _FOLDER / "cmake"
HOW_TO_BUILD = (
    "Install a C++ compiler (Debian, Ubuntu: apt install g++), then run: "
    "python -m atom_edge.runtimes.native.build"
)


def library_name(target: str = sys.platform) -> str:
    """The file name of the library on a target, such as `x86_64-linux-gnu`, or on this machine."""
    if is_apple(target):
        return "libatom_edge.dylib"
    return "atom_edge.dll" if is_windows(target) else "libatom_edge.so"


def is_apple(target: str) -> bool:
    """Whether a target is a macOS."""
    return "darwin" in target or "apple" in target


def is_windows(target: str) -> bool:
    """Whether a target is a Windows."""
    return "mingw" in target or "windows" in target or target == "win32"


def library() -> Path | None:
    """The shared library; None where it was not built."""
    path = _FOLDER / library_name()
    return path if path.is_file() else None


def library_version(path: Path) -> str:
    """The version that a library says it is of.

    Raises:
        ProviderError: if it cannot be loaded here.
    """
    try:
        version = ctypes.CDLL(str(path)).atom_edge_version
    except (OSError, AttributeError) as error:
        raise ProviderError(f"The native library cannot be loaded: {error}.") from error
    version.restype = ctypes.c_char_p
    text: bytes = version()
    return text.decode()


def register(options: onnxruntime.SessionOptions) -> None:
    """Let sessions of these options run the operators of the domain `atom_edge`.

    Raises:
        ProviderError: if there is no library, or onnxruntime refuses it.
    """
    path = library()
    if path is None:
        raise ProviderError(f"The native library was not built. {HOW_TO_BUILD}")
    try:
        options.register_custom_ops_library(str(path))
    except Exception as error:  # onnxruntime's exceptions have no common base of their own
        raise ProviderError(f"onnxruntime does not take {path}: {error}. {HOW_TO_BUILD}") from error
