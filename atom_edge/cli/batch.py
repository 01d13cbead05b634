"""`atom-edge batch`: a file of requests to a file of responses."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from atom_edge.runtimes.providers import Provider


def batch(
    source: Annotated[
        Path, typer.Argument(metavar="IN.jsonl", help="Requests, one a line.", dir_okay=False)
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="Responses, one a line, in the same order.", dir_okay=False
        ),
    ],
    bundle: Annotated[
        Path | None, typer.Option(help="Bundle to run; the reference model when omitted.")
    ] = None,
    parallel: Annotated[int, typer.Option(min=1, help="Replies at once.")] = 32,
    threads: Annotated[
        int | None, typer.Option(help="Worker threads; default: leaves cores free.")
    ] = None,
    provider: Annotated[Provider, typer.Option(help="cpu, cuda or auto.")] = "cpu",
) -> None:
    """Answer a file of requests; run again, it goes on where it was.

    A line is what /v1/completions of `atom-edge serve` takes, such as {"custom_id": "1",
    "prompt": "The", "max_tokens": 20}. One that cannot be answered becomes a line with its error,
    and the exit code is 1 then.
    """
    import time

    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    from atom_edge.runtimes.bulk import Progress, run_file
    from atom_edge.runtimes.session import AtomSession

    size = source.stat().st_size  # an unreadable file is told before a model is loaded
    session = AtomSession.from_pretrained(bundle, threads, provider)
    columns = (
        BarColumn(),
        TextColumn("{task.percentage:3.0f}%  {task.description}"),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    bar = Bar(*columns, console=console, transient=True, disable=not console.is_terminal)
    shown = bar.add_task("", total=size)
    start = time.monotonic()
    name = "atom" if bundle is None else bundle.resolve().name

    def show(state: Progress) -> None:
        bar.update(shown, completed=state.done, description=f"{state.lines:,} lines")

    with bar:
        done = run_file(session, name, source, output, parallel=parallel, progress=show)
    seconds = time.monotonic() - start
    typer.echo(
        f"{done.lines:,} lines, {done.failed:,} of them errors; "
        f"{done.tokens:,} tokens in {seconds:.1f} s",
        err=True,
    )
    if done.failed:
        raise typer.Exit(1)
