"""What HTTP asks of every route: who may ask, how much, and what happens when they go away."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
from collections.abc import Awaitable, Callable, Collection, Coroutine
from typing import Any, TypeVar

import msgspec
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from atom_edge.errors import RequestError
from atom_edge.runtimes.server.answers import error_object

T = TypeVar("T")
_ENCODER = msgspec.json.Encoder()
# Routes that need no key: whether the server lives says nothing of what it does.
_OPEN = ("/health",)


class JsonResponse(Response):
    """A value as JSON."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """See `Response`."""
        return _ENCODER.encode(content)


def error_response(error: RequestError) -> Response:
    """The response to a request that is refused."""
    headers = {"Retry-After": "1"} if error.status in (429, 503) else {}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JsonResponse(error_object(error), error.status, headers)


async def read_body(request: Request, limit: int) -> bytes:
    """The body of a request.

    Raises:
        RequestError: if it has more than `limit` bytes; the rest is not read.
    """
    stated = request.headers.get("content-length", "")
    length = int(stated) if stated.isdecimal() else 0
    parts = []
    if length <= limit:
        length = 0
        async for part in request.stream():
            length += len(part)
            if length > limit:
                break
            parts.append(part)
    if length > limit:
        raise RequestError(
            f"The request has more than {limit:,} bytes.", status=413, code="request_too_large"
        )
    return b"".join(parts)


class Gone(Exception):
    """The client has closed the connection."""


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled as soon as the client is gone.

    Raises:
        Gone: if it is.
    """
    working = asyncio.create_task(work)
    watching = asyncio.create_task(_disconnect(receive))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise Gone
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


# Sends a part of a body; whether more will come.
Write = Callable[[bytes, bool], Awaitable[None]]


class EventStream(Response):
    """Server-sent events.

    Args:
        produce: writes them, one or several at a time, and says which are the last.
        close: called at the end, whatever it is.
    """

    def __init__(
        self, produce: Callable[[Write], Coroutine[Any, Any, None]], close: Callable[[], None]
    ) -> None:
        super().__init__(media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        del self.headers["content-length"]
        self._produce = produce
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events until they end or the client is gone."""
        try:
            with contextlib.suppress(Gone):
                await while_connected(receive, self._send(send))
        finally:
            self._close()

    async def _send(self, send: Send) -> None:
        async def write(part: bytes, more: bool) -> None:
            await send({"type": "http.response.body", "body": part, "more_body": more})

        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        await self._produce(write)


def event(content: Any) -> bytes:
    """A value as one event."""
    return b"data: " + _ENCODER.encode(content) + b"\n\n"


class Guard:
    """Refuses requests without a key, and those that a foreign web page has a browser send.

    Args:
        app: what is guarded.
        keys: any of which opens all routes; none for a server that is open.
        origins: web pages that may ask, or "*".
    """

    def __init__(self, app: ASGIApp, keys: Collection[str], origins: Collection[str]) -> None:
        self._app = app
        self._keys = [key.encode() for key in keys]
        self._origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See `ASGIApp`."""
        if scope["type"] == "http" and (error := self._objection(scope)):
            await error_response(error)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _objection(self, scope: Scope) -> RequestError | None:
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        if origin is not None and origin not in self._origins and "*" not in self._origins:
            return RequestError(
                f"Web pages of {origin} may not use this server; see --cors-origin.",
                status=403,
                kind="permission_error",
                code="origin_not_allowed",
            )
        if self._keys and scope["path"] not in _OPEN and not self._holds_key(headers):
            return RequestError(
                "The API key is missing or wrong. Send it as: Authorization: Bearer KEY",
                status=401,
                kind="authentication_error",
                code="invalid_api_key",
            )
        return None

    def _holds_key(self, headers: Headers) -> bool:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        offered = given.strip().encode()
        # All are compared, each in constant time.
        matches = [hmac.compare_digest(offered, key) for key in self._keys]
        return scheme.lower() == "bearer" and any(matches)
