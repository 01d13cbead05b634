"""`atom-edge eval` as a user runs it: real processes, exit codes, what goes where."""

from __future__ import annotations

import json
import lzma
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

MAIN = [sys.executable, "-c", "from atom_edge.cli import main; main()"]
ARITHMETIC = {
    "ctx": "2 + 3 =",
    "endings": [" 5", " 6", " 7", " 8"],
    "label": 0,
    "metadata": {"operator_count": 1},
}


def evaluate(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [*MAIN, "eval", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three questions of PIQA, and one of the arithmetic stand-in."""
    folder = tmp_path_factory.mktemp("data")
    piqa = [
        {"goal": "Open a jar.", "sol1": "Twist the lid.", "sol2": "Eat it.", "label": 0},
        {"goal": "Dry a cup.", "sol1": "Fill it.", "sol2": "Use a cloth.", "label": 1},
        {"goal": "Light a room.", "sol1": "Use a lamp.", "sol2": "Use a hat.", "label": 0},
    ]
    files: Mapping[str, list[dict[str, Any]]] = {
        "piqa/validation.jsonl.xz": piqa,
        "arithmark2_like/items.jsonl.xz": [ARITHMETIC],
    }
    for name, rows in files.items():
        (folder / name).parent.mkdir()
        with lzma.open(folder / name, "wt", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    return folder


def test_the_table_goes_to_stdout_and_the_time_to_stderr(
    small_int8_bundle: Path, data: Path
) -> None:
    tasks = "piqa,arithmark2_like,perplexity"
    done = evaluate(small_int8_bundle, "--tasks", tasks, "--data", data, "--limit", 2)
    assert done.returncode == 0, done.stderr
    header, *lines = [line.split() for line in done.stdout.splitlines()]
    assert header == ["task", "metric", "value", "s.e.", "count"]
    assert [line[0] for line in lines] == [
        *("piqa", "piqa", "arithmark2_like", "arithmark2_like,", "perplexity")
    ]
    assert lines[0][1] == "acc"
    assert lines[0][-1] == "2"
    assert float(lines[0][2]) in (0, 50, 100)
    assert lines[-1][-1] == str(2 * 127)
    assert "ONNX int8, " in done.stderr


def test_json_is_one_object_with_shares(small_snapshot: Path, data: Path) -> None:
    done = evaluate(small_snapshot, "--tasks", "piqa", "--data", data, "--json", "--threads", 1)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["target"] == str(small_snapshot)
    assert found["model"] == "PyTorch fp32"
    assert [one["metric"] for one in found["results"]] == ["acc", "acc_norm"]
    for one in found["results"]:
        assert one["task"] == "piqa"
        assert one["count"] == 3
        assert 0 <= one["value"] <= 1
        assert 0 <= one["standard_error"] <= 0.5


@pytest.mark.parametrize(
    ("tasks", "said"),
    [
        ("piqa,no_such_task", "There is no task no_such_task for --data"),
        ("piqa,boolq", "No file for task 'boolq'"),
        ("piqa,arithmark2", "Expected one .jsonl file"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_scored(
    tasks: str, said: str, small_snapshot: Path, data: Path
) -> None:
    done = evaluate(small_snapshot, "--tasks", tasks, "--data", data)
    assert done.returncode == 1
    assert done.stdout == ""
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_what_is_neither_bundle_nor_snapshot(data: Path) -> None:
    done = evaluate(data, "--tasks", "perplexity")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert str(data) in done.stderr


def test_wrong_usage(small_snapshot: Path) -> None:
    assert evaluate(small_snapshot, "--limit", 0).returncode == 2
