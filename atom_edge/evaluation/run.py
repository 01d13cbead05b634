"""Evaluation of one model on a list of tasks."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from atom_edge.errors import EvaluationError
from atom_edge.evaluation.arithmark import ARITHMARK_TASKS, arithmark, find_file
from atom_edge.evaluation.heldout import heldout_text
from atom_edge.evaluation.models import Model, open_model
from atom_edge.evaluation.perplexity import perplexity
from atom_edge.evaluation.results import Result


def evaluate(
    target: str | Path,
    tasks: Sequence[str],
    *,
    data: Path | None = None,
    split: str | None = None,
    against: str | Path | None = None,
    text: Path | None = None,
    limit: int | None = None,
    threads: int | None = None,
) -> tuple[Model, list[Result]]:
    """Score a bundle or a snapshot.

    Args:
        target: a bundle's folder, or a snapshot's folder or hub id.
        tasks: names of harness tasks, "perplexity", and those of `ARITHMARK_TASKS`.
        data: folder of local task files; without it harness tasks come from the hub.
        split: another split of the local files than the one that the harness scores.
        against: the snapshot that a bundle's predictions are compared with, for "perplexity".
        text: text file for "perplexity"; the held-out text of the exporter when None.
        limit: only so many items of each task.
        threads: that score at a time; as many as usable cores when None.

    Raises:
        EvaluationError: for a task or its data that cannot be used.
    """
    # What can be wrong is found before the first task runs for minutes.
    model = open_model(target, threads)
    reference = open_model(against, threads) if against is not None else None
    files = {name: _arithmark_file(data, name) for name in tasks if name in ARITHMARK_TASKS}
    words = _text(text) if "perplexity" in tasks else ""
    results: list[Result] = []
    in_harness = [name for name in tasks if name not in (*files, "perplexity")]
    if in_harness:
        results += _run_harness(model, in_harness, data, split, limit)
    for name in tasks:
        if name == "perplexity":
            results += perplexity(model, words, reference, limit)
        elif name in files:
            results += arithmark(model, files[name], name, limit)
    return model, results


def _arithmark_file(data: Path | None, name: str) -> Path:
    if data is None:
        raise EvaluationError(f"Task {name!r} is scored over your file: give --data.")
    return find_file(data, name)


def _text(file: Path | None) -> str:
    if file is not None:
        from atom_edge.evaluation.tasks import read_text

        return read_text(file)
    return heldout_text()


def _run_harness(
    model: Model, names: list[str], data: Path | None, split: str | None, limit: int | None
) -> list[Result]:
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    from lm_eval.evaluator import evaluate as run

    from atom_edge.evaluation.harness import AtomEdgeLM
    from atom_edge.evaluation.tasks import load_tasks

    loaded = load_tasks(names, data, split)
    # Errors of means are computed, not drawn; without any iteration the harness leaves them out.
    output = run(AtomEdgeLM(model), loaded, limit=limit, bootstrap_iters=1, log_samples=False)
    found: dict[str, Any] = output["results"]
    counts = output["n-samples"]
    results = []
    for name in names:
        if name == "blimp":
            parts = [_harness_results(n, found[n], counts[n]) for n in found if _is_part(n)]
            results += _mean("blimp", [part[0] for part in parts])
        else:
            results += _harness_results(name, found[name], counts[name])
    return results


def _is_part(name: str) -> bool:
    return name.startswith("blimp_")


def _harness_results(task: str, figures: dict[str, Any], counts: dict[str, int]) -> list[Result]:
    results = []
    for key, value in figures.items():
        metric, _, kind = key.partition(",")
        if kind == "none" and not metric.endswith("_stderr"):
            error = figures.get(f"{metric}_stderr,none")
            error = float(error) if isinstance(error, int | float) else math.nan
            results.append(Result(task, metric, float(value), error, counts["effective"]))
    return results


def _mean(task: str, parts: list[Result]) -> list[Result]:
    """The plain mean over the parts, as the harness's group has it."""
    value = sum(part.value for part in parts) / len(parts)
    error = math.sqrt(sum(part.standard_error**2 for part in parts)) / len(parts)
    return [Result(task, parts[0].metric, value, error, sum(part.count for part in parts))]
