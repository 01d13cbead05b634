"""Options and prompts from outside: each is used or refused by name, whatever it is."""

from __future__ import annotations

import contextlib
import math
from typing import Any, get_type_hints

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atom_edge.errors import AtomEdgeError, GenerationError
from atom_edge.runtimes.kinds import unescape
from atom_edge.runtimes.options import OPTIONS, GenerationOptions, Options
from atom_edge.runtimes.session import AtomSession

ODD = [
    None,
    "",
    "x",
    b"x",
    True,
    1.5,
    2.5,
    math.nan,
    math.inf,
    -math.inf,
    -1,
    0,
    1,
    1e-40,
    1e300,
    10**400,
    2**64,
    [],
    [1],
    [""],
    ["a", None],
    {},
    {"a": 1},
    {"a"},
    object(),
    (text for text in ["a"]),
    np.float32(0.5),
    np.int64(3),
    np.nan,
    np.array([1, 2]),
    1j,
    lambda: 1,
]
WRONG = {
    "max_new_tokens": [None, "5", 2.5, 5.0, 0, -1, True, math.nan, [5], np.float32(3)],
    "temperature": [None, "1", -1, math.nan, math.inf, 1e-40, 5e-324, 1e300, 10**400, 1j, True],
    "top_k": [None, 2.5, -1, "40", math.nan],
    "top_p": [None, 0, 1.01, math.nan, "0.9"],
    "min_p": [None, -0.1, 1.01, math.nan],
    "repetition_penalty": [None, 0, -1, 1e300, 1e-40, math.inf, math.nan],
    "seed": [1.5, -1, 2**64, "1", math.nan],
    "stop": [None, "", [""], [None], [1], b"x", [b"x"], 5, ("a" for _ in "b"), {"a"}, {"a": 1}],
    "logprobs": [1.5, -1, "2", math.nan],
    "choices": ["a", None, [""], [1], ("a" for _ in "b"), 5],
    "regex": ["", 5, b"a", ["a"]],
    "json_schema": ["", "{", "[]", 5, b"{}", [], {"a": {1}}],
    "grammar": ["", 5, b"a"],
    "heal": [1, 0, None, "true"],
    "logits_processors": [None, len, [5], "a"],
}


def test_the_keyword_arguments_are_the_fields() -> None:
    assert set(get_type_hints(Options)) == set(OPTIONS) == set(WRONG)


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, vs in WRONG.items() for v in vs])
def test_a_wrong_value_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(GenerationError, match=rf"^{name} is .*; it must be "):
        GenerationOptions.of({name: value})


def test_numbers_of_numpy_are_numbers() -> None:
    options = GenerationOptions.of(
        {"max_new_tokens": np.int64(3), "temperature": np.float32(0.5), "seed": np.uint8(7)}
    )
    assert (options.max_new_tokens, options.temperature, options.seed) == (3, 0.5, 7)
    assert type(options.max_new_tokens) is int
    assert type(options.temperature) is float


def test_an_unknown_option_is_refused_with_what_was_meant(session: AtomSession) -> None:
    with pytest.raises(GenerationError, match=r"no option 'max_tokens'.*'max_new_tokens'"):
        session.generate("The", max_tokens=5)  # type: ignore[call-arg]
    with pytest.raises(GenerationError, match=r"no option 'x'\. The options are max_new_tokens"):
        session.generate("The", x=5)  # type: ignore[call-arg]


@settings(max_examples=100, deadline=None)
@given(
    options=st.dictionaries(st.sampled_from([*OPTIONS, "other"]), st.sampled_from(ODD)),
    prompt=st.sampled_from([*ODD, "The water", [5, 6], [4096], [-1], ["The"], "\ud800", range(3)]),
)
def test_any_options_and_prompt_give_a_reply_or_one_of_our_errors(
    session: AtomSession, options: dict[str, Any], prompt: Any
) -> None:
    for call in (
        lambda: session.generate(prompt, **{"max_new_tokens": 2, **options}),
        lambda: list(session.stream(prompt, **{"max_new_tokens": 2, **options})),
        lambda: session.generate_batch(prompt, **{"max_new_tokens": 2, **options}),
        lambda: session.generate_batch([prompt, "a"], **{"max_new_tokens": 2, **options}),
    ):
        with contextlib.suppress(AtomEdgeError):
            call()


@pytest.mark.parametrize("prompt", [None, b"x", bytearray(b"x"), 5, 1.5, {"a": 1}, {1}, object()])
def test_what_is_no_prompt_is_refused(session: AtomSession, prompt: Any) -> None:
    with pytest.raises(GenerationError, match="it must be a text or a sequence of token ids"):
        session.generate(prompt)


@pytest.mark.parametrize("prompt", [[1.5], [None], ["a"], [True], [math.nan], np.array([1.5])])
def test_what_is_no_token_id_is_refused(session: AtomSession, prompt: Any) -> None:
    with pytest.raises(GenerationError, match="token ids are integers"):
        session.generate(prompt)


def test_token_ids_may_be_a_numpy_array(session: AtomSession) -> None:
    ids = session.tokenizer.encode("The water")
    reply = session.generate(np.array(ids), max_new_tokens=3, temperature=0)  # type: ignore[arg-type]
    assert reply.text == session.generate(ids, max_new_tokens=3, temperature=0).text


def test_one_text_is_no_batch(session: AtomSession) -> None:
    for wrong in ("The sun", b"The sun", None, 5):
        with pytest.raises(GenerationError, match="generate_batch takes a list of prompts"):
            session.generate_batch(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("temperature", [1e-9, 1e9])
@pytest.mark.parametrize("penalty", [1e-3, 1e3])
def test_the_limits_themselves_generate(
    session: AtomSession, temperature: float, penalty: float
) -> None:
    reply = session.generate(
        "The", temperature=temperature, repetition_penalty=penalty, max_new_tokens=5, seed=1
    )
    assert reply.generation_tokens == 5


@pytest.mark.parametrize(
    ("written", "meant"), [(r"\n\n", "\n\n"), ("é🙂", "é🙂"), (r"\u00e9", "é")]
)
def test_escapes(written: str, meant: str) -> None:
    assert unescape(written) == meant
