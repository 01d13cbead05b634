"""Plain textbook and everyday prose, written for this project.

The files in `prose/` hold one document a paragraph block: explanations and small stories of a
hundred words or so (`*.paragraphs.txt`), and definitions, facts and advice of a sentence or two
(`*.short.txt`). Advice of the form "To do this, do that." is given a second time as a question and
its answer.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from pathlib import Path

from atom_edge.errors import TrainingError

_FOLDER = Path(__file__).parent / "prose"
_ADVICE = re.compile(r"To ([^,]+(?:, [^,]+ or [^,]+)?), (.+)", re.DOTALL)


def documents(seed: int) -> Iterator[str]:
    """Yield every document once, in an order that the seed decides.

    Raises:
        TrainingError: the package was not installed from its source folder, and has none.
    """
    texts = [text for block in _blocks() for text in _forms(block)]
    random.Random(seed).shuffle(texts)
    yield from texts


def _blocks() -> Iterator[str]:
    if not _FOLDER.is_dir():
        raise TrainingError(
            "A wheel of atom-edge leaves out the project's own prose, 4.7 MB. Install the package "
            "from its source folder: pip install -e '.[train]'"
        )
    for file in sorted(_FOLDER.iterdir(), key=lambda entry: entry.name):
        for block in file.read_text(encoding="utf-8").split("\n\n"):
            if text := block.strip():
                yield text


def _forms(text: str) -> Iterator[str]:
    yield text
    if advice := _ADVICE.fullmatch(text):
        goal, way = advice.groups()
        yield f"Question: How do you {goal}?\nAnswer: {way[0].upper()}{way[1:]}"
