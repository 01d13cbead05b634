"""The programs in examples/python do what they say, and are as short as they say."""

from __future__ import annotations

import http.client
import os
import runpy
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from atom_edge import AtomSession

EXAMPLES = Path(__file__).parents[2] / "examples" / "python"


@pytest.mark.parametrize("name", ["endpoint.py", "autocomplete.py"])
def test_they_are_under_forty_lines(name: str) -> None:
    assert len((EXAMPLES / name).read_text(encoding="utf-8").splitlines()) < 40


def test_sixteen_clients_of_the_endpoint(small_bundle: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["uvicorn", "--app-dir", str(EXAMPLES), "endpoint:app", "--port", str(port)]
    server = subprocess.Popen(
        [sys.executable, "-m", *command],
        env={**os.environ, "BUNDLE": str(small_bundle)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(port)
        prompts = [f"The number {number}" for number in range(16)]
        with ThreadPoolExecutor(16) as pool:
            texts = list(pool.map(lambda prompt: ask(port, prompt), prompts))
    finally:
        server.terminate()
        server.wait()
    session = AtomSession.from_pretrained(small_bundle, threads=1)
    expected = [session.generate(p, max_new_tokens=32, temperature=0).text for p in prompts]
    assert texts == expected


def wait_for(port: int) -> None:
    for _ in range(600):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError("The server does not answer.")


def ask(port: int, prompt: str) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    connection.request("POST", "/?temperature=0", prompt.encode())
    text = connection.getresponse().read().decode()
    connection.close()
    return text


def test_the_completion_reuses_the_cache(
    monkeypatch: pytest.MonkeyPatch, small_bundle: Path
) -> None:
    monkeypatch.setenv("BUNDLE", str(small_bundle))
    editor: dict[str, Any] = runpy.run_path(str(EXAMPLES / "autocomplete.py"))
    line = "Plants need light and water every day in the year."
    session = AtomSession.from_pretrained(small_bundle)
    for text in (line[:20], line[:21], line[:22], line[:20], line):
        reply = session.generate(text, heal=True, temperature=0, max_new_tokens=8, stop="\n")
        assert editor["complete"](text) == reply.text
    held = editor["decoder"].token_ids
    assert held[:8] == session.tokenizer.encode(line)[:8]
