"""`atom-edge eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_DEFAULT_TASKS = "arc_easy,arc_challenge,hellaswag,piqa"


def eval_command(
    target: Annotated[
        str | None,
        typer.Argument(
            help="A bundle's folder, or a snapshot's folder or hub id; the reference bundle when "
            "omitted.",
            show_default=False,
        ),
    ] = None,
    tasks: Annotated[
        str,
        typer.Option(
            help="Tasks of the lm-evaluation-harness, perplexity, arithmark2, arithmark2_like, "
            "arithmark3; commas between them."
        ),
    ] = _DEFAULT_TASKS,
    data: Annotated[
        Path | None,
        typer.Option(help="Folder of local task files; without it they come from the hub."),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Another split of the local files, to tune on.")
    ] = None,
    against: Annotated[
        str | None, typer.Option(help="perplexity: compare the bundle with this snapshot.")
    ] = None,
    text: Annotated[
        Path | None, typer.Option(help="perplexity: this text file, not the held-out text.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many items of a task.")] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="That score at a time; default: all usable cores.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Score a bundle or a snapshot on benchmarks."""
    import dataclasses
    import json
    import math
    import time

    from atom_edge.cli.extras import needs_extra
    from atom_edge.evaluation import hide_inner_bars
    from atom_edge.reference import bundle_path

    hide_inner_bars()
    with needs_extra("atom-edge eval", "eval"):
        from atom_edge.evaluation.run import evaluate

    start = time.monotonic()
    target = target or str(bundle_path())
    names = [name.strip() for name in tasks.split(",") if name.strip()]
    model, results = evaluate(
        target,
        names,
        data=data,
        split=split,
        against=against,
        text=text,
        limit=limit,
        threads=threads,
    )
    if as_json:
        found = [dataclasses.asdict(result) for result in results]
        for figures in found:  # JSON has no NaN, which stands for none
            if math.isnan(figures["standard_error"]):
                figures["standard_error"] = None
        typer.echo(json.dumps({"target": target, "model": model.name, "results": found}, indent=2))
    else:
        typer.echo(f"{'task':<32} {'metric':<28} {'value':>9} {'s.e.':>8} {'count':>7}")
        for result in results:
            scale = 100 if result.is_share else 1
            error = result.standard_error * scale
            typer.echo(
                f"{result.task:<32} {result.metric:<28} {result.value * scale:>9.4g} "
                f"{'' if math.isnan(error) else format(error, '.2g'):>8} {result.count:>7}"
            )
    typer.echo(f"{model.name}, {time.monotonic() - start:.0f} s", err=True)
