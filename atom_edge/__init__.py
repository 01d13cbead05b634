"""atom-edge: ONNX export and edge deployment for Atom and other small language models.

Importing this package imports neither torch nor onnxruntime: each public name loads its module
when it is first used.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atom_edge.checkpoint import open_snapshot
    from atom_edge.config import AtomConfig
    from atom_edge.modeling import AtomForCausalLM
    from atom_edge.runtimes.session import AtomSession

# Telemetry of the libraries below us is off unless the user has set these to another value.
for _switch in ("ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY"):
    os.environ.setdefault(_switch, "1")

__version__ = "0.1.0"
__all__ = ["AtomConfig", "AtomForCausalLM", "AtomSession", "open_snapshot"]

_HOMES = {
    "AtomConfig": "atom_edge.config",
    "AtomForCausalLM": "atom_edge.modeling",
    "AtomSession": "atom_edge.runtimes.session",
    "open_snapshot": "atom_edge.checkpoint",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'atom_edge' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
