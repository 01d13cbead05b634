"""`atom-edge export` and `validate`, as commands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from atom_edge.bundle import open_bundle
from atom_edge.errors import IntegrityError


def atom_edge(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "atom_edge.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
    )


def test_the_command_line_exports_validates_and_refuses(
    small_snapshot: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = atom_edge("export", small_snapshot, "-o", out, "--quantize", "int8", "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["output"] == str(out)
    assert summary["quantize"] == "int8"
    assert summary["files"]["onnx/model_quantized.onnx"] == (
        (out / "onnx/model_quantized.onnx").stat().st_size
    )
    assert summary["validation"]["effort"] == "quick"
    figures = {figure["name"]: figure for figure in summary["validation"]["measured"][0]["figures"]}
    assert (
        figures["perplexity_ratio.decode"]["value"] <= figures["perplexity_ratio.decode"]["limit"]
    )
    assert summary["tokens_per_second"] > 0

    repeated = atom_edge("validate", out, "--against", small_snapshot, COLUMNS="200")
    assert repeated.returncode == 0, repeated.stderr
    assert "perplexity ratio, decode" in repeated.stdout
    assert "passed" in repeated.stdout
    assert repeated.stdout.splitlines()[-1] == f"Talk to it: atom-edge chat {out}"

    refused = atom_edge(
        "export", small_snapshot, "-o", tmp_path / "no", "--quantize", "int8", "--max-kl", 1e-9
    )
    assert refused.returncode == 1
    assert "FAILED" in refused.stdout
    assert "--max-kl" in refused.stderr
    assert not (tmp_path / "no").exists()

    occupied = atom_edge("export", small_snapshot, "-o", out)
    assert occupied.returncode == 1
    assert "--force" in occupied.stderr
    assert "Traceback" not in occupied.stderr

    graph = out / "onnx/model_quantized.onnx"
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 1
    graph.write_bytes(content)
    with pytest.raises(IntegrityError, match="sha256"):
        open_bundle(out)
    refused = atom_edge("validate", out, "--against", small_snapshot)
    assert refused.returncode == 1
    assert "sha256" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("export", "--quantize", "int3"), 2, "int3"),
        (("export", "no/such-folder/at-all"), 1, "There is no folder"),
        (("export", "no/such-name", "--local-files-only"), 1, "hub's cache does not hold it"),
        (("export", "-o", "{taken}"), 1, "exists. Choose another folder"),
        (("export", "-o", "{taken}", "--force"), 1, "is not a bundle of atom-edge"),
        (("export", "-o", "{file}/out"), 1, "is not a folder"),
        (("validate", "no-such-bundle"), 1, "There is no bundle"),
        (("validate", "{bundle}"), 1, "--against"),
    ],
)
def test_what_cannot_be_is_told_before_torch_is_imported(
    tmp_path: Path, small_bundle: Path, arguments: tuple[str, ...], code: int, told: str
) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "torch.py").write_text("raise SystemExit('torch was imported')")
    names = {"taken": tmp_path / "taken", "file": tmp_path / "file", "bundle": small_bundle}
    filled = [argument.format(**names) for argument in arguments]
    done = atom_edge(*filled, PYTHONPATH=str(tmp_path), COLUMNS="1000")
    assert done.returncode == code
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "taken", "torch.py"]
