"""No socket is opened unless a hub id is given."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

# urllib3, which export imports, makes a socket to see whether there is IPv6; it connects nowhere.
WATCHED = {
    "runtime": ("socket.__new__", "socket.connect", "socket.getaddrinfo", "socket.sendto"),
    "export": ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"),
}
CODE = """
import sys
watched = {watched!r}
def hook(event, arguments):
    if event in watched:
        print("SOCKET", event, arguments, file=sys.stderr)
        raise RuntimeError("a socket")
sys.addaudithook(hook)
from atom_edge.cli import main
sys.argv = ["atom-edge", *{arguments!r}]
main()
"""


def run(kind: str, *arguments: object, said: str = "") -> None:
    code = CODE.format(watched=WATCHED[kind], arguments=[str(word) for word in arguments])
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=said,
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
    )
    assert "SOCKET" not in done.stderr, done.stderr
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("generate", "The water cycle", "-n", 3),
        ("inspect",),
        ("doctor",),
        ("--help",),
    ],
    ids=lambda words: words[0],
)
def test_commands_of_the_runtime(words: tuple[object, ...]) -> None:
    run("runtime", *words)


def test_chat() -> None:
    run("runtime", "chat", said="Hello\n/quit\n")


def test_export(small_snapshot: Path, tmp_path: Path) -> None:
    run("export", "export", small_snapshot, "-o", tmp_path / "bundle")


def test_the_watch_sees_a_socket(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="SOCKET"):
        run("export", "export", "org/name-of-no-model", "-o", tmp_path / "bundle")
