"""Clients that go away, that are too many, that ask for too much; and the end of a server."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.runtimes.server.conftest import NAME, Running, serving

# Half a minute of work for one place; nobody waits for it here.
LONG: dict[str, Any] = {"prompt": "The", "max_tokens": 120, "n": 300, "temperature": 1}


@pytest.fixture(scope="module")
def narrow(small_bundle: Path) -> Iterator[Running]:
    """A server with one place."""
    with serving(small_bundle, "--parallel", "1", "--queue", "320") as running:
        yield running


@pytest.fixture
def metric(narrow: Running) -> Callable[[str], float]:
    def read(name: str) -> float:
        lines = httpx.get(f"{narrow.url}/metrics").text.splitlines()
        return float(next(line.split()[1] for line in lines if line.startswith(f"{name} ")))

    return read


def post(server: Running, body: dict[str, Any]) -> socket.socket:
    """Send a request and leave the connection open."""
    host, port = server.url.removeprefix("http://").rsplit(":", 1)
    connection = socket.create_connection((host, int(port)))
    content = json.dumps(body).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    connection.sendall(head.encode() + content)
    return connection


def wait_until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_frees_its_place(
    narrow: Running, metric: Callable[[str], float], stream: bool
) -> None:
    running, queued = post(narrow, {**LONG, "stream": stream}), post(narrow, {**LONG, "n": 5})
    wait_until(lambda: metric("atom_edge_running") == 1 and metric("atom_edge_waiting") > 200)
    before = metric("atom_edge_generated_tokens_total")
    queued.close()
    running.close()
    wait_until(lambda: metric("atom_edge_running") == metric("atom_edge_waiting") == 0)
    assert metric("atom_edge_generated_tokens_total") - before < 300 * 120 / 2
    assert httpx.post(f"{narrow.url}/v1/completions", json={"prompt": "A"}).status_code == 200


def test_a_full_queue_is_said_at_once(narrow: Running, metric: Callable[[str], float]) -> None:
    with post(narrow, LONG):
        wait_until(lambda: metric("atom_edge_waiting") > 200)
        start = time.monotonic()
        refused = httpx.post(f"{narrow.url}/v1/completions", json={"prompt": "A", "n": 200})
        assert time.monotonic() - start < 2
        assert refused.status_code == 429
        assert int(refused.headers["Retry-After"]) >= 1
        assert refused.json()["error"]["type"] == "rate_limit_error"
    for n in (999, 10**9):  # nothing is made ready for them
        never = httpx.post(f"{narrow.url}/v1/completions", json={"prompt": "A", "n": n})
        assert (never.status_code, never.json()["error"]["code"]) == (400, "too_many_replies")
    wait_until(lambda: metric("atom_edge_running") == 0)


@pytest.mark.parametrize("field", ["stop", "logprobs"])
def test_what_would_hold_up_all_others_is_refused(narrow: Running, field: str) -> None:
    most, more = {"stop": (["."] * 16, ["."] * 17), "logprobs": (20, 21)}[field]
    url = f"{narrow.url}/v1/completions"
    assert httpx.post(url, json={"prompt": "A", field: most}).status_code == 200
    refused = httpx.post(url, json={"prompt": "A", field: more})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, field)


def test_a_request_is_bounded_and_must_be_json(narrow: Running) -> None:
    url = f"{narrow.url}/v1/completions"
    large = httpx.post(url, json={"prompt": "a" * 2**24})
    assert (large.status_code, large.json()["error"]["code"]) == (413, "request_too_large")

    def chunks() -> Iterator[bytes]:
        for _ in range(20):
            yield b"a" * 2**20

    assert httpx.post(url, content=chunks()).status_code == 413
    for body in (b"", b"{", b"[]", b'"a"', b"\xff", b"[" * 10**5):
        refused = httpx.post(url, content=body)
        assert refused.status_code == 400, body
        assert refused.json()["error"]["type"] == "invalid_request_error"
    assert httpx.get(url).status_code == 405
    assert httpx.get(f"{narrow.url}/nowhere").json()["error"]["message"].endswith('"/nowhere".')


def test_a_client_may_go_amid_its_request(narrow: Running) -> None:
    host, port = narrow.url.removeprefix("http://").rsplit(":", 1)
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(b"POST /tokenize HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{")
    assert httpx.get(f"{narrow.url}/health").status_code == 200  # and its log stays empty


def test_a_client_may_offer_http2(narrow: Running) -> None:
    offer = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAM"}
    answer = httpx.post(f"{narrow.url}/tokenize", json={"prompt": "The"}, headers=offer)
    assert answer.status_code == 200
    assert answer.json()["count"] >= 1


@pytest.mark.parametrize("line", ["", "\r\n"])
def test_headers_are_bounded(narrow: Running, line: str) -> None:
    host, port = narrow.url.removeprefix("http://").rsplit(":", 1)
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: here\r\nX: ")
        endless = f"{'a' * 16_000}{line}X: ".encode() * 2000
        with pytest.raises(ConnectionError):
            connection.sendall(endless)
    assert httpx.get(f"{narrow.url}/health").status_code == 200


def test_web_pages_may_not_use_it_unless_allowed(narrow: Running, small_bundle: Path) -> None:
    page = {"Origin": "https://page.example"}
    url = "/v1/completions"
    with httpx.Client(base_url=narrow.url) as client:
        refused = client.post(url, json={"prompt": "A"}, headers=page)
        assert refused.status_code == 403
        assert "access-control-allow-origin" not in refused.headers
    allowed = ("--cors-origin", page["Origin"], "--api-key", "secret")
    with serving(small_bundle, *allowed) as server, httpx.Client(base_url=server.url) as client:
        asked = {**page, "Access-Control-Request-Method": "POST"}
        preflight = client.options(url, headers=asked)
        assert preflight.headers["access-control-allow-origin"] == page["Origin"]
        headers = {**page, "Authorization": "Bearer secret"}
        answer = client.post(url, json={"prompt": "A"}, headers=headers)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == page["Origin"]
        other = client.post(url, json={"prompt": "A"}, headers={**headers, "Origin": "null"})
        assert other.status_code == 403


def test_the_model_and_its_tokenizer_are_described(narrow: Running) -> None:
    with httpx.Client(base_url=narrow.url) as client:
        (model,) = client.get("/v1/models").json()["data"]
        assert (model["id"], model["object"], model["max_model_len"]) == (NAME, "model", 128)
        assert client.get(f"/v1/models/{NAME}").json() == model
        assert client.get("/v1/models/other").status_code == 404
        text = "The river.\n  Été 🙂"
        for field in ("prompt", "content"):
            tokens = client.post("/tokenize", json={field: text}).json()["tokens"]
            back = client.post("/detokenize", json={"tokens": tokens}).json()
            assert back["prompt"] == text
        assert client.post("/tokenize", json={}).status_code == 400
        assert client.post("/detokenize", json={"tokens": [10**9]}).status_code == 400
        assert client.get("/tokenizer_info").json()["eos_token"]


def test_sigterm_finishes_what_runs_and_refuses_the_rest(small_bundle: Path) -> None:
    with serving(small_bundle, "--parallel", "40") as server:
        body = {"prompt": "The", "max_tokens": 120, "n": 40, "stream": True, "temperature": 1}
        running = post(server, body)
        with running, running.makefile("rb") as first:
            assert any(line.startswith(b"data: ") for line in first)
            queued = post(server, {**body, "stream": False})
            with queued, queued.makefile("rb") as second:
                metrics = httpx.get(f"{server.url}/metrics").text
                assert re.search(r"^atom_edge_waiting (?!0)", metrics, re.MULTILINE)
                server.process.send_signal(signal.SIGTERM)
                assert b"data: [DONE]" in first.read()
                assert b"503" in second.readline()
        assert server.process.wait(20) == 0


def test_what_is_wrong_with_an_address_is_one_line(narrow: Running, small_bundle: Path) -> None:
    port = narrow.url.rsplit(":", 1)[1]
    command = [sys.executable, "-m", "atom_edge.cli", "serve", str(small_bundle), "--port", port]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: Cannot listen on 127.0.0.1:{port}: ")
    assert len(done.stderr.splitlines()) == 1


def test_a_connection_that_is_kept_is_answered_at_once(narrow: Running) -> None:
    with httpx.Client(base_url=narrow.url) as client:
        client.get("/health")
        times = []
        for _ in range(10):
            start = time.perf_counter()
            client.get("/health")
            times.append(time.perf_counter() - start)
    assert min(times) < 0.03, times  # 40 ms each where the second packet waits
