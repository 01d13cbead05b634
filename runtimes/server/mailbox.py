"""What goes from the model's threads to the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from atom_edge.runtimes.reply import Piece
from atom_edge.runtimes.slots import Task

Delivery = tuple[Task, Piece]

# Seconds between parts of a reply: a reader sees it flow, and a part for each token would take as
# long to write as the token to make.
_INTERVAL = 1 / 30


class Mailbox:
    """What has come of the tasks of one request and was not read yet.

    A model's thread adds and takes; the event loop puts what was taken, and reads.
    """

    def __init__(self) -> None:
        self._added: list[Delivery] = []
        self._due = 0.0
        self._pieces: list[Delivery] = []
        self._failure: Exception | None = None
        self._arrived = asyncio.Event()

    def add(self, delivery: Delivery) -> None:
        """Add a piece; the first and the last of a reply are due at once."""
        self._added.append(delivery)
        piece = delivery[1]
        if piece.generation_tokens <= 1 or piece.finish_reason is not None:
            self._due = 0.0

    def take_due(self, now: float) -> list[Delivery]:
        """All that was added, if it is time to hand it over."""
        if now < self._due:
            return []
        due, self._added = self._added, []
        self._due = now + _INTERVAL
        return due

    async def read(self) -> list[Delivery]:
        """Wait until something is there, and take all of it.

        Raises:
            RequestError: if the server stops before the tasks are done.
            AtomEdgeError: if the model fails.
        """
        await self._arrived.wait()
        self._arrived.clear()
        if self._failure is not None:
            raise self._failure
        pieces, self._pieces = self._pieces, []
        return pieces

    def put(self, pieces: Sequence[Delivery]) -> None:
        """Let them be read."""
        self._pieces += pieces
        self._arrived.set()

    def fail(self, error: Exception) -> None:
        """Let the reader fail."""
        self._failure = error
        self._arrived.set()
