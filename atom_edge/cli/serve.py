"""`atom-edge serve`: an HTTP server with OpenAI's interface."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from typing import Annotated

import typer

from atom_edge.runtimes.providers import Provider, serving_threads


def serve(
    bundle: Annotated[
        Path | None, typer.Argument(help="Bundle to serve; the reference model when omitted.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 for any free one.")] = 8080,
    name: Annotated[
        list[str] | None,
        typer.Option(help="What requests call the model; the bundle's folder when omitted."),
    ] = None,
    parallel: Annotated[int, typer.Option(min=1, help="Replies at once.")] = 64,
    queue: Annotated[
        int, typer.Option(min=0, help="Replies that may wait; with more, requests get 429.")
    ] = 256,
    api_key: Annotated[
        list[str] | None,
        typer.Option(envvar="ATOM_EDGE_API_KEY", help="Key that requests must have."),
    ] = None,
    api_key_file: Annotated[
        Path | None, typer.Option(help="File of such keys, one a line.", dir_okay=False)
    ] = None,
    cors_origin: Annotated[
        list[str] | None, typer.Option(help="Web pages that may use the server; * for all.")
    ] = None,
    drain: Annotated[
        int, typer.Option(min=0, help="Seconds for which replies go on after SIGTERM.")
    ] = 30,
    threads: Annotated[
        int | None, typer.Option(help="Worker threads; default: half of the cores, from 2 to 4.")
    ] = None,
    provider: Annotated[Provider, typer.Option(help="cpu, cuda or auto.")] = "cpu",
) -> None:
    """Serve a model to any client of OpenAI's interface."""
    from atom_edge.cli.extras import needs_extra

    with needs_extra("atom-edge serve", "serve"):
        from atom_edge.runtimes.server.app import Access, new_app
        from atom_edge.runtimes.server.run import listen
        from atom_edge.runtimes.server.run import serve as run
    from atom_edge.bundle import open_bundle
    from atom_edge.hub import find_bundle
    from atom_edge.runtimes.server.plan import Planner
    from atom_edge.runtimes.server.scheduler import Scheduler
    from atom_edge.runtimes.session import AtomSession

    keys = [*(api_key or []), *_read_keys(api_key_file)]
    if not all(keys):
        raise typer.BadParameter("An API key is empty.", param_hint="--api-key")
    opened = open_bundle(find_bundle(bundle))
    lanes, each = serving_threads(opened.graph(opened.roles[0]), threads)
    session = AtomSession(opened, threads=each, provider=provider)
    names = name or [_name(bundle)]
    scheduler = Scheduler(session, parallel, queue, lanes if session.device == "cpu" else 1)
    app = new_app(Planner(session, names), scheduler, Access(keys, cors_origin or []))
    listening = listen(host, port)
    address, port = listening.getsockname()[:2]
    shown = f"[{address}]" if ":" in address else address

    def ready() -> None:
        typer.echo(
            f"{names[0]} on {session.device}: http://{shown}:{port}/v1  "
            f"({parallel} replies at once, {queue} waiting)",
            err=True,
        )
        if not keys and not ipaddress.ip_address(address).is_loopback:
            typer.echo("warning: anybody who reaches this address may use it: --api-key", err=True)

    run(app, scheduler, listening, drain_seconds=drain, ready=ready)


def _name(bundle: Path | None) -> str:
    return "atom" if bundle is None else bundle.resolve().name


def _read_keys(file: Path | None) -> list[str]:
    if file is None:
        return []
    lines = file.read_text(encoding="utf-8").split()
    if not lines:
        raise typer.BadParameter(f"{os.fspath(file)} has no keys.", param_hint="--api-key-file")
    return lines
