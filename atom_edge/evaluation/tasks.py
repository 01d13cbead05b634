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
from functools import lru_cache, partial
from pathlib import Path
from typing import IO, Any, TypeVar

import datasets
import lm_eval.tasks
import lm_eval.utils
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml

from atom_edge.errors import EvaluationError

Row = dict[str, Any]
T = TypeVar("T")
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
# The harness would compile its prompt templates again for each question.
lm_eval.utils.env.from_string = lru_cache(lm_eval.utils.env.from_string)
# Where the harness keeps the definitions of a task, where the folder has another name.
_FOLDERS = {"arc_easy": "arc", "arc_challenge": "arc", "boolq": "super_glue/boolq"}


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
    datasets.disable_progress_bars()
    if data is None:
        return _load_from_hub(names)
    if unknown := [name for name in names if name not in _SPLITS]:
        raise EvaluationError(
            f"There is no task {', '.join(unknown)} for --data: it cannot be read from local "
            f"files. These can: {', '.join(LOCAL_TASKS)}. Without --data any task of the harness "
            "is read from the hub."
        )
    # The definitions of these tasks only: to read all of the harness's takes seconds.
    folders = {Path(lm_eval.tasks.__file__).parent / _FOLDERS.get(name, name) for name in names}
    manager = TaskManager(include_defaults=False, include_path=sorted(folders))
    specs: list[Any] = []
    for name in names:
        path = _find(data, name, split)
        rows = parsed_rows(path, _CONVERT[name], name)
        if name == "blimp":
            specs += _blimp_specs(manager, path, rows)
        else:
            specs.append(_spec(manager, name, rows))
    return dict(manager.load(specs))


def _load_from_hub(names: list[str]) -> dict[str, Any]:
    manager = TaskManager()
    if unknown := [name for name in names if name not in manager.all_tasks]:
        raise EvaluationError(f"The harness has no task {', '.join(unknown)}.")
    try:
        return dict(manager.load(names))
    except OSError as error:  # all that a hub or a network can fail with
        raise EvaluationError(
            f"The data of {', '.join(names)} cannot be fetched from the hub: {error} "
            "Check the network, or give local files with --data."
        ) from error


def _spec(manager: TaskManager, task: str, rows: list[Row]) -> Row:
    table = datasets.Dataset.from_list(rows)
    definition = load_yaml(manager.task_index[task].yaml_path, resolve_func=True)
    # Done once here; the harness would do it again at every look at its rows.
    if prepare := definition.pop("process_docs", None):
        table = prepare(table)
    return {**definition, "custom_dataset": partial(_splits, table)}


def _splits(table: datasets.Dataset, **_: Any) -> dict[str, datasets.Dataset]:
    """Every split that a task may ask for is the one that was read."""
    return dict.fromkeys(("train", "validation", "test"), table)


def _blimp_specs(manager: TaskManager, path: Path, rows: list[Row]) -> list[Row]:
    by_phenomenon: dict[str, list[Row]] = {}
    for row in rows:
        by_phenomenon.setdefault(f"blimp_{row['UID']}", []).append(row)
    if unknown := by_phenomenon.keys() - manager.task_index.keys():
        raise EvaluationError(f"{path} holds rows of {sorted(unknown)}, no part of BLiMP.")
    return [_spec(manager, part, some) for part, some in by_phenomenon.items()]


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


def parsed_rows(path: Path, parse: Callable[[Row], T], what: str) -> list[T]:
    """The rows of a file, each parsed.

    Args:
        path: of the file; see `read_rows`.
        parse: raises LookupError, TypeError or ValueError for a row of another form.
        what: a row is one of, for the error's message.

    Raises:
        EvaluationError: for a row that cannot be parsed, with its line; or a file without any.
    """
    rows = []
    for number, row in enumerate(read_rows(path), start=1):
        try:
            rows.append(parse(row))
        except (LookupError, TypeError, ValueError) as error:
            raise EvaluationError(
                f"{path}, line {number}: no row of {what}: {type(error).__name__} {error}."
            ) from error
    if not rows:
        raise EvaluationError(f"{path} holds no rows.")
    return rows


def read_text(path: Path) -> str:
    """The text of a file, which may be compressed.

    Raises:
        EvaluationError: if it cannot be read as UTF-8.
    """
    try:
        with _open_text(path) as file:
            return file.read()
    except (OSError, EOFError, ValueError, lzma.LZMAError) as error:
        raise EvaluationError(f"{path} cannot be read as text: {error}.") from error


def _open_text(path: Path) -> IO[str]:
    openers: dict[str, Callable[..., IO[str]]] = {".xz": lzma.open, ".gz": gzip.open}
    return openers.get(path.suffix, open)(path, "rt", encoding="utf-8")


def _columns(*names: str) -> Callable[[Row], Row]:
    return lambda row: {name: row[name] for name in names}


def _arc(row: Row) -> Row:
    if isinstance(row["choices"], dict):
        return {name: row[name] for name in ("question", "choices", "answerKey")}
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
    "blimp": _columns("sentence_good", "sentence_bad", "UID"),
    "boolq": _boolq,
    "commonsense_qa": _columns("question", "choices", "answerKey"),
    "hellaswag": _hellaswag,
    "openbookqa": _columns("question_stem", "choices", "answerKey"),
    "piqa": _columns("goal", "sol1", "sol2", "label"),
    "sciq": _columns(
        "question", "distractor1", "distractor2", "distractor3", "correct_answer", "support"
    ),
}
