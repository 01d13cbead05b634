"""`atom-edge chat`: a conversation in the terminal."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from atom_edge.cli.generation import with_generation_options
from atom_edge.errors import AtomEdgeError
from atom_edge.printing import printable
from atom_edge.runtimes.options import Options
from atom_edge.runtimes.providers import Provider

if TYPE_CHECKING:
    from collections.abc import Generator

    from atom_edge.runtimes.chat import Conversation
    from atom_edge.runtimes.reply import Piece


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
    system: Annotated[
        str | None, typer.Option(help="System message, for a bundle with a chat template.")
    ] = None,
) -> None:
    """Talk to a model. Ctrl+C stops a reply, Ctrl+D leaves, /help lists the commands."""
    from atom_edge.cli.chat_commands import completions, run_command
    from atom_edge.cli.terminal import LineReader, is_interactive, note
    from atom_edge.cli.text import placement
    from atom_edge.runtimes.chat import Conversation
    from atom_edge.runtimes.session import AtomSession

    options = {"repetition_penalty": 1.1, **options}
    session = AtomSession.from_pretrained(bundle, threads, provider)
    if provider == "auto":
        note(placement(session))
    conversation = Conversation(session, options)
    if system:
        conversation.system = system
    if is_interactive():
        note(_greeting(conversation))
    reader = LineReader("> ", completions)
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
        except UnicodeDecodeError as error:
            note(f"This line is not text in UTF-8 (byte {error.start}), so it was left out.")
            continue
        if message == "/retry":
            _reply(conversation.retry())
        elif message.startswith("//"):
            _reply(conversation.say(message[1:]))
        elif message.startswith("/") and "\n" not in message:
            if not run_command(conversation, message):
                return
        elif message or not conversation.is_chat:
            _reply(conversation.say(message))


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


def _reply(pieces: Generator[Piece]) -> None:
    """Write a reply as it comes; an error in it is told, and the conversation goes on."""
    from atom_edge.cli.terminal import ReplyWriter, interruptible, note

    writer = None
    remark = ""
    try:
        with interruptible() as presses, contextlib.closing(pieces):
            for piece in pieces:
                writer = writer or ReplyWriter()
                writer.push(piece.text)
                if presses:
                    remark = "(stopped)"
                    break
    except AtomEdgeError as error:
        remark = f"error: {printable(str(error))}"
    if writer:
        writer.close()
    if remark:
        note(remark)
