"""The text that exports are validated on."""

from __future__ import annotations

import importlib.resources


def heldout_text() -> str:
    """Text that the reference checkpoint has not seen; see `data/README.md`."""
    return importlib.resources.files(__package__).joinpath("data/heldout.txt").read_text("utf-8")
