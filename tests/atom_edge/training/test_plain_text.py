"""The passages of a corpus that read like our own prose."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from atom_edge.training.plain_text import passages, select
from atom_edge.training.sources import read_shard

PLAIN = (
    "A pond is a small body of still water. Rain and small streams fill the pond in spring. Frogs "
    "lay their eggs in the shallow water near the bank, and ducks swim between the reeds. In a dry "
    "summer the pond grows smaller, and the mud at its edge cracks in the sun."
)
LAW = (
    "Notwithstanding subsection (4)(b), the aforementioned appellant's interlocutory motion, "
    "purportedly pursuant to s. 117, was dismissed; certiorari was denied per curiam (cf. 402 U.S. "
    "at 1183). Jurisdictional estoppel, inter alia, precluded the respondents' counterclaims."
)


@given(st.lists(st.text(st.characters(codec="ascii", exclude_characters="\n\r\v\f"), max_size=900)))
def test_passages_are_whole_paragraphs_in_order_and_lose_none(paragraphs: list[str]) -> None:
    kept = [text.strip() for text in "\n".join(paragraphs).split("\n") if text.strip()]
    found = list(passages("\n".join(paragraphs)))
    assert [line for passage in found for line in passage.split("\n")] == kept
    assert all(len(passage) <= 1500 + passage.count("\n") for passage in found)


def corpus(folder: Path) -> Path:
    # The corpus must be large beside the prose, for its words to be rare in the one or the other.
    for name, texts in {"edu": [LAW, PLAIN], "synthetic": [LAW], "web": [LAW] * 9000}.items():
        (folder / name).mkdir(parents=True)
        lines = [json.dumps({"text": text}) for text in texts]
        (folder / name / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


def test_the_plainest_come_first_and_no_more_than_asked_for(tmp_path: Path) -> None:
    shards = sorted(corpus(tmp_path).rglob("*.jsonl"))
    assert select(shards, 10) == [PLAIN]
    assert select(shards, len(PLAIN) + 1) == [PLAIN, LAW]
    assert len(select(shards, 10_000_000)) == 9003


def test_the_command_writes_a_shard(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "atom_edge.training.plain_text", str(corpus(tmp_path / "c"))]
    done = subprocess.run([*command, str(tmp_path / "plain")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("9,003 passages, ")
    shard = tmp_path / "plain" / "plain.jsonl.gz"
    assert next(read_shard(shard)) == PLAIN
    with gzip.open(shard, "rt") as lines:
        assert len(list(lines)) == 9003
