"""The commands within `atom-edge chat`: lines that begin with a slash."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from atom_edge.cli.terminal import note
from atom_edge.errors import AtomEdgeError
from atom_edge.runtimes.chat import Conversation
from atom_edge.runtimes.options import OPTIONS, GenerationOptions, Options, kind_of

# What has no meaning in a conversation.
_SETTABLE = OPTIONS.keys() - {"logprobs"}
_HELP = """\
/help             this list
/reset            forget the conversation
/stats            tokens and speed of the last reply, and the context used
/set              show the options;  /set temperature 0  changes one
/save FILE        write the conversation to a file
/exit             leave, as Ctrl+D does

Ctrl+C stops a reply. A line that ends in \\ goes on in the next, and lines
between \"\"\" and \"\"\" are one message."""


def run_command(conversation: Conversation, line: str) -> bool:
    """Do what the line says; False when it ends the conversation."""
    name, _, rest = line[1:].partition(" ")
    if name in ("exit", "quit", "bye"):
        return False
    commands = {"reset": _reset, "stats": _stats, "set": _set, "save": _save}
    if name in ("help", "?"):
        note(_HELP)
    elif name in commands:
        try:
            note(commands[name](conversation, rest.strip()))
        except (AtomEdgeError, OSError) as error:
            note(f"error: {error}")
    else:
        note(f"There is no command /{name}; /help lists them.")
    return True


def _reset(conversation: Conversation, _: str) -> str:
    conversation.reset()
    return "The conversation is forgotten."


def _stats(conversation: Conversation, _: str) -> str:
    last = conversation.last
    if last is None:
        return "There is no reply yet."
    used = last.prompt_tokens + last.generation_tokens
    return (
        f"prompt   {last.prompt_tokens:>6} tokens  {last.prompt_tps:>9,.0f} tokens/s\n"
        f"reply    {last.generation_tokens:>6} tokens  {last.generation_tps:>9,.0f} tokens/s\n"
        f"context  {used:>6} of {conversation.session.context_length}"
    )


def _set(conversation: Conversation, rest: str) -> str:
    name, _, text = rest.partition(" ")
    if not name:
        options = GenerationOptions.of(conversation.options)
        return "\n".join(
            f"{name:<20}{_written(getattr(options, name))}" for name in OPTIONS if name in _SETTABLE
        )
    if name not in _SETTABLE:
        return f"There is no option {name!r}; /set lists them."
    try:
        value = kind_of(OPTIONS[name]).from_text(text.strip())
    except ValueError:
        return f"{name} cannot be {text.strip()!r}."
    changed = cast(Options, {**conversation.options, name: value})
    GenerationOptions.of(changed)
    conversation.options = changed
    return f"{name} = {_written(value)}"


def _written(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(repr, value)) or "none"
    return "none" if value is None else str(value)


def _save(conversation: Conversation, rest: str) -> str:
    if not rest:
        return "Say where: /save FILE"
    path = Path(rest).expanduser()
    text = _as_markdown(conversation) if conversation.is_chat else conversation.text
    with path.open("x", encoding="utf-8") as file:
        file.write(text + "\n")
    return f"Saved to {path}."


def _as_markdown(conversation: Conversation) -> str:
    return "\n\n".join(
        f"**{message['role']}**\n\n{message['content']}" for message in conversation.messages
    )
