"""The command line ends with one line, whatever happens, and prints nothing that acts."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from atom_edge.printing import printable
from atom_edge.reference import bundle_path


def run(code: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, **options
    )


FAILING = """
import atom_edge.cli as cli
def fail():
    raise {error}
cli.app = fail
cli.main()
"""


@pytest.mark.parametrize(
    ("error", "line"),
    [
        ("RuntimeError('a\\nb\\x1b[2J')", "error: unexpected RuntimeError: a\\nb\\x1b[2J ("),
        ("OSError(28, 'No space left on device', 'x')", "error: [Errno 28] No space left"),
        ("MemoryError()", "error: unexpected MemoryError:"),
    ],
)
def test_an_unexpected_error_is_one_line(error: str, line: str) -> None:
    done = run(FAILING.format(error=error))
    assert done.returncode == 1
    assert done.stderr.startswith(line)
    assert len(done.stderr.splitlines()) == 1
    shown = run(FAILING.format(error=error), env={"ATOM_EDGE_TRACEBACK": "1"})
    assert "Traceback" in shown.stderr
    assert shown.returncode == 1


def test_a_full_device_is_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "atom_edge.cli", "inspect"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    assert (done.returncode, done.stderr) == (1, "error: [Errno 28] No space left on device\n")


def test_inspect_shows_markup_and_control_sequences_as_text(tmp_path: Path) -> None:
    folder = tmp_path / "[bold]b"
    shutil.copytree(bundle_path(), folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["source"]["repo"] = "org/[/foo]name\x1b[2J"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    done = subprocess.run(
        [sys.executable, "-m", "atom_edge.cli", "inspect", folder],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "[bold]b: verified" in done.stdout
    assert "org/[/foo]name\\x1b[2J" in done.stdout
    assert "\x1b" not in done.stdout


def test_printable_escapes_what_acts() -> None:
    assert printable("a\tb\nc é 漢 🙂", keep="\n") == "a\\tb\nc é 漢 🙂"
    assert printable("\x9b1m\u202e\ud800") == "\\x9b1m\\u202e\\ud800"


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_is_no_fault(closed: str) -> None:
    command = f"{sys.executable} -m atom_edge.cli generate The -n 2 -t 0 {closed}"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "error" not in done.stderr
