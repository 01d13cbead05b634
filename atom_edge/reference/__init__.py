"""The reference checkpoint and its int8 bundle, shipped as package data.

Both are this project's own training of the Atom 3.4M architecture, not the published weights.
"""

from __future__ import annotations

from pathlib import Path

NAME = "Atom 3.4M reference checkpoint, trained by atom-edge (not the published weights)"
_HERE = Path(__file__).parent


def checkpoint_path() -> Path:
    """Return the folder of the reference snapshot: config, bf16 weights, tokenizer, card."""
    return _HERE / "checkpoint"


def bundle_path() -> Path:
    """Return the folder of the int8 bundle made from the reference snapshot."""
    return _HERE / "bundle"
