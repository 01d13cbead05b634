"""From what the caller gives to the token ids that the model is given.

An empty prompt begins a document: the model gets the token that its training put there. Nothing
is added to other prompts, unless the bundle's `tokenizer_config.json` says `add_bos_token`. Of a
prompt longer than the context the end is kept, with room for a reply of at least one token.
"""

from __future__ import annotations

import numbers
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from atom_edge.bundle import Bundle
from atom_edge.errors import GenerationError
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
        bos = _first(token_ids(bundle, "bos_token_id"))
        self._prefix = [bos] if bundle.tokenizer_config.get("add_bos_token") and bos else []
        start = _first(token_ids(bundle, "decoder_start_token_id"))
        candidates = (start, tokenizer.token_to_id(_END_OF_TEXT), bos)
        self._beginning = next((i for i in candidates if i is not None), None)

    def __call__(self, prompt: str | Sequence[int]) -> Prompt:
        """Encode text, or take token ids as they are; cut what is too long at its start.

        Raises:
            GenerationError: if it is neither text nor token ids, if a token id does not exist, or
                if it is empty and the bundle names no token that begins a document.
            TokenizerError: if the text is not valid Unicode.
        """
        if isinstance(prompt, str):
            ids = self._prefix + self._tokenizer.encode(prompt)
        else:
            ids = _integers(prompt)
        ids = ids or self._empty()
        if wrong := [token_id for token_id in ids if not 0 <= token_id < self._vocab_size]:
            raise GenerationError(
                f"The prompt holds the token id {wrong[0]}, and those of the model are 0 to "
                f"{self._vocab_size - 1}."
            )
        surplus = max(0, len(ids) - (self._context_length - 1))
        return Prompt(ids[surplus:], surplus)

    def _empty(self) -> list[int]:
        if self._beginning is None:
            raise GenerationError(
                "The prompt is empty, and the bundle names no token that begins a document."
            )
        return [self._beginning]


def _integers(prompt: object) -> list[int]:
    if not isinstance(prompt, Sequence | np.ndarray) or isinstance(prompt, bytes | bytearray):
        raise GenerationError(
            f"The prompt is {reprlib.repr(prompt)}; it must be a text or a sequence of token ids."
        )
    for item in prompt:
        if isinstance(item, bool) or not isinstance(item, numbers.Integral):
            raise GenerationError(f"The prompt holds {reprlib.repr(item)}; token ids are integers.")
    return [int(item) for item in prompt]


def token_ids(bundle: Bundle, setting: str) -> list[int]:
    """Ids of a setting such as `eos_token_id`: of the generation config, else of the config."""
    value = bundle.generation_config.get(setting, bundle.config.get(setting))
    if value is None:
        return []
    return [int(token_id) for token_id in (value if isinstance(value, list) else [value])]


def _first(ids: list[int]) -> int | None:
    return ids[0] if ids else None
