"""Denormals are flushed while a graph runs, and nowhere else."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from atom_edge.runtimes.denormals import CAN_FLUSH, flushed_denormals

DENORMAL = np.float32(1e-40)
ONE = np.float32(1)


def test_the_mode_ends_with_the_context() -> None:
    on_linux_x86 = sys.platform == "linux" and platform.machine() == "x86_64"
    assert on_linux_x86 == CAN_FLUSH
    with flushed_denormals():
        assert bool(DENORMAL * ONE == 0) is CAN_FLUSH
        with flushed_denormals():
            pass
        assert bool(DENORMAL * ONE == 0) is CAN_FLUSH
    assert DENORMAL * ONE != 0


def test_the_mode_ends_with_an_error() -> None:
    with pytest.raises(ZeroDivisionError), flushed_denormals():
        raise ZeroDivisionError
    assert DENORMAL * ONE != 0


def test_a_session_leaves_the_thread_as_it_was(small_int8_bundle: Path) -> None:
    """In a process of its own: onnxruntime sets the mode once, with the first session."""
    code = f"""
import numpy as np
from atom_edge import AtomSession

session = AtomSession.from_pretrained({str(small_int8_bundle)!r}, threads=2)
assert np.float32(1e-40) * np.float32(1) != 0
session.generate(list(range(5, 60)), max_new_tokens=2)
assert np.float32(1e-40) * np.float32(1) != 0
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
