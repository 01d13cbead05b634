"""Runs the application until a signal ends it: what runs is finished, the rest is refused."""

from __future__ import annotations

import contextlib
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from types import FrameType

import uvicorn
from starlette.applications import Starlette

from atom_edge.errors import AtomEdgeError
from atom_edge.runtimes.server.connection import Connection
from atom_edge.runtimes.server.scheduler import Scheduler

# Seconds for which one thread may keep the interpreter from another that wants it. Python's own 5
# ms are as long as several steps of a small model, which would wait for the event loop after each.
_SWITCH = 2e-4


class _Server(uvicorn.Server):
    """uvicorn's server, whose first signal drains the scheduler too."""

    def __init__(self, config: uvicorn.Config, scheduler: Scheduler) -> None:
        super().__init__(config)
        self._scheduler = scheduler
        self.signal: int | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals while the server runs, and do not raise them again after it."""
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self._stop) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        self._scheduler.drain()
        self.handle_exit(number, frame)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 takes a free one.

    Raises:
        AtomEdgeError: if the address cannot be had.
    """
    try:
        family, *_, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.create_server(address[:2], family=family, backlog=2048)
        # asyncio turns Nagle's algorithm off only where the protocol is named. With it each small
        # part of an answer may wait 40 ms for the client to acknowledge the last.
        descriptor = listening.detach()
        return socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, descriptor)
    except (OSError, OverflowError) as error:
        raise AtomEdgeError(f"Cannot listen on {host}:{port}: {error}") from error


def serve(
    app: Starlette,
    scheduler: Scheduler,
    listening: socket.socket,
    *,
    drain_seconds: int,
    ready: Callable[[], None] = lambda: None,
) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        app: from `new_app`.
        scheduler: that of the app.
        listening: from `listen`.
        drain_seconds: for which replies may go on after the signal.
        ready: called as soon as requests are taken.

    Raises:
        KeyboardInterrupt: if it was SIGINT.
    """
    config = uvicorn.Config(
        app,
        log_level="error",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=drain_seconds,
        http=Connection,
        ws="none",
        lifespan="on",
    )
    server = _Server(config, scheduler)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH)
    try:
        ready()  # the socket listens already
        server.run(sockets=[listening])
    finally:
        sys.setswitchinterval(interval)
    if server.signal == signal.SIGINT:
        raise KeyboardInterrupt
