"""Local data: the harness's own requests from it, and what is said when it is not as needed."""

from __future__ import annotations

import json
import lzma
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import lm_eval.tasks
import pytest
from lm_eval.tasks import TaskManager
from typer.testing import CliRunner

from atom_edge.cli import app
from atom_edge.errors import EvaluationError
from atom_edge.evaluation.tasks import load_tasks, read_text

FOLDERS = {"arc_easy": "arc", "arc_challenge": "arc", "boolq": "super_glue/boolq"}
CHOICES = {"text": ["shelf", "river", "sun", "tooth", "shoe"], "label": list("ABCDE")}
# As the hub has them.
ROWS: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "arc_easy/test": [
        {
            "question": "Which one is 'hot'?",
            "choices": {"text": ["ice", "fire", 'a "cold" day'], "label": ["1", "2", "3"]},
            "answerKey": "2",
        },
        {"question": "Where is a book?", "choices": CHOICES, "answerKey": "A"},
    ],
    "arc_challenge/test": [{"question": "Where is a fish?", "choices": CHOICES, "answerKey": "B"}],
    "hellaswag/validation": [
        {
            "activity_label": "Baking bread",
            "ctx_a": "[header] How to bake [title] A woman kneads dough.",
            "ctx_b": "she",
            "endings": ["puts it [step] in the oven.", "eats a car.", "sleeps.", "flies  away."],
            "label": "0",
        },
        {
            "activity_label": "Fishing",
            "ctx_a": "A man sits by the lake.",
            "ctx_b": "the fish",
            "endings": ["reads a book.", "bites.", "sings.", "drives home."],
            "label": "1",
        },
    ],
    "piqa/validation": [
        {"goal": "Open a jar.", "sol1": "Twist the lid.", "sol2": "Eat the lid.", "label": 0},
        {"goal": "dresser", "sol1": "paint ", "sol2": "paint with ink ", "label": 1},
    ],
    "sciq/test": [
        {
            "question": "What do plants need?",
            "distractor1": "metal",
            "distractor2": "sand",
            "distractor3": "oil",
            "correct_answer": "light",
            "support": "  Plants live of light.",
        }
    ],
    "openbookqa/test": [
        {"question_stem": "Books stand on a", "choices": CHOICES, "answerKey": "A"}
    ],
    "boolq/validation": [
        {"question": "is snow white", "passage": "Snow is white.", "label": 1},
        {"question": "is tar white", "passage": "Tar is black.", "label": 0},
    ],
    "commonsense_qa/validation": [
        {"question": " Where is a book? ", "choices": CHOICES, "answerKey": "A"}
    ],
    "blimp/blimp_67": [
        {"sentence_good": "Dogs bark.", "sentence_bad": "Dogs barks.", "UID": "transitive"},
        {"sentence_good": "He saw her.", "sentence_bad": "He saw she.", "UID": "transitive"},
    ],
}


def save(folder: Path, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    with lzma.open(folder / f"{name}.jsonl.xz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def own_task(name: str, part: str, rows: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The harness's task by the harness's means, on a hub that has `rows` in every split."""

    def hub(**_: Any) -> datasets.DatasetDict:
        table = datasets.Dataset.from_list(rows)
        return datasets.DatasetDict(dict.fromkeys(("train", "validation", "test"), table))

    folder = Path(lm_eval.tasks.__file__).parent / FOLDERS.get(name, name)
    manager = TaskManager(include_defaults=False, include_path=str(folder))
    with monkeypatch.context() as patch:
        patch.setattr(datasets, "load_dataset", hub)
        return manager.load([part])["tasks"][part]


def requests_of(task: Any) -> list[tuple[Any, ...]]:
    task.build_all_requests()
    return [
        (*instance.args, task.doc_to_target(instance.doc), instance.doc_id, instance.idx)
        for instance in task.instances
    ]


@pytest.mark.parametrize("path", ROWS)
def test_requests_and_scores_are_those_of_the_harness(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, rows = path.partition("/")[0], ROWS[path]
    part = "blimp_transitive" if name == "blimp" else name
    save(tmp_path, path, rows)
    own = own_task(name, part, list(rows), monkeypatch)
    ours = load_tasks([name], tmp_path)["tasks"][part]
    assert requests_of(ours) == requests_of(own)
    assert len(ours.instances) > len(rows)
    for number, (doc, same) in enumerate(zip(ours.eval_docs, own.eval_docs, strict=True)):
        count = sum(instance.doc_id == number for instance in ours.instances)
        answers = [(-1.0 - (index + number) % count, False) for index in range(count)]
        assert ours.process_results(doc, answers) == own.process_results(same, answers)
    assert ours.aggregation() == own.aggregation()


def test_what_is_wrong_with_a_file_is_said_by_line(tmp_path: Path) -> None:
    piqa = [*ROWS["piqa/validation"], {"goal": "Open a jar.", "sol1": "Twist."}]
    save(tmp_path, "piqa/validation", piqa)
    with pytest.raises(EvaluationError, match=r"validation.jsonl.xz, line 3: .* 'sol2'"):
        load_tasks(["piqa"], tmp_path)
    arc = {"question": "Which?", "choices": ["ice", "fire"], "gold": 2}
    save(tmp_path, "arc_easy/test", [arc])
    with pytest.raises(EvaluationError, match=r"line 1: no row of arc_easy"):
        load_tasks(["arc_easy"], tmp_path)
    save(tmp_path, "boolq/validation", [])
    with pytest.raises(EvaluationError, match="holds no rows"):
        load_tasks(["boolq"], tmp_path)
    pair = {"sentence_good": "A.", "sentence_bad": "B.", "UID": "no_such_part"}
    save(tmp_path, "blimp/blimp_67", [pair])
    with pytest.raises(EvaluationError, match="blimp_no_such_part"):
        load_tasks(["blimp"], tmp_path)


def test_the_hub_s_failure_is_an_error_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(**_: Any) -> None:
        raise ConnectionError("no network")

    folder = Path(lm_eval.tasks.__file__).parent / "piqa"  # to index all takes seconds
    one = TaskManager(include_defaults=False, include_path=str(folder))
    monkeypatch.setattr("atom_edge.evaluation.tasks.TaskManager", lambda: one)
    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(EvaluationError, match=r"piqa cannot be fetched .*no network.*--data"):
        load_tasks(["piqa"], None)


def test_text_may_be_compressed(tmp_path: Path) -> None:
    with lzma.open(tmp_path / "text.txt.xz", "wt", encoding="utf-8") as file:
        file.write("Schöne Bücher")
    assert read_text(tmp_path / "text.txt.xz") == "Schöne Bücher"
    (tmp_path / "broken.txt.xz").write_bytes(b"not xz")
    for name in ("broken.txt.xz", "absent.txt"):
        with pytest.raises(EvaluationError, match=name):
            read_text(tmp_path / name)


def test_json_has_null_where_there_is_no_standard_error(small_snapshot: Path) -> None:
    options = ("--tasks", "perplexity", "--limit", "1", "--threads", "1", "--json")
    against = ("--against", str(small_snapshot))
    result = CliRunner().invoke(app, ["eval", str(small_snapshot), *against, *options])
    assert result.exit_code == 0, result.output

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    found = json.loads(result.stdout, parse_constant=refuse)["results"]
    percentiles = [one for one in found if "percentile" in one["metric"]]
    assert percentiles
    assert all(one["standard_error"] is None for one in percentiles)
