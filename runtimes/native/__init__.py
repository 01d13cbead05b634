"""The native library: the decoder as an operator of onnxruntime, and the C interface.

It is C++ that `pip install` compiles where there is a compiler; `build` compiles it later. Without
it bundles run on onnxruntime's own operators.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import TYPE_CHECKING

from atom_edge.errors import ProviderError

if TYPE_CHECKING:
    import onnxruntime

_FOLDER = Path(__file__).resolve().parent
INCLUDE_FOLDER = _FOLDER / "include"
HOW_TO_BUILD = (
    "Install a C++ compiler (Debian, Ubuntu: apt install g++), then run: "
    "python -m atom_edge.runtimes.native.build"
)


def library() -> Path | None:
    """The shared library; None where it was not built."""
    from atom_edge.runtimes.native.build import library_name  # subprocess and argparse with it

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
