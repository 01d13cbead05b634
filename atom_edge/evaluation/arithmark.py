"""ArithMark by its official scoring, over the user's own file of it.

Context and ending are tokenized apart and joined. ArithMark-2.0 takes the ending whose tokens'
log-probabilities have the highest sum; ArithMark-3.0 gives that and, as its main figure, the
accuracy by the highest mean. A file in the same form, such as a stand-in of other items, is scored
in the same way and reported under its own name.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from atom_edge.errors import EvaluationError
from atom_edge.evaluation.models import Model
from atom_edge.evaluation.progress import progress_bar
from atom_edge.evaluation.results import Result
from atom_edge.evaluation.scoring import score
from atom_edge.evaluation.tasks import parsed_rows


@dataclass(frozen=True)
class _Form:
    """What the versions differ in: the metrics, and the name of the part that a row is of."""

    metrics: tuple[str, ...]
    part: Callable[[dict[str, Any]], str]


_SECOND = _Form(("acc",), lambda row: f"{int(row['metadata']['operator_count'])} operators")
_THIRD = _Form(("acc", "acc_norm"), lambda row: str(row.get("activity_label", "unknown")))
_FORMS = {"arithmark2": _SECOND, "arithmark2_like": _SECOND, "arithmark3": _THIRD}
ARITHMARK_TASKS = tuple(_FORMS)


@dataclass(frozen=True)
class _Item:
    context: str
    endings: tuple[str, ...]
    label: int
    part: str


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
    """Accuracy over all items, and over those of each part: a number of operators, or a category.

    Args:
        model: what is scored.
        file: rows with `ctx`, two `endings` or more and `label`; in ArithMark-2.0's form also
            `metadata.operator_count`, in that of 3.0 `activity_label`.
        task: one of `ARITHMARK_TASKS`, the name to report under.
        limit: only so many items.

    Raises:
        EvaluationError: for a row of another form, with its number.
    """
    form = _FORMS[task]
    items = parsed_rows(file, lambda row: _item(row, form), "ArithMark")[:limit]
    encode = model.tokenizer.encode
    requests = [(encode(item.context), encode(end)) for item in items for end in item.endings]
    with progress_bar(len(requests)) as progress:
        sums = np.array([value for value, _ in score(model, requests, progress)])
    lengths = np.array([len(ending) for _, ending in requests])
    results = []
    for metric in form.metrics:
        scores = sums / lengths if metric == "acc_norm" else sums
        results += _results(task, metric, items, scores.tolist())
    return results


def _results(task: str, metric: str, items: list[_Item], scores: list[float]) -> list[Result]:
    right: dict[str, list[bool]] = defaultdict(list)
    first = 0
    for item in items:
        ours = scores[first : first + len(item.endings)]
        first += len(item.endings)
        correct = int(np.argmax(ours)) == item.label
        right[""].append(correct)
        right[f", {item.part}"].append(correct)
    return [Result.of_share(task + part, metric, found) for part, found in sorted(right.items())]


def _item(row: dict[str, Any], form: _Form) -> _Item:
    context, endings, label = row["ctx"], row["endings"], int(row["label"])
    texts = [context, *endings]
    if len(endings) < 2 or not all(isinstance(text, str) and text for text in texts):
        raise ValueError("ctx and two endings or more must be texts, none of them empty")
    if not 0 <= label < len(endings):
        raise ValueError(f"label {label} is none of {len(endings)} endings")
    return _Item(context, tuple(endings), label, form.part(row))
