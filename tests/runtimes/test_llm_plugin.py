"""`llm -m atom-edge`, in a process of its own with a home of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from atom_edge.runtimes.session import AtomSession


def llm(home: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "llm", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "LLM_USER_PATH": str(home)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_plugin_continues_text(
    small_bundle: Path, session: AtomSession, tmp_path: Path
) -> None:
    assert "atom-edge" in llm(tmp_path, "models")
    options = ["-o", "bundle", str(small_bundle), "-o", "temperature", "0"]
    options += ["-o", "max_new_tokens", "8"]
    first = llm(tmp_path, "-m", "atom-edge", *options, "The river").removesuffix("\n")
    expected = session.generate("The river", temperature=0, max_new_tokens=8).text
    assert first == expected
    second = llm(tmp_path, "-c", "-m", "atom-edge", *options, "A").removesuffix("\n")
    text = f"The river{first}\n\nA"
    assert second == session.generate(text, temperature=0, max_new_tokens=8).text


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "llm", "-m", "atom-edge", "-o", "bundle", "nowhere", "A"],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "LLM_USER_PATH": str(tmp_path)},
    )
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert "nowhere" in done.stderr
