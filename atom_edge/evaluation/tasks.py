"""The harness's tasks over local files.

A local task is the harness's own definition, prompt, scoring and all, with only the rows taken
from a folder: `DATA/TASK/SPLIT.jsonl`, plain or compressed (`.xz`, `.gz`). Rows may be in the
form of the hub's data set or in the simpler forms that `_CONVERT` knows.
"""

from __future__ import annotations

import gzip
import json
import lzma
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any

import datasets
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml

from atom_edge.errors import EvaluationError

Row = dict[str, Any]
# The split that the harness scores, where the local file may have another name.
_SPLITS = {
    "arc_easy": ("test",),
    "arc_challenge": ("test",),
    "hellaswag": ("validation",),
    "piqa": ("validation",),
    "sciq": ("test", "validation"),
    "openbookqa": ("test", "validation"),
    "commonsense_qa": ("validation",),
    "boolq": ("validation",),
    "blimp": ("blimp_67", "train"),
}
LOCAL_TASKS = tuple(_SPLITS)


def load_tasks(names: list[str], data: Path | None, split: str | None = None) -> dict[str, Any]:
    """Build harness tasks: over `data` when it is given, else over the hub's data sets.

    Args:
        names: names of harness tasks; with `data`, those of `LOCAL_TASKS`.
        data: folder with a folder of each task.
        split: another split of the local files, such as "validation" to tune on.

    Returns:
        What the harness's `evaluate` takes: tasks and groups.

    Raises:
        EvaluationError: for a task or file that does not exist.
    """
    manager = TaskManager()
    if unknown := [name for name in names if name not in manager.all_tasks]:
        raise EvaluationError(f"The harness has no task {', '.join(unknown)}.")
    if data is None:
        return dict(manager.load(names))
    specs: list[Any] = []
    for name in names:
        if name not in _SPLITS:
            raise EvaluationError(
                f"Task {name!r} cannot be read from local files; these can: "
                f"{', '.join(LOCAL_TASKS)}. Without --data it is read from the hub."
            )
        rows = list(read_rows(_find(data, name, split)))
        specs += (
            _blimp_specs(manager, rows) if name == "blimp" else [_spec(manager, name, name, rows)]
        )
    return dict(manager.load(specs))


def _spec(manager: TaskManager, task: str, converted_as: str, rows: list[Row]) -> Row:
    convert = _CONVERT.get(converted_as, dict)
    table = datasets.Dataset.from_list([convert(row) for row in rows])
    definition = load_yaml(manager.task_index[task].yaml_path, resolve_func=True)
    # Done once here; the harness would do it again at every look at its rows.
    if prepare := definition.pop("process_docs", None):
        table = prepare(table)
    return {**definition, "custom_dataset": partial(_splits, table)}


def _splits(table: datasets.Dataset, **_: Any) -> dict[str, datasets.Dataset]:
    """Every split that a task may ask for is the one that was read."""
    return dict.fromkeys(("train", "validation", "test"), table)


def _blimp_specs(manager: TaskManager, rows: list[Row]) -> list[Row]:
    by_phenomenon: dict[str, list[Row]] = {}
    for row in rows:
        by_phenomenon.setdefault(row["UID"], []).append(row)
    return [_spec(manager, f"blimp_{uid}", "blimp", some) for uid, some in by_phenomenon.items()]


def _find(data: Path, task: str, split: str | None) -> Path:
    splits = (split,) if split else _SPLITS[task]
    for name in splits:
        for suffix in (".jsonl", ".jsonl.xz", ".jsonl.gz"):
            path = data / task / f"{name}{suffix}"
            if path.is_file():
                return path
    raise EvaluationError(
        f"No file for task {task!r}: looked in {data / task} for "
        f"{' or '.join(splits)} as .jsonl, .jsonl.xz or .jsonl.gz."
    )


def read_rows(path: Path) -> Iterator[Row]:
    """Yield the objects of a file of JSON lines.

    Raises:
        EvaluationError: for a line that is not a JSON object, with its number.
    """
    with _open_text(path) as lines:
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise EvaluationError(f"{path}, line {number}: not JSON ({error.msg}).") from error
            if not isinstance(row, dict):
                raise EvaluationError(f"{path}, line {number}: expected a JSON object.")
            yield row


def _open_text(path: Path) -> IO[str]:
    openers: dict[str, Callable[..., IO[str]]] = {".xz": lzma.open, ".gz": gzip.open}
    return openers.get(path.suffix, open)(path, "rt", encoding="utf-8")


def _arc(row: Row) -> Row:
    if isinstance(row["choices"], dict):
        return row
    labels = [chr(ord("A") + number) for number in range(len(row["choices"]))]
    return {
        "question": row["question"],
        "choices": {"text": row["choices"], "label": labels},
        "answerKey": labels[row["gold"]],
    }


def _boolq(row: Row) -> Row:
    label = int(row["answer"]) if "answer" in row else row["label"]
    return {"question": row["question"], "passage": row["passage"], "label": label}


def _hellaswag(row: Row) -> Row:
    kept = ("activity_label", "ctx_a", "ctx_b", "endings")
    return {**{name: row[name] for name in kept}, "label": str(row["label"])}


_CONVERT: dict[str, Callable[[Row], Row]] = {
    "arc_easy": _arc,
    "arc_challenge": _arc,
    "boolq": _boolq,
    "hellaswag": _hellaswag,
}
