"""Servers as users start them: the command in a process of its own, on a free port."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import openai
import pytest

from atom_edge.bundle import open_bundle, seal
from atom_edge.runtimes.session import AtomSession

TEMPLATE = (
    "{% for message in messages %}<{{ message.role }}>{{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
NAME = "small"


@dataclass
class Running:
    """A server that runs.

    Attributes:
        url: without a path.
        process: the command.
        clients: of it, by key; closed before it ends.
    """

    url: str
    process: subprocess.Popen[str]
    clients: dict[str, openai.OpenAI] = field(default_factory=dict)

    def client(self, key: str = "none") -> openai.OpenAI:
        if key not in self.clients:
            base = f"{self.url}/v1"
            self.clients[key] = openai.OpenAI(base_url=base, api_key=key, max_retries=0)
        return self.clients[key]


@contextlib.contextmanager
def serving(bundle: Path, *arguments: str) -> Iterator[Running]:
    """The server of a bundle; it must end well."""
    command = [sys.executable, "-m", "atom_edge.cli", "serve", str(bundle), "--port", "0"]
    process = subprocess.Popen(
        [*command, "--name", NAME, "--threads", "2", *arguments], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    try:
        line = process.stderr.readline()
        found = re.search(r"http://\S+(?=/v1)", line)
        assert found, line + process.stderr.read()
        running = Running(found[0], process)
        yield running
        for client in running.clients.values():
            client.close()
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert process.stderr.read() == ""
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


@pytest.fixture(scope="session")
def session(small_bundle: Path) -> AtomSession:
    """What the server's text must be that of."""
    return AtomSession.from_pretrained(small_bundle, threads=1)


@pytest.fixture(scope="session")
def server(small_bundle: Path) -> Iterator[Running]:
    """A server of the small bundle."""
    with serving(small_bundle, "--parallel", "4", "--queue", "64") as running:
        yield running


@pytest.fixture(scope="session")
def chat_bundle(small_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small bundle with a chat template."""
    folder = tmp_path_factory.mktemp("bundles") / "chat"
    shutil.copytree(small_bundle, folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": TEMPLATE}))
    seal(folder, open_bundle(small_bundle).manifest)
    return folder


@pytest.fixture(scope="session")
def chat_server(chat_bundle: Path) -> Iterator[Running]:
    """A server of it, with a key."""
    with serving(chat_bundle, "--api-key", "secret") as running:
        yield running
