"""What the text commands share: reading and writing text, the line of timings."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from atom_edge.runtimes.reply import Generation, Piece
    from atom_edge.runtimes.session import AtomSession


def read_stdin() -> str:
    """All of standard input as UTF-8, without its last line's end."""
    if sys.stdin.isatty():
        raise typer.BadParameter("Give a PROMPT, or pipe one in.", param_hint="PROMPT")
    data = sys.stdin.buffer.read()
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise typer.BadParameter(
            f"Standard input is not UTF-8 (byte {error.start}).", param_hint="PROMPT"
        ) from error
    return text.removesuffix("\n").removesuffix("\r")


def write(text: str) -> None:
    """Write to stdout at once; what its encoding lacks becomes `?`."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
    sys.stdout.flush()


def summary(reply: Generation | Piece) -> str:
    """One line: how many tokens, how fast, and why it ended."""
    cut = f", {reply.truncated_tokens} dropped at its start" if reply.truncated_tokens else ""
    return (
        f"prompt {reply.prompt_tokens} tokens at {reply.prompt_tps:,.0f}/s{cut}; "
        f"reply {reply.generation_tokens} tokens at {reply.generation_tps:,.0f}/s; "
        f"ended by {reply.finish_reason}"
    )


def placement(session: AtomSession) -> str:
    """One line: where a session with the provider "auto" runs, and why not on CUDA."""
    why = f" (no CUDA: {session.why_not_cuda})" if session.why_not_cuda else ""
    return f"running on {session.device}{why}"
