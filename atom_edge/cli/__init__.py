"""The command line, one file a command.

A command parses, calls and prints; what it does lives in the packages. Each module imports only
what its signature needs and leaves the rest to its function's body, so that `atom-edge` starts
fast and runs without the extras of the commands that are not used.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from atom_edge import __version__
from atom_edge.cli.bench import bench
from atom_edge.cli.chat import chat
from atom_edge.cli.doctor import doctor
from atom_edge.cli.eval import eval_command
from atom_edge.cli.export import export_command
from atom_edge.cli.generate import generate
from atom_edge.cli.inspect import inspect_command
from atom_edge.cli.pretrain import pretrain
from atom_edge.cli.train_tokenizer import train_tokenizer
from atom_edge.cli.validate import validate_command
from atom_edge.errors import AtomEdgeError

app = typer.Typer(
    name="atom-edge",
    help="From a PyTorch checkpoint to text on small machines, through ONNX Runtime.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(f"atom-edge {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    pass


app.command("bench")(bench)
app.command("chat")(chat)
app.command("doctor")(doctor)
app.command("eval")(eval_command)
app.command("export")(export_command)
app.command("generate")(generate)
app.command("inspect")(inspect_command)
app.command("pretrain")(pretrain)
app.command("train-tokenizer")(train_tokenizer)
app.command("validate")(validate_command)


def main() -> None:
    """Run the command line: exits 0, 1 on an error, 2 on wrong usage, 130 on Ctrl+C."""
    try:
        app()
    except AtomEdgeError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
