"""`atom-edge chat`: a conversation in the terminal."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from atom_edge.cli.generation import with_generation_options
from atom_edge.runtimes.options import Options
from atom_edge.runtimes.providers import Provider

if TYPE_CHECKING:
    from atom_edge.runtimes.chat import Conversation


@with_generation_options(without=("logprobs",))
def chat(
    options: Options,
    bundle: Annotated[
        Path | None, typer.Argument(help="Bundle to talk to; the reference model when omitted.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="Worker threads; default: leaves cores free.")
    ] = None,
    provider: Annotated[Provider, typer.Option(help="Where to run.")] = "cpu",
) -> None:
    """Talk to a model. Ctrl+C stops a reply, Ctrl+D leaves, /help lists the commands."""
    from atom_edge.cli.chat_commands import run_command
    from atom_edge.cli.terminal import LineReader, is_interactive, note
    from atom_edge.cli.text import placement
    from atom_edge.runtimes.chat import Conversation
    from atom_edge.runtimes.session import AtomSession

    options = {"repetition_penalty": 1.1, **options}
    session = AtomSession.from_pretrained(bundle, threads, provider)
    if provider == "auto":
        note(placement(session))
    conversation = Conversation(session, options)
    if is_interactive():
        note(_greeting(conversation))
    reader = LineReader("> ")
    while True:
        try:
            message = reader.read()
        except EOFError:
            if is_interactive():
                note("")
            return
        except KeyboardInterrupt:
            note("\nCtrl+D or /exit leaves.")
            continue
        if message.startswith("/"):
            if not run_command(conversation, message):
                return
        elif message or not conversation.is_chat:
            _reply(conversation, message)


def _greeting(conversation: Conversation) -> str:
    import textwrap

    bundle = conversation.session.bundle
    name = bundle.manifest.source.repo or bundle.path.name
    if conversation.is_chat:
        return f"{name}: a chat model. /help lists the commands."
    return textwrap.fill(
        f"{name}: a base model. It does not answer, it continues your text; an empty line lets it "
        "write on. /reset begins a new text, /help lists the commands.",
        width=78,
    )


def _reply(conversation: Conversation, message: str) -> None:
    from atom_edge.cli.terminal import ReplyWriter, interruptible, note

    writer = ReplyWriter()
    with interruptible() as presses, contextlib.closing(conversation.say(message)) as pieces:
        for piece in pieces:
            writer.push(piece.text)
            if presses:
                break
    writer.close()
    if presses:
        note("(stopped)")
