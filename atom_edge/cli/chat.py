"""`atom-edge chat`: a conversation in the terminal."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from atom_edge.runtimes.options import GenerationOptions, Options
from atom_edge.runtimes.providers import Provider

if TYPE_CHECKING:
    from atom_edge.runtimes.chat import Conversation


def chat(
    bundle: Annotated[
        Path | None, typer.Argument(help="Bundle to talk to; the reference model when omitted.")
    ] = None,
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", "-n", help="The most tokens of a reply.")
    ] = GenerationOptions.max_new_tokens,
    temperature: Annotated[
        float, typer.Option("--temperature", "-t", help="0 takes the likeliest token each time.")
    ] = GenerationOptions.temperature,
    top_p: Annotated[
        float, typer.Option(help="Sample among the likeliest tokens that hold this share.")
    ] = GenerationOptions.top_p,
    repetition_penalty: Annotated[
        float, typer.Option(help="Above 1, tokens that occurred become less likely.")
    ] = 1.1,
    seed: Annotated[int | None, typer.Option(help="Gives the same replies each time.")] = None,
    threads: Annotated[
        int | None, typer.Option(help="Threads to use; few that give way to other work if omitted.")
    ] = None,
    provider: Annotated[Provider, typer.Option(help="Where to run.")] = "cpu",
) -> None:
    """Talk to a model. Ctrl+C stops a reply, Ctrl+D leaves, /help lists the commands."""
    from atom_edge.cli.chat_commands import run_command
    from atom_edge.cli.terminal import LineReader, is_interactive, note
    from atom_edge.cli.text import placement
    from atom_edge.runtimes.chat import Conversation
    from atom_edge.runtimes.session import AtomSession

    options: Options = {
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "repetition_penalty": repetition_penalty,
        "seed": seed,
    }
    GenerationOptions(**options)
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
