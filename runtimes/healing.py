"""Token healing: the reply may write the last tokens of the prompt anew.

`The wate` is `The`, ` w` and `ate`, after which ` water`, one token, cannot come any more. So the
last tokens are taken off, as many as together begin a longer token, and the reply must first write
their text. Source: the idea is that of the guidance library.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from atom_edge.errors import GenerationError
from atom_edge.tokenizer import Tokenizer

# Tokens that are taken off at most.
_MOST = 8


class Healer:
    """Takes off what can be written anew.

    Args:
        tokenizer: the model's.
        vocab_size: V; ids from there on have no logits.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        if tokenizer.token_bytes(0) is None:
            raise GenerationError("heal needs a tokenizer whose tokens have bytes of their own.")
        self._bytes = [tokenizer.token_bytes(token) or b"" for token in range(vocab_size)]
        self._beginnings = {text[:length] for text in self._bytes for length in range(1, len(text))}

    def split(self, prompt: Sequence[int]) -> tuple[Sequence[int], Sequence[int]]:
        """What stays of a prompt, and the most tokens at its end that begin a longer token.

        At least one token of the prompt stays, and no special token is taken off.
        """
        best, text = 0, b""
        for removed in range(1, min(_MOST, len(prompt) - 1) + 1):
            token = self._bytes[prompt[-removed]]
            text = token + text
            if not token:
                break
            if text in self._beginnings and _is_whole(text):
                best = removed
        stays = len(prompt) - best
        return prompt[:stays], prompt[stays:]

    def rewriting(self, removed: Sequence[int]) -> Rewriting:
        """What makes a reply begin with the text of the tokens that were taken off."""
        return Rewriting(self._bytes, b"".join(self._bytes[token] for token in removed))


class Rewriting:
    """A logits processor: the tokens that agree with a text, until it is written."""

    def __init__(self, token_bytes: Sequence[bytes], text: bytes) -> None:
        self._bytes = token_bytes
        self._left = text
        self._taken = 0

    def __call__(self, reply: Sequence[int], logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Keep the tokens that agree with what is left to write."""
        for token in reply[self._taken :]:
            self._left = self._left[len(self._bytes[token]) :]
        self._taken = len(reply)
        if not self._left:
            return logits
        allowed = [
            bool(text) and (text.startswith(self._left) or self._left.startswith(text))
            for text in self._bytes
        ]
        return np.where(allowed, logits, np.float32(-np.inf))


def _is_whole(text: bytes) -> bool:
    """Whether it holds whole characters alone."""
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True
