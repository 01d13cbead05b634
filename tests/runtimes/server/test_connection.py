"""A connection ends where no head of a request comes, and not while it is answered."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
import uvicorn

from atom_edge.runtimes.server import connection
from atom_edge.runtimes.server.run import listen

HEAD = b"GET / HTTP/1.1\r\nHost: here\r\n\r\n"


async def slow_app(scope: Any, receive: Any, send: Any) -> None:
    await asyncio.sleep(0.6)
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def converse(port: int, sent: bytes, drip: bytes = b"") -> tuple[bytes, float]:
    """What comes until the server closes the connection, and after how many seconds."""
    started = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    answer = b""
    while not reader.at_eof():
        try:
            answer += await asyncio.wait_for(reader.read(1000), 0.05)
        except TimeoutError:
            writer.write(drip)
        assert time.perf_counter() - started < 10
    writer.close()
    return answer, time.perf_counter() - started


def test_a_head_must_come_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_HEAD_SECONDS", 0.3)

    async def main() -> list[tuple[bytes, float]]:
        config = uvicorn.Config(
            slow_app, http=connection.Connection, lifespan="off", log_level="error"
        )
        server = uvicorn.Server(config)
        with listen("127.0.0.1", 0) as listening:
            port = listening.getsockname()[1]
            serving = asyncio.create_task(server.serve(sockets=[listening]))
            talks = [
                converse(port, b""),
                converse(port, b"GET / HTTP/1.1\r\n", drip=b"X: y\r\n"),
                converse(port, HEAD),
                converse(port, HEAD + HEAD),
            ]
            try:
                return await asyncio.gather(*talks)
            finally:
                server.should_exit = True
                await serving

    silent, dripping, asked, asked_twice = asyncio.run(main())
    for answer, seconds in (silent, dripping):
        assert answer == b""
        assert seconds >= 0.25
    assert asked[0].count(b"204 No Content") == 1
    assert asked_twice[0].count(b"204 No Content") == 2
