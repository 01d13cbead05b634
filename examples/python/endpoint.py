"""A Starlette endpoint that streams: `uvicorn endpoint:app`, `curl -d "The sun" localhost:8000`.

Each request has a reply of its own, and a client that goes away stops it. `atom-edge serve` is the
server for more than a few of them: it runs many replies in one batch.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from atom_edge import AtomSession

session = AtomSession.from_pretrained(os.environ.get("BUNDLE"), threads=1)


async def complete(request: Request) -> StreamingResponse:
    """Continue the text of the request's body."""
    prompt = (await request.body()).decode()
    temperature = float(request.query_params.get("temperature", 0.4))
    pieces = session.astream(prompt, max_new_tokens=32, temperature=temperature)

    async def texts() -> AsyncIterator[str]:
        async for piece in pieces:
            yield piece.text

    return StreamingResponse(texts(), media_type="text/plain")


app = Starlette(routes=[Route("/", complete, methods=["POST"])])
