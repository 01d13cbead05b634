"""`atom-edge pretrain`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def pretrain(
    recipe: Annotated[
        str,
        typer.Argument(
            help="A TOML file, or a shipped recipe: atom-card, atom-reference, "
            "atom-reference-plain, atom-next, atom-next-final, atom-next-without-splits, "
            "atom-teacher, atom-teacher-final, atom-teacher-without-splits, atom-distilled, "
            "atom-distilled-without-splits."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the run.")] = Path(
        "out-pretrain"
    ),
    data: Annotated[
        Path, typer.Option(help="Folder below which the recipe's shards lie.")
    ] = Path(),
    cache: Annotated[
        Path | None, typer.Option(help="Folder for tokenized text; default: in the run's folder.")
    ] = None,
    initial: Annotated[
        Path | None, typer.Option(help="Snapshot to begin from; else random weights.")
    ] = None,
    teacher: Annotated[
        Path | None,
        typer.Option(help="Snapshot of a larger model to learn from, as the recipe says."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue a run that ended early.")
    ] = False,
    stop_after: Annotated[
        int | None, typer.Option(min=1, help="End, resumable, once so many steps are done.")
    ] = None,
    fast: Annotated[
        bool,
        typer.Option(
            "--fast", help="On a CPU, compile the model and compute in bfloat16, as on a GPU."
        ),
    ] = False,
) -> None:
    """Train a model by a recipe; under torchrun, on several GPUs."""
    from atom_edge.cli.extras import needs_extra

    with needs_extra("atom-edge pretrain", "train"):
        from atom_edge.exporters.threads import leave_cores_free
        from atom_edge.training.loop import pretrain as run
    from atom_edge.training.recipe import load_recipe

    leave_cores_free()
    snapshot = run(
        load_recipe(recipe),
        output,
        data,
        resume=resume,
        cache=cache,
        initial=initial,
        teacher=teacher,
        stop_after=stop_after,
        fast=fast,
    )
    typer.echo(str(snapshot))
