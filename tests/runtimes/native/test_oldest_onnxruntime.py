"""The oldest onnxruntime that `pyproject.toml` allows runs the operator and the portable graph."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).parents[3] / "pyproject.toml"

GENERATE = """
import json, sys
import onnxruntime
from atom_edge import AtomSession
from atom_edge.runtimes import native
from atom_edge.runtimes.engines.native import NativeEngine
if sys.argv[1] == "portable":
    native.library = lambda: None
session = AtomSession.from_pretrained(threads=1)
assert isinstance(session._engine, NativeEngine) == (sys.argv[1] == "native")
drawn = session.generate("The river", max_new_tokens=24, temperature=0.8, top_p=0.9, seed=3)
greedy = session.generate("The river", max_new_tokens=24, temperature=0)
print(json.dumps([onnxruntime.__version__, drawn.token_ids, greedy.token_ids]))
"""


def generate(engine: str, *path: Path) -> tuple[str, list[int], list[int]]:
    """The version of onnxruntime, tokens that are drawn, and greedy ones."""
    done = subprocess.run(
        [sys.executable, "-c", GENERATE, engine],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    version, drawn, greedy = json.loads(done.stdout)
    return version, drawn, greedy


def test_the_oldest_onnxruntime_gives_the_same_text(tmp_path: Path) -> None:
    found = re.search(r'"onnxruntime>=([\d.]+)', PROJECT.read_text(encoding="utf-8"))
    assert found is not None
    oldest = f"{found[1]}.0"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:"]
    subprocess.run([*pip, "--target", str(tmp_path), f"onnxruntime=={oldest}"], check=True)
    version, *tokens = generate("native", tmp_path)
    assert version == oldest
    assert tokens == list(generate("native")[1:])
    # Its own kernels round otherwise from release to release.
    version, _, greedy = generate("portable", tmp_path)
    assert version == oldest
    assert greedy[:8] == tokens[1][:8]
