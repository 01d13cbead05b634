"""A connection as uvicorn has it, which ends where a client takes too long to say what it wants."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

# Seconds for the head of a request. A connection takes a file descriptor, and those are few.
_HEAD_SECONDS = 10.0


class Connection(H11Protocol):
    """A connection of a client.

    It is of h11, which bounds heads: httptools, which uvicorn prefers where it is installed, does
    not, and drops the body of a request that offers HTTP/2, as those of Java's client do.
    """

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """See `asyncio.Protocol`."""
        super().connection_made(transport)
        self._await_head()

    def on_response_complete(self) -> None:
        """Another request may follow."""
        super().on_response_complete()
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        super().connection_lost(exc)
        if self._deadline is not None:
            self._deadline.cancel()

    def _await_head(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self.loop.call_later(_HEAD_SECONDS, self._check_head)

    def _check_head(self) -> None:
        if self.conn.their_state is h11.IDLE:
            self.transport.close()
