"""The small model, its float32 bundle, and a session of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from atom_edge.modeling import AtomForCausalLM
from atom_edge.runtimes.session import AtomSession


@pytest.fixture(scope="session")
def model(small_snapshot: Path) -> AtomForCausalLM:
    """The PyTorch model that `session` must agree with."""
    return AtomForCausalLM.from_pretrained(small_snapshot).eval()


@pytest.fixture(scope="session")
def session(small_bundle: Path) -> AtomSession:
    """The bundle of `model`, on one thread."""
    return AtomSession.from_pretrained(small_bundle, threads=1)
