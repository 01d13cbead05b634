"""`atom-edge push`: a bundle to the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def push(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.")],
    repo: Annotated[str, typer.Argument(help="Hub id, ORG/NAME; made if there is none.")],
    private: Annotated[
        bool, typer.Option("--private", help="Make the repository a private one.")
    ] = False,
) -> None:
    """Verify a bundle and upload it to the Hugging Face hub; its address goes to stdout.

    Every command then takes ORG/NAME in place of a folder.
    """
    from atom_edge.bundle import open_bundle
    from atom_edge.hub import push_bundle

    typer.echo(push_bundle(open_bundle(bundle), repo, private=private))
