"""What every file of the project holds to: lint, format, types, and imports that stay light."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(*command: str, cwd: Path = ROOT) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_lint() -> None:
    run(sys.executable, "-m", "ruff", "check", ".")


def test_format() -> None:
    run(sys.executable, "-m", "ruff", "format", "--check", ".")


def test_types() -> None:
    run(sys.executable, "-m", "mypy", "-p", "atom_edge")


@pytest.mark.parametrize(
    "module",
    [
        "atom_edge",
        "atom_edge.bundle",
        "atom_edge.cli",
        "atom_edge.runtimes.session",
        "atom_edge.tokenizer",
    ],
)
def test_the_runtime_is_light(module: str) -> None:
    heavy = "{'torch', 'transformers', 'onnx', 'optimum', 'onnxscript'}"
    code = f"import sys, {module}; sys.exit(', '.join({heavy} & sys.modules.keys()) or 0)"
    run(sys.executable, "-c", code)
