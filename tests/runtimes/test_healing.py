"""A reply may write the last tokens of the prompt anew: its text goes on from the prompt's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atom_edge.reference import bundle_path
from atom_edge.runtimes.healing import Healer
from atom_edge.runtimes.session import AtomSession


@pytest.fixture(scope="module")
def reference() -> AtomSession:
    return AtomSession.from_pretrained(bundle_path(), threads=1)


def test_a_half_typed_word_is_finished(reference: AtomSession) -> None:
    prompt = "Plants need light and wate"
    assert reference.generate(prompt, heal=True, temperature=0, max_new_tokens=1).text == "r"
    # Without it the word's beginning is in the way.
    assert reference.generate(prompt, temperature=0, max_new_tokens=1).text != "r"


def test_what_begins_no_longer_token_stays(reference: AtomSession) -> None:
    healer = Healer(reference.tokenizer, 4096)
    ids = reference.tokenizer.encode("The sun<|endoftext|>")
    assert healer.split(ids) == (ids, [])
    assert healer.split(ids[:1]) == (ids[:1], [])


@settings(max_examples=60, deadline=None)
@given(prompt=st.text(min_size=1, max_size=40), seed=st.integers(0, 2**32))
def test_tokens_join_to_prompt_and_reply(reference: AtomSession, prompt: str, seed: int) -> None:
    reply = reference.generate(prompt, heal=True, seed=seed, max_new_tokens=12, logprobs=0)
    healer = Healer(reference.tokenizer, 4096)
    kept, _ = healer.split(reference.tokenizer.encode(prompt))
    whole = reference.tokenizer.decode([*kept, *reply.token_ids])
    assert whole == reference.tokenizer.decode(reference.tokenizer.encode(prompt)) + reply.text


def test_only_what_agrees_with_the_text_is_allowed() -> None:
    class Words:
        def token_bytes(self, token: int) -> bytes | None:
            return [b"", b" w", b" water", b"ate", b"a", b"x"][token]

    healer = Healer(Words(), 6)  # type: ignore[arg-type]  # all that it needs of a tokenizer
    kept, removed = healer.split([5, 1])
    assert (kept, removed) == ([5], [1])
    rewriting = healer.rewriting([1, 4])
    logits = np.zeros(6, np.float32)
    assert np.isfinite(rewriting([], logits)).tolist() == [False, True, True, False, False, False]
    assert np.isfinite(rewriting([1], logits)).tolist() == [False, False, False, True, True, False]
    assert rewriting([1, 3], logits) is logits
