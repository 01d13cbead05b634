"""atom-edge: ONNX export and edge deployment for Atom and other small language models.

Importing this package imports neither torch nor onnxruntime: each public name loads its module
when it is first used.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atom_edge.bundle import Bundle, open_bundle
    from atom_edge.checkpoint import open_snapshot
    from atom_edge.config import AtomConfig
    from atom_edge.errors import (
        AtomEdgeError,
        BundleError,
        CacheError,
        ExportError,
        GenerationError,
        IntegrityError,
        MissingExtraError,
        ProviderError,
        SnapshotError,
        TokenizerError,
        UnsupportedModelError,
        ValidationError,
        WeightsError,
    )
    from atom_edge.exporters.export import export
    from atom_edge.exporters.repeat import validate_bundle as validate
    from atom_edge.modeling import AtomForCausalLM
    from atom_edge.runtimes.chat import Conversation
    from atom_edge.runtimes.options import GenerationOptions
    from atom_edge.runtimes.reply import Generation, Piece
    from atom_edge.runtimes.session import AtomSession

# Telemetry of the libraries below us is off unless the user has set these to another value.
for _switch in ("ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY"):
    os.environ.setdefault(_switch, "1")

__version__ = "0.1.0"
__all__ = [
    "AtomConfig",
    "AtomEdgeError",
    "AtomForCausalLM",
    "AtomSession",
    "Bundle",
    "BundleError",
    "CacheError",
    "Conversation",
    "ExportError",
    "Generation",
    "GenerationError",
    "GenerationOptions",
    "IntegrityError",
    "MissingExtraError",
    "Piece",
    "ProviderError",
    "SnapshotError",
    "TokenizerError",
    "UnsupportedModelError",
    "ValidationError",
    "WeightsError",
    "export",
    "open_bundle",
    "open_snapshot",
    "validate",
]

# Where each public name lives, and what it is called there if that differs.
_HOMES = {
    "AtomConfig": "atom_edge.config",
    "AtomEdgeError": "atom_edge.errors",
    "AtomForCausalLM": "atom_edge.modeling",
    "AtomSession": "atom_edge.runtimes.session",
    "Bundle": "atom_edge.bundle",
    "BundleError": "atom_edge.errors",
    "CacheError": "atom_edge.errors",
    "Conversation": "atom_edge.runtimes.chat",
    "ExportError": "atom_edge.errors",
    "Generation": "atom_edge.runtimes.reply",
    "GenerationError": "atom_edge.errors",
    "GenerationOptions": "atom_edge.runtimes.options",
    "IntegrityError": "atom_edge.errors",
    "MissingExtraError": "atom_edge.errors",
    "Piece": "atom_edge.runtimes.reply",
    "ProviderError": "atom_edge.errors",
    "SnapshotError": "atom_edge.errors",
    "TokenizerError": "atom_edge.errors",
    "UnsupportedModelError": "atom_edge.errors",
    "ValidationError": "atom_edge.errors",
    "WeightsError": "atom_edge.errors",
    "export": "atom_edge.exporters.export",
    "open_bundle": "atom_edge.bundle",
    "open_snapshot": "atom_edge.checkpoint",
    "validate": "atom_edge.exporters.repeat",
}
_CALLED = {"validate": "validate_bundle"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'atom_edge' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), _CALLED.get(name, name))


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
