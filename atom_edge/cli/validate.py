"""`atom-edge validate`: a bundle is checked against PyTorch again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def validate_command(
    bundle: Annotated[Path, typer.Argument(help="The bundle.", show_default=False)],
    against: Annotated[
        str | None,
        typer.Option(
            help="The snapshot that the bundle was made from, a folder or hub id; without it, the "
            "reference checkpoint.",
            show_default=False,
        ),
    ] = None,
    max_perplexity_ratio: Annotated[
        float, typer.Option(min=1.0, help="Fail if int8 loses more than this.")
    ] = 1.01,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Repeat the checks of the export: a bundle against the PyTorch model it came from.

    Exits 1 if a check fails.
    """
    import json

    from atom_edge.cli.export import validation_rows
    from atom_edge.cli.extras import needs_extra
    from atom_edge.cli.steps import show_steps

    with needs_extra("atom-edge validate", "export"):
        from atom_edge.exporters.report import summary
        from atom_edge.exporters.threads import leave_cores_free
        from atom_edge.exporters.validate import validate_bundle

    leave_cores_free()
    with show_steps(quiet=as_json) as step:
        reports = validate_bundle(
            bundle, against, max_perplexity_ratio=max_perplexity_ratio, progress=step
        )
    if as_json:
        typer.echo(json.dumps({"bundle": str(bundle), "validation": summary(reports)}, indent=2))
    else:
        for label, value in validation_rows(summary(reports)):
            typer.echo(f"{label:<44} {value}")
    for report in reports.values():
        report.check()
