"""Replies that must look a certain way: one of some texts, a pattern, a schema, a grammar.

llguidance follows the grammar and says which tokens may come next; tokens that may not are left out
before one is chosen. When the text is complete, only the tokens that end a reply are left.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from atom_edge.bundle import Bundle
from atom_edge.errors import GenerationError, MissingExtraError
from atom_edge.runtimes.options import CONSTRAINTS, GenerationOptions, LogitsProcessor

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer
    from llguidance._lib import JsonCompileOptions

# A small model writes white space without end where it may.
_WRITTEN: JsonCompileOptions = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
}


class Constraints:
    """Makes logits processors from options.

    Args:
        bundle: whose tokenizer the model has.
        vocab_size: V, the logits of a token.
        end_ids: tokens that end a reply.
    """

    def __init__(self, bundle: Bundle, vocab_size: int, end_ids: Sequence[int]) -> None:
        self._bundle = bundle
        self._vocab_size = vocab_size
        self._end_ids = list(end_ids)
        self._tokenizer: LLTokenizer | None = None

    def of(self, options: GenerationOptions) -> LogitsProcessor | None:
        """What keeps one reply to its form; None where any reply will do.

        Raises:
            GenerationError: for a pattern, a schema or a grammar that cannot be followed.
            MissingExtraError: without llguidance.
        """
        given = next((name for name in CONSTRAINTS if getattr(options, name)), None)
        if given is None:
            return None
        try:
            from llguidance import LLMatcher
        except ImportError as error:
            raise MissingExtraError("Constrained text", "guided", "llguidance") from error
        matcher = LLMatcher(self._guide(), _grammar(LLMatcher, options), log_level=0)
        if matcher.is_error():
            raise GenerationError(f"{given} cannot be followed: {matcher.get_error()}")
        return _Constraint(matcher, self._vocab_size)

    def _guide(self) -> LLTokenizer:
        """The vocabulary, in the form that llguidance follows; the same for all replies."""
        from llguidance import LLTokenizer

        if self._tokenizer is None:
            if not self._end_ids:
                raise GenerationError(
                    "Constrained text ends with a token, and the bundle names none that ends one."
                )
            self._tokenizer = LLTokenizer(
                self._bundle.tokenizer_file.read_text(encoding="utf-8"),
                n_vocab=self._vocab_size,
                eos_token=self._end_ids,
            )
        return self._tokenizer


def _grammar(matcher: type[LLMatcher], options: GenerationOptions) -> str:
    if options.regex:
        return matcher.grammar_from_regex(options.regex)
    if options.json_schema:
        return matcher.grammar_from_json_schema(str(options.json_schema), overrides=_WRITTEN)
    if options.grammar:
        return matcher.grammar_from_lark(options.grammar)
    # A string of Lark is one of JSON.
    return matcher.grammar_from_lark("start: " + " | ".join(map(json.dumps, options.choices)))


class _Constraint:
    """A logits processor that follows one reply."""

    def __init__(self, matcher: LLMatcher, vocab_size: int) -> None:
        self._matcher = matcher
        self._taken = 0
        self._bits = np.zeros(-(-vocab_size // 32), np.int32)

    def __call__(self, reply: Sequence[int], logits: NDArray[np.float32]) -> NDArray[np.float32]:
        for token in reply[self._taken :]:
            self._matcher.consume_token(token)
        self._taken = len(reply)
        self._matcher.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)
        if self._matcher.is_error():
            raise GenerationError(f"The reply cannot go on: {self._matcher.get_error()}")
        allowed = np.unpackbits(self._bits.view(np.uint8), bitorder="little")[: len(logits)]
        return np.where(allowed, logits, np.float32(-np.inf))
