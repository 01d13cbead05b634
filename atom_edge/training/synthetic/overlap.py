"""Does generated text contain a benchmark's items? By n-grams of thirteen words, as is usual.

    python -m atom_edge.training.synthetic.overlap DATA [DOCUMENTS]

counts the documents of each generator that share thirteen words in a row with a file below DATA.
"""

from __future__ import annotations

import json
import lzma
import re
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

_WORDS = re.compile(r"[a-z0-9]+")
_LENGTH = 13


def thirteen_grams(files: Iterable[Path]) -> set[int]:
    """Hashes of every run of thirteen words in the strings of JSON-lines files or plain text."""
    grams: set[int] = set()
    for file in files:
        opener: Any = lzma.open if file.suffix == ".xz" else open
        with opener(file, "rt", encoding="utf-8") as lines:
            for line in lines:
                for text in _strings(line):
                    grams.update(_grams(text))
    return grams


def benchmark_files(folder: Path) -> list[Path]:
    """Return every JSON-lines file below `folder`, compressed with xz or not."""
    return [path for path in folder.rglob("*") if path.suffix in (".xz", ".jsonl")]


def overlapping(texts: Iterable[str], grams: set[int]) -> list[str]:
    """Those of `texts` that share a run of thirteen words with `grams`."""
    return [text for text in texts if any(gram in grams for gram in _grams(text))]


def _grams(text: str) -> Iterator[int]:
    words = _WORDS.findall(text.lower())
    for start in range(len(words) - _LENGTH + 1):
        yield hash(tuple(words[start : start + _LENGTH]))


def _strings(line: str) -> Iterator[str]:
    try:
        content = json.loads(line)
    except json.JSONDecodeError:
        content = line
    pending: list[Any] = [content]
    while pending:
        value = pending.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            pending += value.values()
        elif isinstance(value, list):
            pending += value


if __name__ == "__main__":
    from atom_edge.training.synthetic import GENERATORS, generate

    files = benchmark_files(Path(sys.argv[1]))
    grams = thirteen_grams(files)
    for name in GENERATORS:
        documents = list(islice(generate(name, 0), int((sys.argv[2:] or ["20000"])[0])))
        found = overlapping(documents, grams)
        print(f"{name}: {len(found)} of {len(documents)} overlap with {len(files)} files")
