"""Replies that must look a certain way do, whatever the model would rather say."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from atom_edge.errors import GenerationError, MissingExtraError
from atom_edge.runtimes.options import Options
from atom_edge.runtimes.session import AtomSession

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "kind": {"enum": ["cat", "dog"]},
    },
    "required": ["name", "age", "kind"],
    "additionalProperties": False,
}
HOW: list[Options] = [
    {"temperature": 0},
    {"temperature": 1.5, "seed": 3},
    {"temperature": 1, "top_p": 0.5, "top_k": 5, "min_p": 0.1, "seed": 4},
    {"temperature": 1, "repetition_penalty": 1.5, "seed": 5},
]


@pytest.mark.parametrize("how", HOW)
def test_a_choice_is_one_of_them(session: AtomSession, how: Options) -> None:
    choices = ["yes", "no", "perhaps", 'a "quoted\\" one', "Käse 🙂"]
    reply = session.generate("Is water wet?", choices=choices, **how)
    assert reply.text in choices
    assert reply.finish_reason == "stop"


@pytest.mark.parametrize("how", HOW)
def test_a_pattern_is_matched_as_a_whole(session: AtomSession, how: Options) -> None:
    reply = session.generate("Call me: ", regex=r"\+[0-9]{2}-[0-9]{3}(,[a-f]{2,4})?", **how)
    assert re.fullmatch(r"\+[0-9]{2}-[0-9]{3}(,[a-f]{2,4})?", reply.text)
    assert reply.finish_reason == "stop"


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("schema", [SCHEMA, json.dumps(SCHEMA)])
def test_json_follows_its_schema(session: AtomSession, how: Options, schema: Any) -> None:
    reply = session.generate("A pet: ", json_schema=schema, max_new_tokens=120, **how)
    pet = json.loads(reply.text)
    assert set(pet) == {"name", "age", "kind"}
    assert 0 <= pet["age"] <= 150
    assert pet["kind"] in ("cat", "dog")


def test_a_grammar_is_followed(session: AtomSession) -> None:
    grammar = 'start: "(" (start | NUMBER) ")"\nNUMBER: /[0-9]{1,3}/'
    text = session.generate("", grammar=grammar, seed=1, max_new_tokens=100).text
    assert re.fullmatch(r"\(+\d{1,3}\)+", text)
    assert text.count("(") == text.count(")")


def test_replies_of_a_batch_follow_the_form_each(session: AtomSession) -> None:
    options: Options = {"regex": "[ab]{5,9}", "temperature": 0}
    prompts = ["The sun", "The moon and the stars", "A"]
    replies = session.generate_batch(prompts, **options)
    assert [reply.text for reply in replies] == [
        session.generate(prompt, **options).text for prompt in prompts
    ]
    assert all(re.fullmatch("[ab]{5,9}", reply.text) for reply in replies)


def test_log_probabilities_are_the_model_s_own(session: AtomSession) -> None:
    reply = session.generate("The", choices=["xyz"], logprobs=1, temperature=0)
    assert reply.logprobs is not None
    free = session.generate("The", max_new_tokens=1, logprobs=1, temperature=0)
    assert free.logprobs is not None
    assert reply.logprobs[0].top == free.logprobs[0].top
    assert reply.logprobs[0].logprob < reply.logprobs[0].top[0][1]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"regex": "(["}, "regex cannot be followed"),
        ({"grammar": "start: NOTHING"}, "grammar cannot be followed"),
        ({"json_schema": {"type": "thing"}}, "json_schema cannot be followed"),
        ({"regex": "a", "choices": ["b"]}, "Give choices or regex, not both"),
        ({"regex": "a", "heal": True}, "Give regex or heal, not both"),
    ],
)
def test_what_cannot_be_followed_is_refused_at_once(
    session: AtomSession, options: Any, problem: str
) -> None:
    with pytest.raises(GenerationError, match=problem):
        session.stream("The", **options)


def test_functions_change_the_logits(session: AtomSession) -> None:
    seen: list[list[int]] = []

    def only_even(reply: Any, logits: Any) -> Any:
        seen.append(list(reply))
        changed = logits.copy()
        changed[1::2] = -np.inf
        return changed

    reply = session.generate(
        "The", logits_processors=[only_even], max_new_tokens=6, temperature=0, logprobs=0
    )
    assert all(token % 2 == 0 for token in reply.token_ids)
    assert seen == [list(reply.token_ids[:count]) for count in range(len(seen))]
    assert len(seen) == 6


def test_the_command_line_has_them(small_bundle: Path) -> None:
    command = [sys.executable, "-m", "atom_edge.cli", "generate", "Is it?", "--bundle"]
    result = subprocess.run(
        [*command, str(small_bundle), "--choice", "yes", "--choice", "no"],
        capture_output=True,
        text=True,
    )
    assert result.stdout in ("yes\n", "no\n"), result.stderr


def test_without_llguidance_it_says_what_to_install(
    session: AtomSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(MissingExtraError, match=r"pip install '\.\[guided\]'"):
        session.generate("The", choices=["a"])
