"""What a caller may ask of a generation, parsed into typed values before any work is done.

A new option is one field of `GenerationOptions`, and its key in `Options` for type checkers: the
command line, `/set` in the chat and the errors follow from the field.
"""

from __future__ import annotations

import codecs
import dataclasses
import difflib
import math
import numbers
import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from atom_edge.errors import GenerationError


class Options(TypedDict, total=False):
    """`GenerationOptions` as keyword arguments, all optional."""

    max_new_tokens: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    seed: int | None
    stop: str | Sequence[str]
    logprobs: int | None


@dataclass(frozen=True)
class Kind:
    """What the values of an option are.

    Attributes:
        must_be: the end of "it must be ...".
        parse: a caller's value to the typed one; ValueError or TypeError for any other.
        from_text: the value that a written text stands for; ValueError where it stands for none.
        written: the type that the command line reads; a list where the option may be repeated.
    """

    must_be: str
    parse: Callable[[Any], Any]
    from_text: Callable[[str], Any]
    written: Any


def _integer(low: int, high: int, must_be: str) -> Kind:
    def parse(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, numbers.Integral):
            raise TypeError
        number = int(value)
        if not low <= number <= high:
            raise ValueError
        return number

    return Kind(f"an integer, {must_be}", parse, int, int)


def _number(holds: Callable[[float], bool], must_be: str) -> Kind:
    def parse(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise TypeError
        number = float(value)
        if not (math.isfinite(number) and holds(number)):
            raise ValueError
        return number

    return Kind(f"a number, {must_be}", parse, float, float)


def _optional(kind: Kind) -> Kind:
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


_STOP = Kind(
    "a text or a sequence of texts, each of at least one character",
    _parse_stop,
    lambda text: (unescape(text),) if text else (),
    list[str],
)


def _option(default: Any, kind: Kind, explanation: str, flag: str | None = None) -> Any:
    metadata = {"kind": kind, "help": explanation, "flag": flag}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class GenerationOptions:
    """How a reply is chosen and when it ends.

    Attributes:
        max_new_tokens: maximum tokens in the reply, at least 1.
        temperature: divides the logits; 0 takes the likeliest token each time (greedy).
        top_k: sample among the k likeliest tokens; 0 for all.
        top_p: sample among the likeliest tokens that hold this share together; 1 for all.
        min_p: sample among tokens at least this many times as likely as the likeliest; 0 for all.
        repetition_penalty: above 1, tokens of the prompt and of the reply become less likely.
        seed: with it the same request repeats exactly; None for another reply each time.
        stop: one text or several that end the reply; they are not part of it.
        logprobs: None for none; N for the log-probability of each token and of the N likeliest.

    Raises:
        GenerationError: for a value of another type or outside its range.
    """

    max_new_tokens: int = _option(
        128,
        _integer(1, 2**31, "at least 1"),
        "Maximum tokens in the reply.",
        flag="-n",
    )
    temperature: float = _option(
        0.8,
        _number(lambda t: t == 0 or 1e-9 <= t <= 1e9, "0 (greedy) or from 1e-9 to 1e9"),
        "0 takes the likeliest token each time.",
        flag="-t",
    )
    top_k: int = _option(
        0,
        _integer(0, 2**31, "0 (all) or above"),
        "Sample among the K likeliest tokens; 0 for all.",
    )
    top_p: float = _option(
        0.95,
        _number(lambda p: 0 < p <= 1, "above 0 and at most 1"),
        "Sample among the likeliest tokens that hold this share.",
    )
    min_p: float = _option(
        0.0,
        _number(lambda p: 0 <= p <= 1, "from 0 to 1"),
        "Sample among tokens at least this likely, the likeliest being 1.",
    )
    repetition_penalty: float = _option(
        1.0,
        _number(lambda penalty: 1e-3 <= penalty <= 1e3, "from 0.001 to 1000"),
        "Above 1, tokens that occurred become less likely.",
    )
    seed: int | None = _option(
        None,
        _optional(_integer(0, 2**64 - 1, "0 or above and below 2**64")),
        "Gives the same reply each time.",
    )
    stop: str | Sequence[str] = _option(
        (), _STOP, r"End before this text (\n for a new line); may be given several times."
    )
    logprobs: int | None = _option(
        None,
        _optional(_integer(0, 2**31, "0 or above")),
        "Also show log-probabilities: of each token and of the N likeliest.",
    )

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = _parsed(field.name, getattr(self, field.name), kind_of(field))
            object.__setattr__(self, field.name, value)

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> GenerationOptions:
        """The options of these names, and defaults for the others.

        Raises:
            GenerationError: for a name that is no option, or a wrong value.
        """
        check_names(options)
        return cls(**options)

    @property
    def is_greedy(self) -> bool:
        """Whether each token is the likeliest, whatever came before."""
        return self.temperature == 0 and self.repetition_penalty == 1

    @property
    def stop_texts(self) -> tuple[str, ...]:
        """`stop` as a tuple."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)


OPTIONS = {field.name: field for field in dataclasses.fields(GenerationOptions)}


def kind_of(field: dataclasses.Field[Any]) -> Kind:
    """What the values of a field of `GenerationOptions` are."""
    kind: Kind = field.metadata["kind"]
    return kind


def check_names(options: Mapping[str, object]) -> None:
    """Raise `GenerationError` for a name that is no option."""
    if unknown := [str(name) for name in options if name not in OPTIONS]:
        close = difflib.get_close_matches(unknown[0], OPTIONS, 1, 0.5)
        meant = f" Did you mean {close[0]!r}?" if close else ""
        raise GenerationError(
            f"There is no option {reprlib.repr(unknown[0])}.{meant} "
            f"The options are {', '.join(OPTIONS)}."
        )


def _parsed(name: str, value: Any, kind: Kind) -> Any:
    try:
        return kind.parse(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise GenerationError(
            f"{name} is {reprlib.repr(value)}; it must be {kind.must_be}."
        ) from error
