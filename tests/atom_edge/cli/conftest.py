"""A session of the small bundle: what the commands must print."""

from __future__ import annotations

from pathlib import Path

import pytest

from atom_edge.runtimes.session import AtomSession


@pytest.fixture(scope="session")
def session(small_bundle: Path) -> AtomSession:
    """The small float32 bundle, on one thread."""
    return AtomSession.from_pretrained(small_bundle, threads=1)
