"""Where training text comes from: local shards, and data sets of the Hugging Face hub.

A source is a stream of documents, each a string. Local shards are JSON lines with a field
`text`, plain (`.jsonl`) or compressed (`.jsonl.zst`, `.jsonl.gz`).
"""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path
from typing import IO, Any, TypeVar

from atom_edge.errors import MissingExtraError, TrainingError
from atom_edge.staging import staged_file

SHARD_SUFFIXES = (".jsonl", ".jsonl.zst", ".jsonl.gz")
# `zstd --long=27`, common for corpora, needs this window to be read.
_ZSTD_WINDOW_BYTES = 2**27
Item = TypeVar("Item")


def batched(items: Iterable[Item], size: int) -> Iterator[tuple[Item, ...]]:
    """Yield `items` in tuples of `size`, as itertools does from Python 3.12 on."""
    rest = iter(items)
    while batch := tuple(islice(rest, size)):
        yield batch


def find_shards(path: Path) -> list[Path]:
    """Return `path` itself, or every shard below the folder `path`, sorted by name.

    Raises:
        TrainingError: when there is none.
    """
    if path.is_file():
        return [path]
    shards = sorted(p for p in path.rglob("*") if p.name.endswith(SHARD_SUFFIXES))
    if not shards:
        raise TrainingError(
            f"No text at {path}: it is neither a shard nor a folder with shards "
            f"({', '.join(SHARD_SUFFIXES)})."
        )
    return shards


def read_shard(
    path: Path,
    text_field: str = "text",
    include: Sequence[str] = ("*",),
    exclude: Sequence[str] = (),
) -> Iterator[str]:
    """Yield the documents of one shard, in its order; empty ones are left out.

    Args:
        path: the shard.
        text_field: the field that holds the text.
        include: patterns with `*`; the document's field `source` must match one.
        exclude: patterns that it must not match.

    Raises:
        TrainingError: for a line that is not JSON or has no such field, with its number.
    """
    with _open_text(path) as lines:
        for number, line in enumerate(lines, start=1):
            try:
                document = json.loads(line)
                text, source = document[text_field], str(document.get("source", ""))
            except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
                raise TrainingError(
                    f"{path}, line {number}: expected a JSON object with a field "
                    f"{text_field!r} ({type(error).__name__})."
                ) from error
            if text and _matches(source, include) and not _matches(source, exclude):
                yield text


def _matches(source: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(source, pattern) for pattern in patterns)


def write_shard(path: Path, texts: Iterable[str], source: str) -> None:
    """Write `texts`, which come from `source`, as a shard compressed with gzip."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with staged_file(path) as file, gzip.open(file, "wt", encoding="utf-8") as lines:
        for text in texts:
            lines.write(json.dumps({"text": text, "source": source}) + "\n")


def stream_hub(
    dataset: str, configuration: str, split: str, text_field: str, seed: int
) -> Iterator[str]:
    """Yield the documents of a hub data set, streamed and shuffled in a buffer.

    Args:
        dataset: hub name, or a local folder of the same form.
        configuration: name, or a pattern with `*` that takes every matching configuration, one
            document of each in turn.
        split: name of the split.
        text_field: the column that holds the text.
        seed: of the shuffling.

    Raises:
        MissingExtraError: without the package `datasets`.
        TrainingError: when no configuration matches or there is no such column.
    """
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError("Streaming from the hub", "train", "datasets") from error
    names = datasets.get_dataset_config_names(dataset)
    matching = [name for name in names if fnmatchcase(name, configuration)]
    if not matching:
        raise TrainingError(
            f"Data set {dataset} has no configuration {configuration!r}; it has {', '.join(names)}."
        )
    parts = [datasets.load_dataset(dataset, name, split=split, streaming=True) for name in matching]
    rows: Any = (
        parts[0]
        if len(parts) == 1
        else datasets.interleave_datasets(parts, seed=seed, stopping_strategy="all_exhausted")
    )
    for row in rows.shuffle(seed=seed, buffer_size=10_000):
        if text_field not in row:
            raise TrainingError(
                f"Data set {dataset} has no column {text_field!r}; it has {', '.join(row)}."
            )
        if row[text_field]:
            yield row[text_field]


def _open_text(path: Path) -> IO[str]:
    if path.name.endswith(".zst"):
        try:
            import zstandard
        except ImportError as error:
            raise MissingExtraError(f"Reading {path.name}", "train", "zstandard") from error
        raw = path.open("rb")
        reader = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES).stream_reader(
            raw, closefd=True
        )
        return io.TextIOWrapper(reader, encoding="utf-8")
    if path.name.endswith(".gz"):
        return gzip.open(path, "rt", encoding="utf-8")
    return path.open(encoding="utf-8")
