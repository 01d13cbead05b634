"""From what the caller gives to the token ids that the model is given.

A text gets what the tokenizer adds to it, such as a token that begins it. An empty prompt begins
a document: the model gets the token that its training put there. Of a prompt longer than the
context the end is kept, with room for a reply of at least one token.
"""

from __future__ import annotations

import numbers
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from atom_edge.bundle import Bundle
from atom_edge.errors import GenerationError
from atom_edge.runtimes.defaults import special_ids
from atom_edge.tokenizer import Tokenizer

_END_OF_TEXT = "<|endoftext|>"


@dataclass(frozen=True)
class Prompt:
    """Token ids that fit the context.

    Attributes:
        token_ids: at least one, and at most the context's length less one.
        truncated_tokens: how many were dropped at the start.
    """

    token_ids: Sequence[int]
    truncated_tokens: int = 0


class PromptEncoder:
    """Makes prompts as one bundle's tokenizer and configuration say."""

    def __init__(self, bundle: Bundle, tokenizer: Tokenizer, vocab_size: int) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._context_length = bundle.context_length
        ids = special_ids(bundle)
        # Bundles of today have it in the tokenizer; this is for those of before.
        added = bundle.tokenizer_config.get("add_bos_token") is True
        self._prefix = ids.begin[:1] if added else []
        end_of_text = tokenizer.token_to_id(_END_OF_TEXT)
        stated = [] if end_of_text is None else [end_of_text]
        self._beginning = [*ids.start, *stated, *ids.begin, *ids.end][:1]

    def __call__(self, prompt: str | Sequence[int]) -> Prompt:
        """Encode text, or take token ids as they are; cut what is too long at its start.

        Raises:
            GenerationError: if it is neither text nor token ids, if a token id does not exist, or
                if it is empty and the bundle names no token that begins a document.
            TokenizerError: if the text is not valid Unicode.
        """
        ids = self._encode(prompt) if isinstance(prompt, str) else _integers(prompt)
        ids = ids or self._beginning
        if not ids:
            raise GenerationError(
                "The prompt is empty, and the bundle names no token that begins a document."
            )
        if wrong := [token_id for token_id in ids if not 0 <= token_id < self._vocab_size]:
            raise GenerationError(
                f"The prompt holds the token id {wrong[0]}, and those of the model are 0 to "
                f"{self._vocab_size - 1}."
            )
        surplus = max(0, len(ids) - (self._context_length - 1))
        return Prompt(ids[surplus:], surplus)

    def _encode(self, text: str) -> list[int]:
        ids = self._tokenizer.encode(text, add_special_tokens=True)
        return ids if ids[:1] == self._prefix else self._prefix + ids


def _integers(prompt: object) -> list[int]:
    if not isinstance(prompt, Sequence | np.ndarray) or isinstance(prompt, bytes | bytearray):
        raise GenerationError(
            f"The prompt is {reprlib.repr(prompt)}; it must be a text or a sequence of token ids."
        )
    for item in prompt:
        if isinstance(item, bool) or not isinstance(item, numbers.Integral):
            raise GenerationError(f"The prompt holds {reprlib.repr(item)}; token ids are integers.")
    return [int(item) for item in prompt]
