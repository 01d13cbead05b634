"""What a caller may ask of a generation, parsed into typed values before any work is done.

A new option is one field of `GenerationOptions`, and its key in `Options` for type checkers: the
command line, `/set` in the chat and the errors follow from the field.
"""

from __future__ import annotations

import copy
import dataclasses
import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

from atom_edge.errors import GenerationError
from atom_edge.runtimes.kinds import (
    CHOICES,
    FUNCTIONS,
    SCHEMA,
    STOP,
    SWITCH,
    TEXT,
    Kind,
    integer,
    number,
    optional,
)

if TYPE_CHECKING:
    from atom_edge.runtimes.engines.interface import Logits

    LogitsProcessor = Callable[[Sequence[int], Logits], Logits]
    """From the reply's token ids so far, and the logits `[V]` of what follows, to other logits
    `[V]`; minus infinity keeps a token from being chosen. What it is given must not be changed."""
else:  # The command line's help reads this module, and needs no numpy.
    LogitsProcessor = Callable


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
    choices: Sequence[str]
    regex: str | None
    json_schema: Mapping[str, Any] | str | None
    grammar: str | None
    heal: bool
    logits_processors: Sequence[LogitsProcessor]


CONSTRAINTS = ("choices", "regex", "json_schema", "grammar")
"""Options of which one at most may be given: what the reply must look like."""


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
        choices: the reply is one of these texts, and then ends; empty for any reply.
        regex: the reply matches this regular expression as a whole.
        json_schema: the reply is a JSON value that this schema allows.
        grammar: the reply follows this grammar, in the notation of Lark as llguidance reads it.
        heal: whether the reply may write the last tokens of the prompt anew, with the same text:
            `The wate` goes on with `r`, though ` water` is one token. The reply's text begins
            after the prompt's.
        logits_processors: called in turn before a token is chosen; see `LogitsProcessor`.

    Raises:
        GenerationError: for a value of another type or outside its range, or for more than one of
            choices, regex, json_schema and grammar.
    """

    max_new_tokens: int = _option(
        128,
        integer(1, 2**31, "at least 1"),
        "Maximum tokens in the reply.",
        flag="-n",
    )
    temperature: float = _option(
        0.8,
        number(lambda t: t == 0 or 1e-9 <= t <= 1e9, "0 (greedy) or from 1e-9 to 1e9"),
        "0 takes the likeliest token each time.",
        flag="-t",
    )
    top_k: int = _option(
        0,
        integer(0, 2**31, "0 (all) or above"),
        "Sample among the K likeliest tokens; 0 for all.",
    )
    top_p: float = _option(
        0.95,
        number(lambda p: 0 < p <= 1, "above 0 and at most 1"),
        "Sample among the likeliest tokens that hold this share.",
    )
    min_p: float = _option(
        0.0,
        number(lambda p: 0 <= p <= 1, "from 0 to 1"),
        "Sample among tokens at least this likely, the likeliest being 1.",
    )
    repetition_penalty: float = _option(
        1.0,
        number(lambda penalty: 1e-3 <= penalty <= 1e3, "from 0.001 to 1000"),
        "Above 1, tokens that occurred become less likely.",
    )
    seed: int | None = _option(
        None,
        optional(integer(0, 2**64 - 1, "0 or above and below 2**64")),
        "Gives the same reply each time.",
    )
    stop: str | Sequence[str] = _option(
        (), STOP, r"End before this text (\n for a new line); may be given several times."
    )
    logprobs: int | None = _option(
        None,
        optional(integer(0, 2**31, "0 or above")),
        "Also show log-probabilities: of each token and of the N likeliest.",
    )
    choices: Sequence[str] = _option(
        (), CHOICES, "The reply is one of these texts; give it several times.", flag="--choice"
    )
    regex: str | None = _option(None, optional(TEXT), "The reply matches this regular expression.")
    json_schema: Mapping[str, Any] | str | None = _option(
        None, optional(SCHEMA), "The reply is JSON that this JSON Schema allows."
    )
    grammar: str | None = _option(None, optional(TEXT), "The reply follows this Lark grammar.")
    heal: bool = _option(
        False, SWITCH, "Let the reply rewrite the prompt's last tokens, as in a half-typed word."
    )
    logits_processors: Sequence[LogitsProcessor] = _option(
        (), FUNCTIONS, "Functions that change the logits."
    )

    def __post_init__(self) -> None:
        for name, field in OPTIONS.items():
            value = getattr(self, name)
            if value is not field.default:
                object.__setattr__(self, name, _parsed(name, value, kind_of(field)))
        if len(given := [name for name in CONSTRAINTS if getattr(self, name)]) > 1:
            raise GenerationError(f"Give {given[0]} or {given[1]}, not both.")
        if given and self.heal:
            raise GenerationError(f"Give {given[0]} or heal, not both.")

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> GenerationOptions:
        """The options of these names, and defaults for the others.

        Raises:
            GenerationError: for a name that is no option, or a wrong value.
        """
        check_names(options)
        return cls(**options)

    def with_seed(self, seed: int) -> GenerationOptions:
        """The same options with another seed, and nothing is checked again."""
        options = copy.copy(self)
        object.__setattr__(options, "seed", seed)
        return options

    @property
    def is_greedy(self) -> bool:
        """Whether each token is the likeliest, whatever came before."""
        return self.temperature == 0 and self.repetition_penalty == 1 and self.is_free

    @property
    def is_free(self) -> bool:
        """Whether any token may come next, as the model has it."""
        return not (
            self.logits_processors or self.heal or any(getattr(self, name) for name in CONSTRAINTS)
        )

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
        import difflib  # 1 ms that most processes need not wait for

        close = difflib.get_close_matches(unknown[0], OPTIONS, 1, 0.5)
        meant = f" Did you mean {close[0]!r}?" if close else ""
        raise GenerationError(
            f"There is no option {reprlib.repr(unknown[0])}.{meant} "
            f"The options are {', '.join(OPTIONS)}."
        )


def _parsed(name: str, value: Any, kind: Kind) -> Any:
    try:
        return kind.parse(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise GenerationError(
            f"{name} is {reprlib.repr(value)}; it must be {kind.must_be}."
        ) from error
