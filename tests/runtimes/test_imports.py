"""The runtime runs in a process that has neither torch nor any other package of the exporter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "transformers", "onnx", "optimum", "safetensors", "jinja2", "onnxscript")
BLOCKED = f"""
import importlib.abc, json, sys

class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in {HEAVY!r}:
            raise ModuleNotFoundError("No module named " + repr(name), name=name)

sys.meta_path.insert(0, Blocker())
"""


def run(code: str, *arguments: str | Path) -> str:
    result = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONWARNINGS": "error"},
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_generation_works_without_them(small_bundle: Path) -> None:
    text = run(
        BLOCKED + "from atom_edge import AtomSession\n"
        "session = AtomSession.from_pretrained(sys.argv[1])\n"
        "print(json.dumps(session.generate('The', temperature=0, max_new_tokens=4).token_ids))\n"
        "assert 'asyncio' not in sys.modules",
        small_bundle,
    )
    assert len(json.loads(text)) == 4


def test_a_checkout_is_whole_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when Python is started in it, whatever is installed."""
    monkeypatch.chdir(Path(__file__).parents[2])
    found = run(
        "import sys\n"
        "editable = [f for f in sys.meta_path if 'Editable' in getattr(f, '__name__', '')]\n"
        "sys.meta_path = [f for f in sys.meta_path if f not in editable]\n"
        "import atom_edge.exporters, atom_edge.runtimes.session\n"
        "print(atom_edge.exporters.__file__)"
    )
    assert Path(found.strip()).resolve() == Path("exporters/__init__.py").resolve()


def test_no_command_line_import_needs_them() -> None:
    run(BLOCKED + "import atom_edge.cli, atom_edge.runtimes.chat, atom_edge.bundle")


def test_generation_imports_none_of_them_where_they_are_installed(small_bundle: Path) -> None:
    loaded = run(
        "import sys, json; from atom_edge import AtomSession\n"
        "AtomSession.from_pretrained(sys.argv[1]).generate('The', max_new_tokens=2)\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))",
        small_bundle,
    )
    assert "onnxruntime" in json.loads(loaded)
    assert not set(HEAVY) & set(json.loads(loaded))


def test_importing_the_package_loads_nothing_heavy() -> None:
    loaded = run(
        "import sys, json, atom_edge\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    assert not {*HEAVY, "numpy", "onnxruntime", "tokenizers"} & set(json.loads(loaded))
