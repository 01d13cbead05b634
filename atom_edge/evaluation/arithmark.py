"""ArithMark-2.0 by its official scoring, over the user's own file of it.

Context and ending are tokenized apart and joined; an ending's score is the sum of its tokens'
log-probabilities, without length normalisation; the highest wins. A file in the same form, such
as a stand-in of other items, is scored in the same way and reported under its own name.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np

from atom_edge.errors import EvaluationError
from atom_edge.evaluation.models import Model
from atom_edge.evaluation.progress import progress_bar
from atom_edge.evaluation.results import Result
from atom_edge.evaluation.scoring import score
from atom_edge.evaluation.tasks import read_rows


def find_file(data: Path, task: str) -> Path:
    """The one file of JSON lines in `data/task`.

    Raises:
        EvaluationError: when there is none or more than one.
    """
    files = [p for p in (data / task).glob("*.jsonl*") if p.is_file()]
    if len(files) != 1:
        raise EvaluationError(f"Expected one .jsonl file in {data / task}, found {len(files)}.")
    return files[0]


def arithmark(model: Model, file: Path, task: str, limit: int | None = None) -> list[Result]:
    """Accuracy over all items, and over those of each number of operators.

    Args:
        model: what is scored.
        file: rows with `ctx`, four `endings`, `label` and `metadata.operator_count`.
        task: the name to report under.
        limit: only so many items.
    """
    rows = list(read_rows(file))[:limit]
    encode = model.tokenizer.encode
    requests = [(encode(row["ctx"]), encode(ending)) for row in rows for ending in row["endings"]]
    with progress_bar(len(requests)) as progress:
        scores = [value for value, _ in score(model, requests, progress)]
    right: dict[str, list[bool]] = defaultdict(list)
    first = 0
    for row in rows:
        ours = scores[first : first + len(row["endings"])]
        first += len(row["endings"])
        correct = int(np.argmax(ours)) == row["label"]
        right[""].append(correct)
        right[f", {row['metadata']['operator_count']} operators"].append(correct)
    return [Result.of_share(task + part, "acc", found) for part, found in sorted(right.items())]
