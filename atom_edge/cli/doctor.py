"""`atom-edge doctor`: what works on this machine, and what to do about the rest."""

from __future__ import annotations

from typing import Annotated

import typer

_COLOURS = {"ok": "green", "info": "cyan", "warning": "yellow", "error": "red"}


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Check the installation: packages, providers, CPU, threads; exit 1 on an error."""
    import json
    from dataclasses import asdict

    from rich.console import Console
    from rich.text import Text

    from atom_edge import __version__
    from atom_edge.runtimes.doctor import examine

    console = Console(soft_wrap=True)
    failed = False
    findings = []
    for finding in examine():
        failed = failed or finding.status == "error"
        findings.append(finding)
        if not as_json:
            status = (f"{finding.status:<8}", _COLOURS[finding.status])
            console.print(Text.assemble(status, f"{finding.name:<18}{finding.detail}"))
            if finding.remedy:
                console.print(Text(f"{'':<26}{finding.remedy}"))
    if as_json:
        report = {"atom-edge": __version__, "findings": [asdict(found) for found in findings]}
        typer.echo(json.dumps({"ok": not failed, **report}, indent=2))
    if failed:
        raise typer.Exit(1)
