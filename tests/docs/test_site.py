"""The documentation builds without a warning, and what it shows works."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from atom_edge.cli import app

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
# Pages whose programs have tests of their own.
ELSEWHERE = {"plain-onnxruntime.md", "serving.md"}
PROGRAMS = [
    pytest.param(program, id=f"{page.name}-{number}")
    for page in PAGES
    if page.name not in ELSEWHERE
    for number, program in enumerate(
        re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    )
]
COMMANDS = sorted(
    {
        line.split("#")[0].split("&&")[-1].strip()
        for page in PAGES
        for line in re.sub(r"\\\n +", "", page.read_text(encoding="utf-8")).splitlines()
        if re.match(r"    (.*(&&|\|) )?(.venv/bin/)?atom-edge \w", line)
    }
)


def test_the_site_builds_strictly(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    home = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "atom-edge" in home
    assert "from_pretrained" in (tmp_path / "api" / "index.html").read_text(encoding="utf-8")
    # The pages ask no other host for anything.
    assert not re.findall(r'(?:src|href)="https?://[^"]+\.(?:js|css|woff2?)"', home)


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_of_the_documentation_runs(
    program: str, small_bundle: Path, chat_bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "my-bundle").symlink_to(small_bundle)
    (tmp_path / "my-chat-bundle").symlink_to(chat_bundle)
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
    )
    assert result.returncode == 0, result.stderr
    assert "print(" not in program or result.stdout


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_of_the_documentation_exists(line: str) -> None:
    """With these options and arguments; what the commands do has tests of its own."""
    group = typer.main.get_command(app)
    _, name, *arguments = shlex.split(line[line.index("atom-edge ") :].replace(" | ", " "))
    arguments = [re.sub(r"^\[|\]$", "", argument) for argument in arguments]
    group.commands[name].make_context(name, arguments)  # type: ignore[attr-defined]  # a group
