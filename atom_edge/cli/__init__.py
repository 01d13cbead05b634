"""The command line, one file a command.

A command parses, calls and prints; what it does lives in the packages. Each module imports only
what its signature needs and leaves the rest to its function's body, so that `atom-edge` starts
fast and runs without the extras of the commands that are not used.
"""

from __future__ import annotations

import contextlib
import os
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
from atom_edge.cli.serve import serve
from atom_edge.cli.train_tokenizer import train_tokenizer
from atom_edge.cli.validate import validate_command
from atom_edge.errors import AtomEdgeError
from atom_edge.printing import printable

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
app.command("serve")(serve)
app.command("train-tokenizer")(train_tokenizer)
app.command("validate")(validate_command)


def main() -> None:
    """Run the command line: exits 0, 1 on an error, 2 on wrong usage, 130 on Ctrl+C.

    With `ATOM_EDGE_TRACEBACK=1` in the environment an error shows where it was raised.
    """
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if os.environ.get("ATOM_EDGE_TRACEBACK") == "1":
            raise
        _report(error)
        sys.exit(1)


def _report(error: Exception) -> None:
    """Say on stderr what went wrong, in one line where it is not one of our errors."""
    if isinstance(error, AtomEdgeError):
        message = printable(str(error), keep="\n")
    elif isinstance(error, OSError):
        message = printable(str(error))
    else:
        hint = "ATOM_EDGE_TRACEBACK=1 shows where; please report it"
        message = printable(f"unexpected {type(error).__name__}: {error} ({hint})")
    with contextlib.suppress(OSError, AttributeError):  # stderr may be closed
        typer.echo(f"error: {message}", err=True)
    # What is still buffered for a stdout that cannot take it would fail once more at exit.
    try:
        sys.stdout.flush()
    except (OSError, ValueError, AttributeError):
        sys.stdout = None  # as Python does where there is none
