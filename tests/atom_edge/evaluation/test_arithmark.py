"""ArithMark's scoring over a handmade file, against sums of a float64 model."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from atom_edge.errors import EvaluationError
from atom_edge.evaluation.arithmark import arithmark, find_file
from atom_edge.evaluation.models import Model
from atom_edge.evaluation.results import Result

from .conftest import Exact

ITEMS = [
    ("The sum of 2 and 3 is", [" 5", " 17", " 1203", " forty-one thousand"], 1),
    ("2 + 3 = ", ["5", "17", "1203", "6"], 1),
    ("7 * 8 - 6 =", [" 50", " 51", " 1", " 5000"], 2),
    ("(1 + 2) * 3 - 4 =", ["5", "6", "7", "8"], 3),
]


def sums(model: Model, exact: Exact, context: str, endings: list[str]) -> list[float]:
    encode = model.tokenizer.encode
    parts = [encode(ending) for ending in endings]
    return [float(exact([*encode(context), *part], len(part))[0].sum()) for part in parts]


def write(folder: Path, labels: list[int]) -> Path:
    folder.mkdir(parents=True)
    rows: list[dict[str, Any]] = [
        {"ctx": ctx, "endings": endings, "label": label, "metadata": {"operator_count": count}}
        for (ctx, endings, count), label in zip(ITEMS, labels, strict=True)
    ]
    file = folder / "items.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


@pytest.mark.parametrize("name", ["bundle_model", "snapshot_model"])
def test_the_highest_sum_is_the_answer(
    name: str, exact: Exact, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    model: Model = request.getfixturevalue(name)
    scores = [sums(model, exact, context, endings) for context, endings, _ in ITEMS]
    answers = [int(np.argmax(some)) for some in scores]
    encode = model.tokenizer.encode
    by_length = [
        int(np.argmax([s / len(encode(e)) for s, e in zip(some, endings, strict=True)]))
        for some, (_, endings, _) in zip(scores, ITEMS, strict=True)
    ]
    # So that a score by length, or of the text tokenized as one, would be another.
    assert answers != by_length
    assert encode("2 + 3 = 5") != encode("2 + 3 = ") + encode("5")
    labels = [answers[0], (answers[1] + 1) % 4, answers[2], answers[3]]
    file = write(tmp_path / "arithmark2", labels)
    assert find_file(tmp_path, "arithmark2") == file
    assert arithmark(model, file, "arithmark2") == [
        Result("arithmark2", "acc", 0.75, 0.25, 4),
        Result("arithmark2, 1 operators", "acc", 0.5, 0.5, 2),
        Result("arithmark2, 2 operators", "acc", 1.0, pytest.approx(math.nan, nan_ok=True), 1),
        Result("arithmark2, 3 operators", "acc", 1.0, pytest.approx(math.nan, nan_ok=True), 1),
    ]
    assert arithmark(model, file, "arithmark2", limit=1)[0].count == 1


def test_the_file_must_be_there_and_the_only_one(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="found 0"):
        find_file(tmp_path, "arithmark2")
    file = write(tmp_path / "arithmark2", [0, 0, 0, 0])
    file.with_name("more.jsonl.xz").touch()
    with pytest.raises(EvaluationError, match="found 2"):
        find_file(tmp_path, "arithmark2")


def test_the_third_has_a_mean_beside_the_sum_and_its_own_parts(
    snapshot_model: Model, exact: Exact, tmp_path: Path
) -> None:
    encode = snapshot_model.tokenizer.encode
    scores = [sums(snapshot_model, exact, context, endings) for context, endings, _ in ITEMS]
    by_sum = [int(np.argmax(some)) for some in scores]
    by_mean = [
        int(np.argmax([s / len(encode(e)) for s, e in zip(some, endings, strict=True)]))
        for some, (_, endings, _) in zip(scores, ITEMS, strict=True)
    ]
    assert by_sum != by_mean
    rows = [
        {"ctx": context, "endings": endings, "label": str(label), "activity_label": kind}
        for (context, endings, _), label, kind in zip(ITEMS, by_mean, "abaa", strict=True)
    ]
    file = tmp_path / "items.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found = {
        (r.task, r.metric): (r.value, r.count)
        for r in arithmark(snapshot_model, file, "arithmark3")
    }
    assert found["arithmark3", "acc_norm"] == (1.0, 4)
    assert found["arithmark3, a", "acc_norm"] == (1.0, 3)
    assert found["arithmark3, b", "acc_norm"] == (1.0, 1)
    same = sum(one == other for one, other in zip(by_sum, by_mean, strict=True))
    assert found["arithmark3", "acc"] == (same / 4, 4)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ctx": ""}, "texts"),
        ({"endings": [" 1"]}, "texts"),
        ({"endings": [" 1", 2]}, "texts"),
        ({"label": 2}, "label 2 is none of 2"),
        ({"label": "x"}, "ValueError"),
        ({"metadata": {}}, "operator_count"),
    ],
)
def test_a_row_of_another_form_is_named(
    change: dict[str, Any], said: str, snapshot_model: Model, tmp_path: Path
) -> None:
    row = {"ctx": "1 + 1 =", "endings": [" 1", " 2"], "label": 1, "metadata": {"operator_count": 1}}
    file = tmp_path / "items.jsonl"
    file.write_text(f"{json.dumps(row)}\n{json.dumps(row | change)}\n", encoding="utf-8")
    with pytest.raises(EvaluationError, match=f"line 2: .*{said}"):
        arithmark(snapshot_model, file, "arithmark2")
