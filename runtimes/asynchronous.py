"""Replies that other threads stop, and replies for asyncio."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, Iterator
from time import perf_counter

from atom_edge.runtimes.reply import Piece

# Seconds of pieces that come to the event loop together: a step may take less than the way to it.
_TOGETHER = 0.005


def until(cancel: threading.Event, pieces: Iterator[Piece]) -> Iterator[Piece]:
    """The pieces until the event is set; then one more, with the finish reason "cancelled"."""
    for piece in pieces:
        if cancel.is_set() and piece.finish_reason is None:
            yield piece._replace(finish_reason="cancelled")
            return
        yield piece


async def in_thread(pieces: Iterator[Piece], cancel: threading.Event) -> AsyncGenerator[Piece]:
    """The pieces, each made in a thread while the event loop runs on.

    Args:
        pieces: of `until` with the same event.
        cancel: set when nobody waits for the pieces any more.
    """
    import asyncio  # 3 MB that a command line needs not

    wait = 0.0  # the first piece comes alone
    try:
        while some := await asyncio.to_thread(_next_pieces, pieces, wait):
            wait = _TOGETHER
            for piece in some:
                yield piece
    finally:
        cancel.set()


def _next_pieces(pieces: Iterator[Piece], seconds: float) -> list[Piece]:
    """The pieces that come within some seconds, at least one; none at the end."""
    some: list[Piece] = []
    begun = perf_counter()
    for piece in pieces:
        some.append(piece)
        if perf_counter() - begun >= seconds:
            break
    return some
