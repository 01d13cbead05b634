"""Atom as an Optimum architecture: `optimum-cli` exports an Atom folder to a right graph."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from atom_edge.checkpoint import open_snapshot
from atom_edge.exporters.portable import LeftPaddedGraph

OPTIMUM_CLI = "from optimum.commands.optimum_cli import main; main()"


def optimum_cli(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", OPTIMUM_CLI, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_optimum_cli_exports_an_atom_folder(small_snapshot: Path, tmp_path: Path) -> None:
    done = optimum_cli(
        "export", "onnx", "-m", small_snapshot, "--task", "text-generation-with-past", tmp_path
    )
    assert done.returncode == 0, done.stderr
    model = open_snapshot(small_snapshot).model
    ids = np.random.default_rng(0).integers(5, 4096, (1, 40))
    graph = LeftPaddedGraph(tmp_path / "model.onnx")
    with torch.no_grad():
        expected = model(torch.from_numpy(ids)).logits.numpy()
    logits, cache = graph.run(ids[:, :25])
    rest, _ = graph.run(ids[:, 25:], past=cache)
    np.testing.assert_allclose(np.concatenate([logits, rest], axis=1), expected, rtol=0, atol=1e-4)


def test_other_commands_of_optimum_do_not_load_torch() -> None:
    code = (
        "import sys; sys.argv = ['optimum-cli', 'export', 'onnx-other']\n"
        "import optimum.commands.register.register_atom_edge\n"
        "assert 'atom_edge' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
