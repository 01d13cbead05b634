"""Which onnxruntime is installed, and whether it is whole.

Its flavours are distributions of different names that install into one folder: the last one wins,
and removing either takes files from the other. pip notices nothing of that.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

from atom_edge.errors import MissingExtraError, ProviderError, how_to_install

CPU, GPU = "onnxruntime", "onnxruntime-gpu"
FLAVOURS = (
    CPU,
    GPU,
    "onnxruntime-directml",
    "onnxruntime-openvino",
    "onnxruntime-qnn",
    "onnxruntime-rocm",
    "onnxruntime-migraphx",
    "onnxruntime-training",
)


def installed_flavours() -> dict[str, str]:
    """The distributions of onnxruntime in the folder that it is imported from, and their versions.

    Another folder's are not in the way. Where that folder has none, or nothing can be imported,
    those of every folder.
    """
    import importlib.metadata  # a twentieth of a cold start, and needed where something is wrong

    folders = _imported_from()
    for path in ([str(folder) for folder in folders], sys.path):
        found = {
            name: distribution.version
            for name in FLAVOURS
            for distribution in importlib.metadata.distributions(name=name, path=path)
        }
        if found:
            return found
    return {}


def _imported_from() -> list[Path]:
    import importlib.util

    try:
        spec = importlib.util.find_spec(CPU)
    except ValueError:  # a module without a spec stands in its place
        return []
    return [] if spec is None or spec.origin is None else [Path(spec.origin).parents[1]]


def import_onnxruntime(extra: str = "cpu") -> ModuleType:
    """The module `onnxruntime`, checked to be whole.

    Args:
        extra: what to install where there is none, `cpu` or `cuda`.

    Raises:
        MissingExtraError: if none is installed.
        ProviderError: if an installed one cannot be imported, or lacks its files.
    """
    try:
        import onnxruntime
    except ImportError as error:
        flavours = installed_flavours()
        if not flavours:
            raise MissingExtraError("Running a bundle", extra, "onnxruntime") from error
        raise ProviderError(
            f"{_named(flavours)} cannot be imported: {error}. {how_to_mend(flavours, extra)}"
        ) from error
    module: ModuleType = onnxruntime
    if not hasattr(module, "InferenceSession"):
        # What is left of the folder when one of two flavours was removed.
        raise ProviderError(
            "The package onnxruntime lacks its files: removing one flavour of it takes them from "
            f"another. {how_to_mend(installed_flavours(), extra)}"
        )
    return module


def mixture(flavours: dict[str, str]) -> str | None:
    """A sentence about two flavours that lie over each other; None where there is one at most."""
    if len(flavours) < 2:
        return None
    return (
        f"{_named(flavours)} are installed into the same folder, so that one has overwritten the "
        "other."
    )


def how_to_mend(flavours: dict[str, str], extra: str) -> str:
    """The commands that leave one whole onnxruntime."""
    names = " ".join(flavours) or CPU
    return f"Run: pip uninstall -y {names}. {how_to_install(extra)}"


def _named(flavours: dict[str, str]) -> str:
    return " and ".join(f"{name} {version}" for name, version in flavours.items())
