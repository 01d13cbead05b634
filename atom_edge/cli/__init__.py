"""The command line, one file a command.

A command parses, calls and prints; what it does lives in the packages. Each module imports only
what its signature needs and leaves the rest to its function's body, so that `atom-edge` starts
fast and runs without the extras of the commands that are not used.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from atom_edge import __version__
from atom_edge.cli.batch import batch
from atom_edge.cli.bench import bench
from atom_edge.cli.chat import chat
from atom_edge.cli.doctor import doctor
from atom_edge.cli.eval import eval_command
from atom_edge.cli.export import export_command
from atom_edge.cli.generate import generate
from atom_edge.cli.inspect import inspect_command
from atom_edge.cli.pretrain import pretrain
from atom_edge.cli.push import push
from atom_edge.cli.serve import serve
from atom_edge.cli.train_tokenizer import train_tokenizer
from atom_edge.cli.validate import validate_command
from atom_edge.errors import AtomEdgeError
from atom_edge.printing import printable

app = typer.Typer(
    name="atom-edge",
    help="From a PyTorch checkpoint to text on small machines, through ONNX Runtime.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
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


# Each command, and lines that show how it is used.
_COMMANDS: tuple[tuple[str, Callable[..., None], tuple[str, ...]], ...] = (
    (
        "batch",
        batch,
        ("batch requests.jsonl -o responses.jsonl", "batch in.jsonl -o out.jsonl --bundle b"),
    ),
    ("bench", bench, ("bench", "bench my-bundle --threads 1,2 --batch 1,8 --picture speed.png")),
    ("chat", chat, ("chat", "chat my-bundle --temperature 0.4 --system 'Be brief.'")),
    ("doctor", doctor, ("doctor",)),
    ("eval", eval_command, ("eval --tasks perplexity", "eval my-bundle --tasks piqa --limit 200")),
    (
        "export",
        export_command,
        ("export SNAPSHOT --quantize int8 -o my-bundle", "export ORG/NAME --target cuda -o b"),
    ),
    (
        "generate",
        generate,
        (
            'generate "The water cycle is" --temperature 0',
            r'generate "Once" --stop "\n" --seed 7 --json',
            'echo "Hello" | atom-edge generate --chat --bundle my-chat-bundle',
        ),
    ),
    ("inspect", inspect_command, ("inspect", "inspect my-bundle --all")),
    (
        "pretrain",
        pretrain,
        ("pretrain atom-reference --data corpus -o run", "pretrain my.toml -o run --resume"),
    ),
    ("push", push, ("push my-bundle ORG/NAME",)),
    ("serve", serve, ("serve my-bundle --port 8000", "serve my-bundle --api-key-file keys.txt")),
    ("train-tokenizer", train_tokenizer, ("train-tokenizer corpus -o tokenizer",)),
    (
        "validate",
        validate_command,
        ("validate my-bundle", "validate my-bundle --against SNAPSHOT --validate full"),
    ),
)
for _name, _command, _examples in _COMMANDS:
    _lines = [line if "| atom-edge" in line else f"atom-edge {line}" for line in _examples]
    app.command(_name, epilog="\n\n".join(["Examples:", *_lines]))(_command)


def main() -> None:
    """Run the command line: exits 0, 1 on an error, 2 on wrong usage, 130 on Ctrl+C.

    With `ATOM_EDGE_TRACEBACK=1` in the environment an error shows where it was raised.
    """
    _open_closed_streams()
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if os.environ.get("ATOM_EDGE_TRACEBACK") == "1":
            raise
        _report(error)
        sys.exit(1)


def _open_closed_streams() -> None:
    """Let what is printed go nowhere, and nothing be read, where the shell closed a stream."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            nothing = Path(os.devnull).open(mode, encoding="utf-8")  # noqa: SIM115 - stays open
            setattr(sys, name, nothing)


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
