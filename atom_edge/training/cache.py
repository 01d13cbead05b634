"""Text, tokenized once into memory-mapped files.

For every source the cache holds `train.bin` and `validation.bin`: uint16 token ids of the
documents in a shuffled order, `<|endoftext|>` after each. A cache is found again by the
fingerprint of what it was made from.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from atom_edge.errors import TrainingError
from atom_edge.staging import clear_leftovers, scratch_folder, staged_folder
from atom_edge.training import synthetic
from atom_edge.training.recipe import Recipe, Source
from atom_edge.training.sources import batched, find_shards, read_shard, stream_hub
from atom_edge.training.tokenizer import END_OF_TEXT

Tokens = npt.NDArray[np.uint16]
_DOCUMENTS_AT_ONCE = 512
# A larger share of a small source is never held out.
_LARGEST_HELD_OUT_SHARE = 0.05


@dataclass(frozen=True)
class TokenCache:
    """One source's tokens: memory-mapped uint16 arrays of one dimension.

    `document_starts` are the places in `train` at which documents begin, int64, ascending.
    """

    train: Tokens
    validation: Tokens
    document_starts: npt.NDArray[np.int64]


@dataclass(frozen=True)
class _Stream:
    """What one process tokenizes: a shard, or a whole hub data set or generator."""

    source: Source
    seed: int
    shard: Path | None = None
    data: Path | None = None
    max_tokens: int = 0

    def documents(self) -> Iterator[str]:
        if self.shard is not None:
            source = self.source
            return read_shard(self.shard, source.text_field, source.include, source.exclude)
        if self.source.generator:
            return synthetic.generate(self.source.generator, self.seed)
        local = self.data / self.source.hub if self.data is not None else Path(self.source.hub)
        return stream_hub(
            str(local) if local.is_dir() else self.source.hub,
            self.source.configuration,
            self.source.split,
            self.source.text_field,
            self.seed,
        )


def build_caches(
    recipe: Recipe,
    planned_tokens: list[int],
    tokenizer_file: Path,
    data: Path,
    folder: Path,
    report: Callable[[str, float], None] = lambda source, share: None,
) -> list[TokenCache]:
    """Tokenize every source of `recipe` that `folder` does not hold yet, in parallel.

    Args:
        recipe: names the sources, the seed of the shuffling and what is held out.
        planned_tokens: tokens that the run takes of each source; endless ones are read so far.
        tokenizer_file: a `tokenizer.json` with at most 65,536 tokens.
        data: folder below which shards (and local copies of hub data sets) are looked for.
        folder: where the cache lies.
        report: called with a source's name and the done share of the whole work.

    Raises:
        TrainingError: for a source without text.
    """
    streams: dict[Path, list[_Stream]] = {}
    places = []
    for source, planned in zip(recipe.sources, planned_tokens, strict=True):
        parts = _streams(source, recipe, planned, data)
        place = folder / f"{source.name}-{_fingerprint(parts, recipe, tokenizer_file)}"
        places.append(place)
        if not (place / "train.bin").exists():
            streams[place] = parts
    work = [(place, part) for place, parts in streams.items() for part in parts]
    done: dict[Path, list[tuple[int, Path]]] = {place: [] for place in streams}
    with scratch_folder(folder / "tokenizing") as scratch:
        workers = max(1, min(len(work), os.cpu_count() or 1))
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            jobs = {
                pool.submit(_tokenize, part, tokenizer_file, scratch / str(number)): (place, number)
                for number, (place, part) in enumerate(work)
            }
            for finished, job in enumerate(as_completed(jobs), start=1):
                place, number = jobs[job]
                job.result()
                done[place].append((number, scratch / str(number)))
                if len(done[place]) == len(streams[place]):
                    _assemble([path for _, path in sorted(done[place])], place, recipe)
                report(place.name.rsplit("-", 1)[0], finished / len(jobs))
    end = _end_of_text(Tokenizer.from_file(str(tokenizer_file)), tokenizer_file)
    return [_open(place, end) for place in places]


def _streams(source: Source, recipe: Recipe, planned: int, data: Path) -> list[_Stream]:
    if source.shards:
        found = [path for glob in source.shards for path in sorted(data.glob(glob))]
        if not found:
            raise TrainingError(
                f"Source {source.name!r}: nothing matches {', '.join(source.shards)} below {data}."
            )
        shards = [shard for path in found for shard in find_shards(path)]
        return [_Stream(source, recipe.seed, shard=shard) for shard in shards]
    enough = planned + recipe.validation_tokens
    limit = min(enough, source.max_tokens) if source.max_tokens else enough
    return [_Stream(source, recipe.seed, data=data, max_tokens=limit)]


def _fingerprint(parts: list[_Stream], recipe: Recipe, tokenizer_file: Path) -> str:
    described = [
        {
            "source": {k: v for k, v in asdict(part.source).items() if k not in ("start", "end")},
            "shard": part.shard and [part.shard.name, part.shard.stat().st_size],
            "max_tokens": part.max_tokens,
            "version": synthetic.version() if part.source.generator else "",
        }
        for part in parts
    ]
    content = json.dumps([described, recipe.seed, recipe.validation_tokens], sort_keys=True)
    return hashlib.sha256(content.encode() + tokenizer_file.read_bytes()).hexdigest()[:12]


def _tokenize(stream: _Stream, tokenizer_file: Path, destination: Path) -> None:
    """Write the stream's tokens and its documents' lengths beside `destination`."""
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    end = _end_of_text(tokenizer, tokenizer_file)
    lengths: list[int] = []
    total = 0
    with destination.with_suffix(".bin").open("wb") as out:
        for texts in batched(stream.documents(), _DOCUMENTS_AT_ONCE):
            for encoding in tokenizer.encode_batch_fast(list(texts), add_special_tokens=False):
                ids = np.array([*encoding.ids, end], dtype=np.uint16)
                lengths.append(len(ids))
                total += len(ids)
                out.write(ids.tobytes())
            if stream.max_tokens and total >= stream.max_tokens:
                break
    np.save(destination.with_suffix(".npy"), np.array(lengths, dtype=np.int64))


def _end_of_text(tokenizer: Tokenizer, file: Path) -> int:
    end = tokenizer.token_to_id(END_OF_TEXT)
    if end is None:
        raise TrainingError(f"{file} has no token {END_OF_TEXT}.")
    return int(end)


def _open(place: Path, end: int) -> TokenCache:
    train = _memory_map(place / "train.bin")
    starts = np.concatenate([[0], np.flatnonzero(train == end)[:-1] + 1])
    return TokenCache(train, _memory_map(place / "validation.bin"), starts)


def _assemble(parts: list[Path], place: Path, recipe: Recipe) -> None:
    """Join `parts` with their documents shuffled, the first of them held out."""
    documents: list[Tokens] = []
    for part in parts:
        lengths = np.load(part.with_suffix(".npy"))
        if len(lengths):
            tokens = _memory_map(part.with_suffix(".bin"))
            documents += np.split(tokens, np.cumsum(lengths)[:-1])
    total = sum(map(len, documents))
    if total <= 2 * (recipe.context + 1):
        raise TrainingError(f"Source {place.name} has only {total} tokens of text.")
    order = np.random.default_rng(recipe.seed).permutation(len(documents))
    held_out = min(recipe.validation_tokens, int(total * _LARGEST_HELD_OUT_SHARE))
    clear_leftovers(place)
    written = 0
    with (
        staged_folder(place) as staging,
        (staging / "train.bin").open("wb") as train,
        (staging / "validation.bin").open("wb") as validation,
    ):
        for index in order:
            (validation if written < held_out else train).write(documents[index].tobytes())
            written += len(documents[index])


def _memory_map(path: Path) -> Tokens:
    if path.stat().st_size == 0:
        return np.empty(0, dtype=np.uint16)
    return np.memmap(path, dtype=np.uint16, mode="r")
