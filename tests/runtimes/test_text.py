"""Stop texts end the reply at the same place however the text is cut into pieces."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atom_edge.runtimes.text import TextStream


class Pieces:
    """A detokenizer whose token i is the i-th piece, and that holds back the last one."""

    def __init__(self, pieces: list[str], held: str = "") -> None:
        self._pieces = pieces
        self._held = held

    def push(self, token_id: int) -> str:
        return self._pieces[token_id]

    def flush(self) -> str:
        return self._held


def run(pieces: list[str], stop: tuple[str, ...], held: str = "") -> tuple[list[str], bool]:
    stream = TextStream(Pieces(pieces, held), stop)
    shown = []
    for token_id in range(len(pieces)):
        shown.append(stream.push(token_id))
        if stream.stopped:
            return shown, True
    return [*shown, stream.flush()], stream.stopped


def first_to_end(text: str, stop: tuple[str, ...]) -> str:
    """The definition, by trying every end and every start."""
    for end in range(len(text) + 1):
        for start in range(end):
            if text[start:end] in stop:
                return text[:start]
    return text


@settings(max_examples=1000, deadline=None)
@given(
    pieces=st.lists(st.text("abc", max_size=4), max_size=12),
    held=st.text("abc", max_size=2),
    stop=st.lists(st.text("abc", min_size=1, max_size=5), max_size=3).map(tuple),
)
def test_the_first_stop_text_to_end_ends_the_reply(
    pieces: list[str], held: str, stop: tuple[str, ...]
) -> None:
    shown, stopped = run(pieces, stop, held)
    text = "".join(pieces) + held
    expected = first_to_end(text, stop)
    assert "".join(shown) == expected
    assert stopped == (expected != text)


def test_only_what_may_become_a_stop_text_is_held_back() -> None:
    shown, stopped = run(["one ", "two\n", "three", "\n", "\n", "four"], ("\n\n",))
    assert shown == ["one ", "two", "\nthree", "", ""]
    assert stopped


def test_a_stop_text_that_never_ends_is_shown_at_the_end() -> None:
    assert run(["a", "b\n"], ("\n\n",)) == (["a", "b", "\n"], False)


def test_a_stop_text_may_come_with_the_flush() -> None:
    assert run(["ab"], ("bc",), held="c") == (["a", ""], True)


@pytest.mark.parametrize("piece", ["", "x", "\n\n"])
def test_without_stop_texts_nothing_is_held_back(piece: str) -> None:
    assert run([piece], ()) == ([piece, ""], False)
