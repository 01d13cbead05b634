"""What the values of options are: how they are parsed, from values of Python and from text."""

from __future__ import annotations

import codecs
import json
import math
import numbers
import reprlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from atom_edge.errors import GenerationError


@dataclass(frozen=True)
class Kind:
    """What the values of an option are.

    Attributes:
        must_be: the end of "it must be ...".
        parse: a caller's value to the typed one; ValueError or TypeError for any other.
        from_text: the value that a written text stands for; ValueError where it stands for none.
        written: the type that the command line reads; a list where the option may be repeated;
            None where no text stands for a value.
    """

    must_be: str
    parse: Callable[[Any], Any]
    from_text: Callable[[str], Any]
    written: Any


def integer(low: int, high: int, must_be: str) -> Kind:
    """Integers from `low` to `high`."""

    def parse(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, numbers.Integral):
            raise TypeError
        found = int(value)
        if not low <= found <= high:
            raise ValueError
        return found

    return Kind(f"an integer, {must_be}", parse, int, int)


def number(holds: Callable[[float], bool], must_be: str) -> Kind:
    """Finite numbers of which `holds` is true."""

    def parse(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise TypeError
        found = float(value)
        if not (math.isfinite(found) and holds(found)):
            raise ValueError
        return found

    return Kind(f"a number, {must_be}", parse, float, float)


def optional(kind: Kind) -> Kind:
    """None, or a value of `kind`."""
    return Kind(
        f"{kind.must_be}, or None",
        lambda value: None if value is None else kind.parse(value),
        lambda text: None if text.lower() in ("", "none") else kind.from_text(text),
        kind.written,
    )


def _parse_stop(value: Any) -> tuple[str, ...]:
    if not isinstance(value, Sequence) or isinstance(value, bytes | bytearray):
        raise TypeError
    texts = (value,) if isinstance(value, str) else tuple(value)
    if not all(isinstance(text, str) and text for text in texts):
        raise ValueError
    return texts


def unescape(text: str) -> str:
    r"""`text` with `\n`, `\t`, `\u00e9` and the like as the characters that they name.

    Raises:
        GenerationError: for a backslash that begins no such name.
    """
    try:
        return codecs.decode(text.encode("latin-1", "backslashreplace"), "unicode_escape")
    except UnicodeDecodeError as error:
        raise GenerationError(
            f"{reprlib.repr(text)} has a backslash that names no character. Write \\\\ for one."
        ) from error


STOP = Kind(
    "a text or a sequence of texts, each of at least one character",
    _parse_stop,
    lambda text: (unescape(text),) if text else (),
    list[str],
)


def _parse_schema(value: Any) -> str:
    """A JSON Schema as text: the form in which it can be compared and kept."""
    text = value if isinstance(value, str) else json.dumps(value)
    if not isinstance(json.loads(text), dict | bool):
        raise TypeError
    return text


def _parse_functions(value: Any) -> tuple[Any, ...]:
    if not isinstance(value, Sequence) or not all(map(callable, value)):
        raise TypeError
    return tuple(value)


def _parse_text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError
    return value


def _parse_switch(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _switch(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError
    return text.lower() == "true"


CHOICES = Kind(
    "a sequence of texts, each of at least one character",
    lambda value: _parse_stop(None if isinstance(value, str) else value),
    lambda text: tuple(map(unescape, text.split("|"))) if text else (),
    list[str],
)
TEXT = Kind("a text", _parse_text, str, str)
SCHEMA = Kind("a JSON Schema, as an object or as its text", _parse_schema, str, str)
SWITCH = Kind("True or False", _parse_switch, _switch, bool)
FUNCTIONS = Kind("a sequence of functions", _parse_functions, _parse_text, None)
