"""The commands within `atom-edge chat`: lines that begin with a slash."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, cast

import msgspec

from atom_edge.border import JSON_LIMIT, read_file, read_json
from atom_edge.cli.terminal import note
from atom_edge.errors import AtomEdgeError, GenerationError
from atom_edge.runtimes.chat import Conversation
from atom_edge.runtimes.options import OPTIONS, GenerationOptions, Options, kind_of
from atom_edge.staging import write_file

# What has no meaning in a conversation.
SETTABLE = tuple(
    name for name, field in OPTIONS.items() if name != "logprobs" and kind_of(field).written
)
_END_OF_HELP = """
Ctrl+C stops a reply. A line that ends in \\ goes on in the next, lines between
\"\"\" and \"\"\" are one message, and so is a block that is pasted. A message
that begins with a slash is written with two: //"""


class Command(NamedTuple):
    """A command: what follows its name, what it does, and how to do it."""

    arguments: str
    explanation: str
    run: Callable[[Conversation, str], str]


def run_command(conversation: Conversation, line: str) -> bool:
    """Do what the line says; False when it ends the conversation."""
    name, _, rest = line[1:].partition(" ")
    if name in ("exit", "quit", "bye"):
        return False
    if name in ("help", "?"):
        note(help_text())
    elif name in COMMANDS:
        try:
            note(COMMANDS[name].run(conversation, rest.strip()))
        except (AtomEdgeError, OSError) as error:
            note(f"error: {error}")
    else:
        note(f"There is no command /{name}; /help lists them, //{name} sends the line as text.")
    return True


def help_text() -> str:
    """The list that /help shows."""
    rows = [("help", "", "this list"), ("retry", "", "another reply to the last message")]
    rows += [(name, each.arguments, each.explanation) for name, each in COMMANDS.items()]
    rows += [("exit", "", "leave, as Ctrl+D does")]
    lines = [f"/{f'{name} {arguments}':<18}{explanation}" for name, arguments, explanation in rows]
    return "\n".join([*lines, _END_OF_HELP])


def completions(line: str) -> Iterator[str]:
    """What the word at the end of a line may become: commands, options, files."""
    command, space, rest = line.partition(" ")
    if not space:
        names = ("help", "retry", *COMMANDS, "exit")
        yield from (f"/{name}" for name in names if f"/{name}".startswith(command))
    elif command == "/set":
        yield from (name for name in SETTABLE if name.startswith(rest))
    elif command in ("/save", "/load"):
        folder, _, begun = rest.rpartition("/")
        start = f"{folder}/" if "/" in rest else ""
        try:
            found = sorted(Path(start or ".").expanduser().iterdir())
        except OSError:
            return
        for path in found:
            if path.name.startswith(begun):
                yield start + path.name + ("/" if path.is_dir() else "")


def _reset(conversation: Conversation, _: str) -> str:
    conversation.reset()
    return "The conversation is forgotten."


def _undo(conversation: Conversation, _: str) -> str:
    conversation.undo()
    return "The last message and its reply are forgotten."


def _system(conversation: Conversation, rest: str) -> str:
    if not rest:
        return conversation.system or "There is no system message."
    conversation.system = "" if rest == "none" else rest
    return "The system message is set." if conversation.system else "The system message is gone."


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
        return "\n".join(f"{name:<20}{_written(getattr(options, name))}" for name in SETTABLE)
    if name not in SETTABLE:
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


class _Message(msgspec.Struct):
    """A message of a file that /load reads."""

    role: str
    content: str


def _path(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError as error:  # there is no such user
        raise GenerationError(f"{text} is no path: {error}") from error


def _save(conversation: Conversation, rest: str) -> str:
    path = _path(rest) if rest else _free_name(conversation)
    if path.suffix == ".json":
        text = json.dumps(conversation.messages, ensure_ascii=False, indent=1)
    else:
        text = _as_markdown(conversation) if conversation.is_chat else conversation.text
    if path.exists():
        return f"{path} is there already. Nothing was saved; give another name."
    write_file(path, f"{text}\n".encode("utf-8", "replace"))
    return f"Saved to {path}."


def _free_name(conversation: Conversation) -> Path:
    """A name in the current folder that no file has."""
    suffix = "json" if conversation.is_chat else "txt"
    number = 1
    while (path := Path(f"atom-edge-chat-{number}.{suffix}")).exists():
        number += 1
    return path


def _load(conversation: Conversation, rest: str) -> str:
    if not rest:
        return "Say which: /load FILE"
    path = _path(rest)
    if path.suffix == ".json":
        messages = read_json(path, list[_Message], GenerationError)
        conversation.load([msgspec.structs.asdict(message) for message in messages])
    elif conversation.is_chat:
        return "A chat is loaded from a .json file, which /save NAME.json writes."
    else:
        text = read_file(path, JSON_LIMIT, GenerationError).decode("utf-8", "replace")
        conversation.load([{"role": "user", "content": text.removesuffix("\n")}])
    return f"Loaded {path}. The next message goes on from there."


def _as_markdown(conversation: Conversation) -> str:
    return "\n\n".join(
        f"**{message['role']}**\n\n{message['content']}" for message in conversation.messages
    )


COMMANDS = {
    "undo": Command("", "forget the last message and its reply", _undo),
    "reset": Command("", "forget the conversation", _reset),
    "system": Command("[TEXT]", "show or set the system message; /system none", _system),
    "stats": Command("", "tokens and speed of the last reply, and the context used", _stats),
    "set": Command("[NAME VALUE]", "show the options, or change one: /set temperature 0", _set),
    "save": Command("[FILE]", "write the conversation; to a .json file, its messages", _save),
    "load": Command("FILE", "go on from a conversation that was saved", _load),
}
