"""`atom-edge validate`: a bundle is checked against PyTorch again."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from atom_edge.cli.limits import MaxKl, MaxPerplexityRatio, Validate


def validate_command(
    bundle: Annotated[Path, typer.Argument(help="The bundle.", show_default=False)],
    against: Annotated[
        str | None,
        typer.Option(
            help="The snapshot that the bundle was made from, a folder or hub id; without it, the "
            "one that the manifest names.",
            show_default=False,
        ),
    ] = None,
    max_perplexity_ratio: MaxPerplexityRatio = None,
    max_kl: MaxKl = None,
    validate: Validate = None,
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit of a hub repository.")
    ] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Also run the snapshot's own model code.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Repeat the checks of the export: a bundle against the PyTorch model it came from.

    Exits 1 if a check fails.
    """
    from atom_edge.bundle import open_bundle
    from atom_edge.cli.extras import needs_extra
    from atom_edge.cli.figures import figure_table, show_figures_of_failure
    from atom_edge.cli.steps import show_steps
    from atom_edge.exporters.origin import locate_origin
    from atom_edge.hub import find_bundle

    # Before torch is imported, which takes seconds.
    opened = open_bundle(find_bundle(bundle))
    origin = locate_origin(opened, against, revision=revision, trust_remote_code=trust_remote_code)
    with needs_extra("atom-edge validate", "export"):
        from atom_edge.exporters.graphs import forms_in
        from atom_edge.exporters.plan import plan_of_validation
        from atom_edge.exporters.repeat import check, validate_bundle
        from atom_edge.exporters.threads import leave_cores_free

    leave_cores_free()
    effort = validate.value if validate else opened.manifest.validation.effort or "quick"
    with show_figures_of_failure(as_json):
        with show_steps(as_json, plan_of_validation(forms_in(opened), effort)) as step:
            measured = validate_bundle(
                opened,
                origin,
                trust_remote_code=trust_remote_code,
                max_perplexity_ratio=max_perplexity_ratio,
                max_kl=max_kl,
                effort=effort,
                progress=step,
            )
        check(measured)
    if as_json:
        from atom_edge.border import format_json

        typer.echo(format_json({"bundle": str(bundle), "validation": measured}).decode(), nl=False)
    else:
        from rich.console import Console

        console = Console()
        console.print(figure_table(measured, "validation against PyTorch: passed"))
        console.print(f"Talk to it: atom-edge chat {shlex.quote(str(bundle))}", highlight=False)
