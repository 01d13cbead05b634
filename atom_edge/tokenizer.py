"""Text to token ids and back, over the `tokenizers` library, with a streaming detokenizer.

What is not here: training a vocabulary (`atom_edge.training`) and chat templates
(`atom_edge.runtimes.chat`).
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence, Set
from pathlib import Path
from typing import Protocol

import tokenizers
from tokenizers.decoders import ByteLevel

from atom_edge.errors import TokenizerError

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")


class Detokenizer(Protocol):
    """Turns token ids into text one at a time.

    For any ids, the pieces of `push` and the last one of `flush`, joined, equal `Tokenizer.decode`
    of all ids at once. Text that later ids could still change is held back.
    """

    def push(self, token_id: int) -> str:
        """Take the next token id; return the text that is now certain, often one piece."""
        ...

    def flush(self) -> str:
        """End the text; return what was held back, incomplete UTF-8 as U+FFFD."""
        ...


class Tokenizer:
    """A `tokenizer.json`: what it does to text is decided by the file alone."""

    def __init__(self, inner: tokenizers.Tokenizer) -> None:
        inner.no_truncation()
        inner.no_padding()
        self._inner = inner
        self._special_ids = {
            token_id
            for token_id, token in inner.get_added_tokens_decoder().items()
            if token.special
        }
        self._byte_table = (
            _ByteTable(inner, self._special_ids) if isinstance(inner.decoder, ByteLevel) else None
        )

    @classmethod
    def from_file(cls, path: str | Path) -> Tokenizer:
        """Read a `tokenizer.json`.

        Raises:
            TokenizerError: if the file is missing or `tokenizers` cannot read it.
        """
        if not Path(path).is_file():
            raise TokenizerError(f"There is no tokenizer file {path}.")
        try:
            return cls(tokenizers.Tokenizer.from_file(str(path)))
        except Exception as error:  # `tokenizers` raises nothing narrower
            raise TokenizerError(f"{path} is not a readable tokenizer.json: {error}") from error

    @property
    def vocab_size(self) -> int:
        """Number of tokens, added ones included."""
        size: int = self._inner.get_vocab_size(with_added_tokens=True)
        return size

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`; none is added at either end.

        A special token that is written out in the text, such as `<|endoftext|>`, becomes its id.

        Raises:
            TokenizerError: if the text holds surrogates, which no UTF-8 text can.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise TokenizerError(
                f"The text is not valid Unicode: lone surrogate at character {error.start}. "
                "Was it read from bytes that are not UTF-8?"
            ) from error
        ids: list[int] = self._inner.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`, without special tokens; bytes that are not UTF-8 become U+FFFD."""
        text: str = self._inner.decode(list(ids), skip_special_tokens=True)
        return text

    def token_to_id(self, token: str) -> int | None:
        """Id of a token as it is written in the vocabulary; None if it has no such token."""
        token_id: int | None = self._inner.token_to_id(token)
        return token_id

    def id_to_token(self, token_id: int) -> str | None:
        """The token as it is written in the vocabulary; None for an id outside it."""
        token: str | None = self._inner.id_to_token(token_id)
        return token

    def token_text(self, token_id: int) -> str:
        """What a token looks like: its text in the middle of a reply, U+FFFD for part of one.

        A special token is written as in the vocabulary; an id outside it is the empty text.
        """
        if token_id in self._special_ids:
            return self.id_to_token(token_id) or ""
        text: str = self._inner.decode([token_id])
        return text

    def detokenizer(self) -> Detokenizer:
        """Start a new text."""
        if self._byte_table is not None:
            return _ByteLevelDetokenizer(self._byte_table)
        return _GeneralDetokenizer(self._inner, self._special_ids)


class _ByteTable(dict[int, bytes]):
    """The bytes of each token of a byte-level vocabulary, filled as tokens are first used."""

    def __init__(self, inner: tokenizers.Tokenizer, special_ids: Set[int]) -> None:
        super().__init__()
        self._inner = inner
        self._special_ids = special_ids

    def __missing__(self, token_id: int) -> bytes:
        token = None if token_id in self._special_ids else self._inner.id_to_token(token_id)
        self[token_id] = b"" if token is None else _token_bytes(token)
        return self[token_id]


def _token_bytes(token: str) -> bytes:
    try:
        return bytes(_BYTE_OF_CHARACTER[character] for character in token)
    except KeyError:  # an added token, which is written as itself
        return token.encode()


def _byte_of_character() -> dict[str, int]:
    """GPT-2's reversible alphabet: printable bytes stand for themselves, others from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable}
    return alphabet | {chr(0x100 + rank): byte for rank, byte in enumerate(others)}


_BYTE_OF_CHARACTER = _byte_of_character()
_new_utf8_decoder = codecs.getincrementaldecoder("utf-8")


class _ByteLevelDetokenizer:
    """Byte-level vocabularies: an incremental UTF-8 decoder over the bytes of the tokens."""

    def __init__(self, table: _ByteTable) -> None:
        self._table = table
        self._decoder = _new_utf8_decoder("replace")

    def push(self, token_id: int) -> str:
        return self._decoder.decode(self._table[token_id])

    def flush(self) -> str:
        text = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return text


class _GeneralDetokenizer:
    """Any other vocabulary: decodes all ids again and gives out what is new.

    Byte tokens (`<0xE2>`) are decoded by runs, so that a run is held back until it ends; and so
    is a replacement character at the end, which may be the start of a longer sequence.
    """

    def __init__(self, inner: tokenizers.Tokenizer, special_ids: Set[int]) -> None:
        self._inner = inner
        self._special_ids = special_ids
        self._ids: list[int] = []
        self._given = 0

    def push(self, token_id: int) -> str:
        token = self._inner.id_to_token(token_id)
        if token is None or token_id in self._special_ids:
            return ""
        self._ids.append(token_id)
        if _BYTE_TOKEN.fullmatch(token):
            return ""
        return self._give(self._text().rstrip(_REPLACEMENT))

    def flush(self) -> str:
        piece = self._give(self._text())
        self._ids, self._given = [], 0
        return piece

    def _text(self) -> str:
        text: str = self._inner.decode(self._ids)
        return text

    def _give(self, text: str) -> str:
        piece = text[self._given :]
        self._given += len(piece)
        return piece
