"""The routes: each parses a request, has its tasks run, and answers."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass
from time import perf_counter

from anyio import to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from atom_edge.errors import AtomEdgeError, RequestError
from atom_edge.runtimes.reply import Piece
from atom_edge.runtimes.server import wire
from atom_edge.runtimes.server.answers import Choice, Envelope, error_object, usage
from atom_edge.runtimes.server.http import (
    EventStream,
    Gone,
    Guard,
    JsonResponse,
    Write,
    error_response,
    event,
    read_body,
    while_connected,
)
from atom_edge.runtimes.server.mailbox import Mailbox
from atom_edge.runtimes.server.metrics import CONTENT_TYPE, Metrics
from atom_edge.runtimes.server.plan import Plan, Planner
from atom_edge.runtimes.server.scheduler import Scheduler

BODY_LIMIT = 16 * 2**20
# Bytes of a request, and replies of it, that would keep all others waiting until it is planned.
_LARGE, _MANY = 8192, 4
_CLIENT_CLOSED = 499  # as nginx calls it


@dataclass(frozen=True)
class Access:
    """Who may use the server: see `Guard`."""

    keys: Collection[str] = ()
    origins: Collection[str] = ()


class Server:
    """The application over one model.

    Args:
        planner: makes tasks of requests.
        scheduler: runs them.
    """

    def __init__(self, planner: Planner, scheduler: Scheduler) -> None:
        self._planner = planner
        self._scheduler = scheduler
        # Of many requests at once each has a turn of the loop, and streams go on between them.
        self._planning = asyncio.Lock()
        self._metrics = Metrics(lambda: scheduler.running, lambda: scheduler.waiting)

    def app(self, access: Access) -> Starlette:
        """What an ASGI server runs."""
        cors = Middleware(
            CORSMiddleware,
            allow_origins=list(access.origins),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
        )
        guard = Middleware(Guard, access.keys, access.origins)
        return Starlette(
            routes=[
                Route("/v1/completions", self._completions, methods=["POST"]),
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
                Route("/v1/models", self._models),
                Route("/v1/models/{name:path}", self._model),
                Route("/health", self._health),
                Route("/metrics", self._show_metrics),
                Route("/tokenize", self._tokenize, methods=["POST"]),
                Route("/detokenize", self._detokenize, methods=["POST"]),
                Route("/tokenizer_info", self._tokenizer_info),
            ],
            middleware=[cors, guard] if access.origins else [guard],
            exception_handlers={
                AtomEdgeError: _on_error,
                HTTPException: _on_http_error,
                ClientDisconnect: _on_gone,
                Exception: _on_error,
            },
            lifespan=self._lifespan,
        )

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        self._scheduler.start()
        yield
        self._scheduler.close()

    # Text

    async def _completions(self, request: Request) -> Response:
        return await self._answer(request, wire.CompletionRequest)

    async def _chat(self, request: Request) -> Response:
        return await self._answer(request, wire.ChatRequest)

    async def _answer(
        self, request: Request, kind: type[wire.CompletionRequest | wire.ChatRequest]
    ) -> Response:
        started = perf_counter()
        route = request.url.path
        try:
            plan = await self._plan(await read_body(request, BODY_LIMIT), kind)
            mailbox = self._scheduler.submit(plan.tasks)
        except RequestError as error:
            self._metrics.requests.labels(route, error.status).inc()
            raise
        work = _Work(plan, mailbox, self, route, started)
        if plan.streams:
            return EventStream(work.stream, work.close)
        try:
            return await while_connected(request.receive, work.response())
        except Gone:
            return Response(status_code=_CLIENT_CLOSED)
        finally:
            work.close()

    async def _plan(
        self, body: bytes, kind: type[wire.CompletionRequest | wire.ChatRequest]
    ) -> Plan:
        large = len(body) > _LARGE
        parse = functools.partial(wire.parse, body, kind)
        parsed = await to_thread.run_sync(parse) if large else parse()
        self._scheduler.check(parsed.asked)
        if large or _is_slow(parsed):
            return await to_thread.run_sync(self._planner.plan, parsed)
        async with self._planning:
            return self._planner.plan(parsed)

    def done(self, work: _Work) -> None:
        """Free what a request still holds, and count it."""
        self._scheduler.cancel(work.plan.tasks)
        counted = usage(work.plan.choices, work.plan.replies)
        self._metrics.requests.labels(work.route, work.status).inc()
        self._metrics.prompt_tokens.inc(counted["prompt_tokens"])
        self._metrics.cached_tokens.inc(counted["prompt_tokens_details"]["cached_tokens"])
        self._metrics.generated_tokens.inc(counted["completion_tokens"])
        self._metrics.whole.observe(perf_counter() - work.started)

    def began(self, seconds: float) -> None:
        """Note how long the first token of a request took."""
        self._metrics.first_token.observe(seconds)

    # The rest

    async def _models(self, _: Request) -> Response:
        models = [self._planner.model(name) for name in self._planner.names]
        return JsonResponse({"object": "list", "data": models})

    async def _model(self, request: Request) -> Response:
        name = request.path_params["name"]
        self._planner.check_model(name)
        return JsonResponse(self._planner.model(name))

    async def _health(self, _: Request) -> Response:
        if self._scheduler.draining:
            return JsonResponse({"status": "stopping"}, 503)
        return JsonResponse({"status": "ok"})

    async def _show_metrics(self, _: Request) -> Response:
        return Response(self._metrics.text(), media_type=CONTENT_TYPE)

    async def _tokenize(self, request: Request) -> Response:
        body = await read_body(request, BODY_LIMIT)
        parsed = wire.parse(body, wire.TokenizeRequest)
        return JsonResponse(await to_thread.run_sync(self._planner.tokenize, parsed))

    async def _detokenize(self, request: Request) -> Response:
        body = await read_body(request, BODY_LIMIT)
        parsed = wire.parse(body, wire.DetokenizeRequest)
        return JsonResponse(await to_thread.run_sync(self._planner.detokenize, parsed))

    async def _tokenizer_info(self, _: Request) -> Response:
        return JsonResponse(self._planner.tokenizer_info())


class _Work:
    """A request whose tasks run.

    Attributes:
        plan: what it comes to.
        route: by which it came.
        started: when, by `perf_counter`.
        status: what became of it.
    """

    def __init__(
        self, plan: Plan, mailbox: Mailbox, server: Server, route: str, started: float
    ) -> None:
        self.plan = plan
        self.route = route
        self.started = started
        self.status = _CLIENT_CLOSED
        self._mailbox = mailbox
        self._server = server
        self._owners = {choice.task: choice for choice in plan.choices}
        self._going = len(self._owners)
        self._begun = False

    def close(self) -> None:
        """Give up what still runs of it."""
        self._server.done(self)

    async def response(self) -> Response:
        """The whole response."""
        plan, pieces = self.plan, defaultdict[Choice, list[Piece]](list)
        try:
            while self._going:
                for choice, some in (await self._arrived()).items():
                    pieces[choice] += some
        except AtomEdgeError as error:
            self.status = _as_request_error(error).status
            raise
        self.status = 200
        whole = [choice.whole(pieces[choice]) for choice in plan.choices]
        counted = usage(plan.choices, plan.replies)
        return JsonResponse(Envelope(*plan.whole).around(whole, usage=counted))

    async def stream(self, write: Write) -> None:
        """Write the response as events, the last being `[DONE]`."""
        plan = self.plan
        envelope = Envelope(*plan.part)
        more = {"usage": None} if plan.sends_usage else {}
        while self._going:
            try:
                arrived = await self._arrived()
            except AtomEdgeError as error:
                refused = _as_request_error(error)
                self.status = refused.status
                await write(event(error_object(refused)), False)
                return
            parts = [choice.part(some) for choice, some in arrived.items()]
            events = [event(envelope.around([part], **more)) for part in parts]
            if not self._going:
                self.status = 200
                if plan.sends_usage:
                    counted = usage(plan.choices, plan.replies)
                    events.append(event(envelope.around([], usage=counted)))
                events.append(b"data: [DONE]\n\n")
            await write(b"".join(events), self._going > 0)

    async def _arrived(self) -> dict[Choice, list[Piece]]:
        """What has come of the choices since the last time."""
        arrived = defaultdict[Choice, list[Piece]](list)
        for task, piece in await self._mailbox.read():
            arrived[self._owners[task]].append(piece)
            self._going -= piece.finish_reason is not None
        if not self._begun:
            self._server.began(perf_counter() - self.started)
            self._begun = True
        return arrived


def _is_slow(request: wire.CompletionRequest | wire.ChatRequest) -> bool:
    """Whether it takes long to plan: a template is a program, and a pattern is compiled."""
    is_chat = isinstance(request, wire.ChatRequest)
    return is_chat or request.is_constrained or request.asked > _MANY


def _as_request_error(error: Exception) -> RequestError:
    if isinstance(error, RequestError):
        return error
    if isinstance(error, AtomEdgeError):
        return RequestError(str(error), status=500, kind="server_error")
    return RequestError("The server failed; see its log.", status=500, kind="server_error")


async def _on_error(_: Request, error: Exception) -> Response:
    return error_response(_as_request_error(error))


async def _on_gone(_: Request, __: Exception) -> Response:
    """A client has gone amid its own request: nobody reads this."""
    return Response(status_code=_CLIENT_CLOSED)


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = json.dumps(request.url.path)
    message = {
        404: f"There is no route {path}.",
        405: f"The route {path} does not take {request.method}.",
    }.get(error.status_code, error.detail)
    return error_response(RequestError(message, status=error.status_code))


def new_app(planner: Planner, scheduler: Scheduler, access: Access | None = None) -> Starlette:
    """The application; see `Server`."""
    return Server(planner, scheduler).app(access or Access())
