"""Prompts from text: what this package makes of them, and what transformers does."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from atom_edge.checkpoint import Snapshot
from atom_edge.checkpoint.text import as_transformers_encodes
from atom_edge.tokenizer import Tokenizer

Ids = npt.NDArray[np.int64]

# Words and spaces of several kinds, digits, markup, scripts, accents in one and in two characters,
# joined emoji, line ends.
TEXTS = (
    "The water cycle is the way in which water moves between the sea, the air and the land.",
    " leading, trailing ",
    "Tabs\tand\r\nlines\n\n\nand   spaces; 12,345.678 = 3 × 4, don't, DON'T, it's!",
    "naïve nai\u0308ve Œuvre ﬁne １２３ Ελληνικά עברית हिन्दी 日本語 한국어",
    "👩‍👩‍👧‍👦 🙂🏽 \u200b\u00a0\u202e {'json': [1, 2]} <b>&amp;</b> <|im_start|> </s> [INST]",
    "def f(x):\n    return x  # _snake_case camelCase http://example.org/?a=b&c",
)


@dataclass(frozen=True)
class Prompt:
    """A text as token ids `[T]`.

    Attributes:
        ours: what a session feeds.
        theirs: what transformers' tokenizer of the same snapshot says.
    """

    ours: Ids
    theirs: Ids


def prompts_of(snapshot: Snapshot) -> list[Prompt]:
    """The texts above as prompts of a snapshot's model."""
    tokenizer = Tokenizer.from_file(snapshot.tokenizer_file)
    encode = as_transformers_encodes(snapshot.path)
    prompts = []
    for text in TEXTS:
        ours = tokenizer.encode(text, add_special_tokens=True)
        prompts.append(Prompt(np.array(ours, np.int64), np.array(encode(text), np.int64)))
    return prompts
