"""Text to token ids and back, over the `tokenizers` library.

What is not here: streaming (`atom_edge.detokenizer`), training a vocabulary
(`atom_edge.training`) and chat templates (`atom_edge.runtimes.template`).
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import tokenizers

from atom_edge.detokenizer import Detokenizer, detokenizers
from atom_edge.errors import TokenizerError


@contextlib.contextmanager
def tokenizer_errors(message: str) -> Iterator[None]:
    """Turn whatever `tokenizers` raises in the block into a `TokenizerError`.

    It raises bare `Exception`, and panics that are none.
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError):
        raise
    except BaseException as error:
        raise TokenizerError(f"{message}: {str(error)[:300]}") from error


@contextlib.contextmanager
def _panics_kept() -> Iterator[None]:
    """Keep off stderr what a panic of `tokenizers` prints there: its exception says the same.

    Whatever else is printed meanwhile comes a moment later.
    """
    try:
        stderr = os.dup(2)
    except OSError:  # it is closed
        yield
        return
    with tempfile.TemporaryFile() as kept:
        os.dup2(kept.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            kept.seek(0)
            printed = kept.read()
            if b"panicked at" not in printed:
                os.write(2, printed)


MAX_BYTES = 2**28
"""Of a `tokenizer.json`: the largest have a tenth."""
# Characters of a text that other threads may run beside: only a batch lets go of the interpreter.
_LONG = 20_000
_PROBES = ("", " ", "a", "a b", "The probe: 12 × 3 = 36, e\u0301, ﬁ, 🙂\n\t", "é × 🙂 a\n" * 5)


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
        self._new_detokenizer, self._bytes = detokenizers(inner, self._special_ids)

    @classmethod
    def from_file(cls, path: str | Path) -> Tokenizer:
        """Read a `tokenizer.json`.

        Raises:
            TokenizerError: if the file is missing or `tokenizers` cannot read it.
        """
        if not Path(path).is_file():
            raise TokenizerError(f"There is no tokenizer file {path}.")
        if (size := Path(path).stat().st_size) > MAX_BYTES:
            raise TokenizerError(f"{path} has {size:,} bytes; at most {MAX_BYTES:,} are read.")
        with tokenizer_errors(f"{path} is not a readable tokenizer.json"), _panics_kept():
            inner = tokenizers.Tokenizer.from_file(str(path))
            # Some files are read and then panic over some texts: that is found out here.
            for probe in _PROBES:
                inner.decode(inner.encode(probe, add_special_tokens=True).ids)
            return cls(inner)

    @property
    def vocab_size(self) -> int:
        """Number of tokens, added ones included."""
        size: int = self._inner.get_vocab_size(with_added_tokens=True)
        return size

    def encode(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        """Token ids of `text`.

        A special token that is written out in the text, such as `<|endoftext|>`, becomes its id.

        Args:
            text: valid Unicode.
            add_special_tokens: add what the file's post-processor adds, most often a token that
                begins the text.

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
        with tokenizer_errors("The tokenizer cannot encode the text"):
            if len(text) < _LONG:
                encoded = self._inner.encode(text, add_special_tokens=add_special_tokens)
            else:
                (encoded,) = self._inner.encode_batch_fast(
                    [text], add_special_tokens=add_special_tokens
                )
            ids: list[int] = encoded.ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`, without special tokens; bytes that are not UTF-8 become U+FFFD."""
        detokenizer = self.detokenizer()
        return "".join(map(detokenizer.push, ids)) + detokenizer.flush()

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
        detokenizer = self.detokenizer(after=(token_id,))
        text = detokenizer.push(token_id)
        return text + detokenizer.flush()

    def token_bytes(self, token_id: int) -> bytes | None:
        """The bytes that a token adds to a text; none for a special token or an id outside.

        None where the vocabulary's decoder looks at more than one token.
        """
        return None if self._bytes is None else self._bytes[token_id]

    def detokenizer(self, after: Sequence[int] = ()) -> Detokenizer:
        """Start a text, or one that goes on from the ids `after`, whose text is not given again.

        For any ids, the pieces of `push` and the last one of `flush`, joined, equal `decode` of
        all ids at once.
        """
        return self._new_detokenizer(after)
