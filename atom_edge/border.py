"""The border: what comes from outside becomes a typed value here, or is refused with its place.

Every JSON file and request is parsed by `parse_json` into a type of its own, most often a
`msgspec.Struct`; an error names the document and the place in it, such as
`manifest.json: files.config.json.bytes: expected int, got str`. Files are read by `read_file`:
regular ones only, and no more of them than the caller has room for.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from atom_edge.errors import AtomEdgeError

T = TypeVar("T")

JSON_LIMIT = 16 * 2**20
"""Bytes of a JSON file that describes something: far more than any model's."""

_NONBLOCK: int = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_PLACE = re.compile(r"(?P<what>.*?)(?: - at `(?P<key>key in )?\$(?P<path>.*)`)?", re.DOTALL)
_STEP = re.compile(r"\.(\w+)|\[(\d+|\.\.\.)\]")


def read_file(path: Path, limit: int, error: type[AtomEdgeError]) -> bytes:
    """The bytes of a regular file.

    Args:
        path: of the file; a link is followed.
        limit: bytes that it may have.
        error: what is raised if it is missing, larger, unreadable, or a device, pipe or folder.
    """
    try:
        # A pipe without a writer would block the opening itself.
        handle = os.open(path, os.O_RDONLY | _NONBLOCK)
        with os.fdopen(handle, "rb") as file:
            state = os.fstat(handle)
            if not stat.S_ISREG(state.st_mode):
                raise error(f"{path} is not a regular file, so it is not read.")
            data = file.read(state.st_size + 1) if state.st_size <= limit else None
    except OSError as problem:
        raise error(f"{path} cannot be read: {problem.strerror or problem}.") from problem
    except ValueError as problem:  # a name with a zero byte
        raise error(f"{path} cannot be read: {problem}.") from problem
    if data is None or len(data) > limit:
        raise error(f"{path} is larger than {limit:,} bytes, so it is not read.")
    return data


def parse_json(data: bytes, kind: type[T], where: str, error: type[AtomEdgeError]) -> T:
    """Parse JSON into a value of the type `kind`.

    Args:
        data: UTF-8 text of one JSON value.
        kind: a `msgspec.Struct`, or any type that msgspec knows; `dict[str, Any]` for an object
            that is only passed on.
        where: the document's name, for the error's message.
        error: what is raised for text that is not JSON, or not of that type.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as problem:
        raise error(f"{where}: {_located(data, kind, str(problem))}.") from problem
    except RecursionError as problem:
        raise error(f"{where} is not readable JSON: it is nested too deeply.") from problem
    except (msgspec.DecodeError, UnicodeError) as problem:
        raise error(f"{where} is not readable JSON: {problem}.") from problem


def read_json(path: Path, kind: type[T], error: type[AtomEdgeError]) -> T:
    """Parse a JSON file into a value of the type `kind`; see `read_file` and `parse_json`."""
    return parse_json(read_file(path, JSON_LIMIT, error), kind, str(path), error)


def format_json(value: Any) -> bytes:
    """A value as indented UTF-8 JSON that ends with a newline.

    Raises:
        ValueError: if a number in it is not finite, since JSON has no such number.
    """
    plain = msgspec.to_builtins(value)
    text = json.dumps(plain, indent=2, ensure_ascii=False, allow_nan=False)
    return f"{text}\n".encode()


def _located(data: bytes, kind: type[Any], message: str) -> str:
    """msgspec's message with the place first, and the keys that it leaves out filled in."""
    found = _PLACE.fullmatch(message)
    assert found is not None  # the pattern takes any text
    what = found["what"].replace("`", "")
    what = what[:1].lower() + what[1:]
    steps = [name or index for name, index in _STEP.findall(found["path"] or "")]
    if not steps:
        return what
    if "..." in steps:
        # What follows the place of the error may be no JSON, or nested too deeply.
        with contextlib.suppress(msgspec.DecodeError, UnicodeError, RecursionError):
            steps = _named(msgspec.json.decode(data), kind, message, steps)
    return f"{'.'.join(steps)}: {what}"


def _named(document: Any, kind: type[Any], message: str, steps: list[str]) -> list[str]:
    """`steps` with each `...` replaced by the key of the entry that the message is about."""
    named, value = [], document
    for step in steps:
        if step != "...":
            value = value[int(step)] if isinstance(value, list) else value[step]
            named.append(step)
            continue
        entries = dict(value)
        while len(entries) > 1:  # keep the half that is refused for the same reason
            items = list(entries.items())
            half = dict(items[: len(items) // 2])
            value.clear()
            value.update(half)
            entries = half if _refusal(document, kind) == message else dict(items[len(half) :])
        value.clear()
        value.update(entries)
        (key, value), *_ = entries.items()
        named.append(key)
    return named


def _refusal(document: Any, kind: type[Any]) -> str:
    try:
        msgspec.convert(document, kind)
    except msgspec.ValidationError as problem:
        return str(problem)
    return ""
