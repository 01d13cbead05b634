"""The programs of docs/serving.md, as they stand there but for the server's address."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runtimes.server.conftest import Running, serving

PAGE = (Path(__file__).parents[3] / "docs" / "serving.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
CURL = re.findall(r"^    (curl .*)$", PAGE, re.MULTILINE)


@pytest.fixture(scope="module")
def named(chat_bundle: Path) -> Iterator[Running]:
    """A server that has the names of the page."""
    with serving(chat_bundle, "--name", "my-bundle", "--name", "my-chat-bundle") as running:
        yield running


@pytest.mark.parametrize("program", PROGRAMS, ids=["completion", "stream", "chat"])
def test_a_program_works(named: Running, program: str) -> None:
    assert "http://127.0.0.1:8080" in program
    program = program.replace("http://127.0.0.1:8080", named.url)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.parametrize("line", CURL)
def test_a_line_with_curl_works(named: Running, line: str) -> None:
    line = line.replace("http://127.0.0.1:8080", named.url)
    done = subprocess.run(line, shell=True, capture_output=True, text=True, timeout=60)
    assert '"text_completion"' in done.stdout, done.stderr
