"""What the text commands share: reading and writing text, the line of timings."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from atom_edge.runtimes.reply import Generation, Piece, TokenLogprob
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


def with_text(entry: TokenLogprob, session: AtomSession) -> dict[str, object]:
    """The log-probability of a token and of the likeliest ones, each with its text, for JSON."""

    def described(token_id: int, logprob: float) -> dict[str, object]:
        text = session.tokenizer.token_text(token_id)
        return {"token_id": token_id, "token": text, "logprob": logprob}

    top = [described(token_id, logprob) for token_id, logprob in entry.top]
    return {**described(entry.token_id, entry.logprob), "top": top}


def logprob(entry: TokenLogprob, session: AtomSession) -> str:
    """One line: a token, its log-probability, and the likeliest ones."""

    def described(token_id: int, logprob: float) -> str:
        return f"{session.tokenizer.token_text(token_id)!r} {logprob:.3f}"

    top = "  ".join(described(token_id, logprob) for token_id, logprob in entry.top)
    return f"{described(entry.token_id, entry.logprob):<24}  {top}".rstrip()


def placement(session: AtomSession) -> str:
    """One line: where a session with the provider "auto" runs, and why not on CUDA."""
    why = f" (no CUDA: {session.why_not_cuda})" if session.why_not_cuda else ""
    return f"running on {session.device}{why}"
