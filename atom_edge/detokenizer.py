"""Token ids to text, one at a time and in linear time.

A vocabulary whose decoder treats each token alone is a table from tokens to bytes, which an
incremental UTF-8 decoder makes text: byte-level vocabularies, and SentencePiece's with their
`<0xE2>` tokens. Text comes out as soon as its last byte has come. Other decoders see the token
before as well.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any, Protocol

import tokenizers

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_new_utf8_decoder = codecs.getincrementaldecoder("utf-8")


class Detokenizer(Protocol):
    """Turns token ids into text one at a time; text that later ids could change is held back."""

    def push(self, token_id: int) -> str:
        """Take the next token id; return the text that is now certain, often one piece."""
        ...

    def push_all(self, token_ids: Sequence[int]) -> str:
        """Take the next token ids, as `push` does each."""
        ...

    def flush(self) -> str:
        """End the text; return what was held back, incomplete UTF-8 as U+FFFD."""
        ...


def detokenizers(
    inner: tokenizers.Tokenizer, special_ids: Set[int]
) -> tuple[Callable[[Sequence[int]], Detokenizer], Mapping[int, bytes] | None]:
    """What makes detokenizers for a tokenizer, from the ids that the text goes on from.

    Args:
        inner: the tokenizer; its decoder decides.
        special_ids: tokens that have no text.

    Returns:
        the maker; and the bytes of each token, None where a token alone has none.
    """
    steps = _steps(inner)
    kinds = [step["type"] for step in steps]
    if kinds == ["ByteLevel"]:
        table = _Table(inner, special_ids, _byte_level)
        return lambda _: _TableDetokenizer(table, strip="", started=True), table
    replaced = {
        step["pattern"]["String"]: step["content"]
        for step in steps
        if step["type"] == "Replace" and "String" in step["pattern"]
    }
    strips = steps[-1]["start"] if kinds[-1:] == ["Strip"] else 0
    plain = ["Replace"] * len(replaced) + ["ByteFallback", "Fuse"]
    if kinds == plain or (kinds == [*plain, "Strip"] and steps[-1]["stop"] == 0 and strips == 1):
        pieces = _Table(inner, special_ids, lambda token: _sentencepiece(token, replaced))
        strip = steps[-1]["content"] if strips else ""
        return (
            lambda after: _TableDetokenizer(
                pieces, strip, started=any(pieces[token_id] for token_id in after)
            ),
            pieces,
        )
    return lambda after: _WindowDetokenizer(inner, special_ids, after), None


def _steps(inner: tokenizers.Tokenizer) -> list[dict[str, Any]]:
    if inner.decoder is None:
        return []
    decoder: dict[str, Any] = json.loads(inner.decoder.__getstate__())
    return list(decoder["decoders"]) if decoder["type"] == "Sequence" else [decoder]


class _Table(dict[int, bytes]):
    """The bytes of each token, filled as tokens are first used; none for what is not shown."""

    def __init__(
        self,
        inner: tokenizers.Tokenizer,
        special_ids: Set[int],
        to_bytes: Callable[[str], bytes],
    ) -> None:
        super().__init__()
        self._inner = inner
        self._special_ids = special_ids
        self._to_bytes = to_bytes

    def __missing__(self, token_id: int) -> bytes:
        token = None if token_id in self._special_ids else self._inner.id_to_token(token_id)
        self[token_id] = b"" if token is None else self._to_bytes(token)
        return self[token_id]


def _byte_level(token: str) -> bytes:
    try:
        return bytes(_BYTE_OF_CHARACTER[character] for character in token)
    except KeyError:  # an added token, which is written as itself
        return token.encode()


def _sentencepiece(token: str, replaced: dict[str, str]) -> bytes:
    for pattern, content in replaced.items():
        token = token.replace(pattern, content)
    return bytes([int(token[3:5], 16)]) if _BYTE_TOKEN.fullmatch(token) else token.encode()


def _byte_of_character() -> dict[str, int]:
    """GPT-2's reversible alphabet: printable bytes stand for themselves, others from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable}
    return alphabet | {chr(0x100 + rank): byte for rank, byte in enumerate(others)}


_BYTE_OF_CHARACTER = _byte_of_character()


class _TableDetokenizer:
    """An incremental UTF-8 decoder over the bytes of the tokens.

    Args:
        table: the bytes of each token.
        strip: a character that a text loses at its very beginning, SentencePiece's first space.
        started: whether the text has begun already, so that nothing is lost.
    """

    def __init__(self, table: _Table, strip: str, started: bool) -> None:
        self._table = table
        self._strip = strip
        self._started = self._begins_started = started or not strip
        self._decoder = _new_utf8_decoder("replace")

    def push(self, token_id: int) -> str:
        text = self._decoder.decode(self._table[token_id])
        return text if self._started else self._begin(text)

    def push_all(self, token_ids: Sequence[int]) -> str:
        table = self._table
        text = self._decoder.decode(b"".join([table[token_id] for token_id in token_ids]))
        return text if self._started else self._begin(text)

    def flush(self) -> str:
        text = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        text = text if self._started else self._begin(text)
        self._started = self._begins_started
        return text

    def _begin(self, text: str) -> str:
        self._started = bool(text)
        return text.removeprefix(self._strip)


class _WindowDetokenizer:
    """Any other decoder: decodes the last tokens with the ones before them.

    A replacement character at the end may be the start of a longer sequence and is held back.
    """

    def __init__(
        self, inner: tokenizers.Tokenizer, special_ids: Set[int], after: Sequence[int]
    ) -> None:
        self._inner = inner
        self._special_ids = special_ids
        shown = [token_id for token_id in after if token_id not in special_ids]
        self._before: list[int] = shown[-1:]
        self._new: list[int] = []

    def push(self, token_id: int) -> str:
        if token_id in self._special_ids or self._inner.id_to_token(token_id) is None:
            return ""
        self._new.append(token_id)
        text = self._text()
        return "" if text.endswith(_REPLACEMENT) else self._give(text)

    def push_all(self, token_ids: Sequence[int]) -> str:
        return "".join(map(self.push, token_ids))

    def flush(self) -> str:
        text = self._give(self._text()) if self._new else ""
        self._before = []
        return text

    def _text(self) -> str:
        known: str = self._inner.decode(self._before)
        text: str = self._inner.decode(self._before + self._new)
        return text[len(known) :]

    def _give(self, text: str) -> str:
        self._before, self._new = self._new, []
        return text
