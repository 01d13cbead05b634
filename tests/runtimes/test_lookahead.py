"""Lookahead gives the same text in fewer runs, and is not used where its bits differ."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atom_edge.runtimes.lookahead import _Followers
from atom_edge.runtimes.session import AtomSession
from atom_edge.runtimes.static_decoder import StaticDecoder

PERIOD = [11, 57, 300, 4000, 8]
TEXT = (PERIOD * 30)[:110]


def open_session(bundle: Path) -> AtomSession:
    return AtomSession.from_pretrained(bundle, threads=1)


def looking_ahead(session: AtomSession, *, exact: bool | None, foreseen: int = 32) -> StaticDecoder:
    decoder = session.new_decoder()
    assert isinstance(decoder, StaticDecoder)
    decoder._graphs.lookahead_is_exact = exact
    decoder._graphs.foreseen = foreseen
    decoder.looks_ahead = True
    return decoder


def count_runs(decoder: StaticDecoder, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    runs: list[str] = []
    cache = decoder._cache
    for name in ("step_first", "check"):
        original = getattr(cache, name)
        monkeypatch.setattr(
            cache, name, lambda x, name=name, original=original: (runs.append(name), original(x))[1]
        )
    return runs


def test_known_logits_are_those_of_steps_and_take_fewer_runs(
    small_int8_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = open_session(small_int8_bundle)
    ahead, plain = looking_ahead(session, exact=True), session.new_decoder()
    runs = count_runs(ahead, monkeypatch)
    for token in TEXT:
        np.testing.assert_array_equal(ahead.feed((token,)), plain.feed((token,)))
    assert ahead.token_ids == plain.token_ids == TEXT
    assert runs.count("check") > 5
    assert len(runs) < len(TEXT) / 2


def test_a_process_trusts_it_only_after_equal_logits(small_int8_bundle: Path) -> None:
    session = open_session(small_int8_bundle)
    decoder = looking_ahead(session, exact=None)
    graphs = decoder._graphs
    seen = []
    for token in TEXT:
        decoder.feed((token,))
        seen.append(graphs.lookahead_is_exact)
    assert seen[0] is None
    assert seen[-1] is True
    assert graphs._agreed == {3: 3, 7: 7}, "guessed tokens of both widths were compared before"
    assert seen.index(True) > len(PERIOD) + 3 + 7


def test_the_graph_is_opened_when_the_text_has_repeated_itself(
    small_int8_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = looking_ahead(open_session(small_int8_bundle), exact=None, foreseen=0)
    runs = count_runs(decoder, monkeypatch)
    # The first period and the three tokens after it are known from nothing.
    first_known = len(PERIOD) + 3
    for token in TEXT[: first_known + 32]:
        decoder.feed((token,))
    assert decoder._graphs.foreseen == 32
    assert "check" not in runs
    assert "check" not in decoder._graphs.__dict__, "its session is not open"
    decoder.feed((TEXT[first_known + 32],))
    assert runs[-2:] == ["check", "step_first"]


def test_other_bits_end_it(small_int8_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = open_session(small_int8_bundle)
    decoder, plain = looking_ahead(session, exact=None), session.new_decoder()
    check = decoder._cache.check
    monkeypatch.setattr(
        decoder._cache, "check", lambda x: np.nextafter(check(x), np.float32(np.inf))
    )
    runs = count_runs(decoder, monkeypatch)
    for token in TEXT:
        np.testing.assert_array_equal(decoder.feed((token,)), plain.feed((token,)))
    assert decoder._graphs.lookahead_is_exact is False
    assert runs.count("check") == 1
    assert runs.count("step_first") == len(TEXT)


def test_wrong_guesses_become_rare(
    small_int8_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same three tokens, and never the same after them."""
    decoder = looking_ahead(open_session(small_int8_bundle), exact=True)
    plain = open_session(small_int8_bundle).new_decoder()
    runs = count_runs(decoder, monkeypatch)
    text = [token for other in range(30) for token in (11, 57, 300, 1000 + other)]
    for token in text:
        np.testing.assert_array_equal(decoder.feed((token,)), plain.feed((token,)))
    assert 1 <= runs.count("check") <= 5


def test_what_is_ahead_is_dropped_with_what_is_cropped(small_int8_bundle: Path) -> None:
    session = open_session(small_int8_bundle)
    ahead, plain = looking_ahead(session, exact=True), session.new_decoder()
    for decoder in (ahead, plain):
        for token in TEXT[:33]:
            decoder.feed((token,))
        decoder.crop(20)
    for token in (TEXT[21], *TEXT[:30]):
        np.testing.assert_array_equal(ahead.feed((token,)), plain.feed((token,)))
    np.testing.assert_array_equal(ahead.feed(TEXT[5:9]), plain.feed(TEXT[5:9]))
    np.testing.assert_array_equal(ahead.feed((TEXT[9],)), plain.feed((TEXT[9],)))


def test_text_is_the_same_with_and_without() -> None:
    """The reference model, which repeats itself soon."""
    session = AtomSession.from_pretrained(threads=1)
    without = AtomSession.from_pretrained(threads=1, lookahead=False)
    for prompt in ("The water cycle is", "Once upon a time"):
        for options in ({"temperature": 0}, {"temperature": 0, "repetition_penalty": 1.1}):
            reply = session.generate(prompt, max_new_tokens=96, **options)
            assert (
                reply.token_ids == without.generate(prompt, max_new_tokens=96, **options).token_ids
            )
    decoder = session.new_decoder()
    assert isinstance(decoder, StaticDecoder)
    assert "check" in decoder._graphs.__dict__, "it was used"


@settings(deadline=None)
@given(st.lists(st.integers(0, 2), min_size=1, max_size=60), st.integers(1, 8), st.integers(0, 60))
def test_followers_are_what_came_after_the_last_time(
    history: list[int], count: int, cropped: int
) -> None:
    followers = _Followers()
    followers.of_last([0, 1, 2] * 20, count)  # an other text, forgotten since
    for length in range(1, len(history) + 1):
        if length == cropped:
            followers.of_last([*history[:length], 2, 2, 2, 2], count)
        found = followers.of_last(history[:length], count)
        last = history[max(0, length - 3) : length]
        earlier = [
            end for end in range(3, length) if length >= 3 and history[end - 3 : end] == last
        ]
        if not earlier:
            assert found == []
            continue
        expected = history[earlier[-1] : length]
        while len(expected) < count:
            expected += expected[: count - len(expected)]
        if found:  # a cropped text's may hide it
            assert found == expected[:count] or length >= cropped > 0
        assert found == [] or len(found) == count
