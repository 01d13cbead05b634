"""`atom-edge batch`: a file of requests, also when the command is killed in the middle of it."""

from __future__ import annotations

import codecs
import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from atom_edge.errors import AtomEdgeError
from atom_edge.runtimes.bulk import run_file
from atom_edge.runtimes.session import AtomSession

LINES: list[dict[str, Any]] = [
    {"custom_id": f"request {number}", "prompt": prompt, "max_tokens": 3 + number % 30, "seed": 1}
    for number, prompt in enumerate(["The river", "A", "", "In the old house"] * 50)
]


def command(bundle: Path, source: Path, output: Path) -> list[str]:
    parts = ["batch", str(source), "-o", str(output), "--bundle", str(bundle), "--threads", "1"]
    return [sys.executable, "-m", "atom_edge.cli", *parts, "--parallel", "4"]


def run(bundle: Path, source: Path, output: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(bundle, source, output), capture_output=True, text=True, timeout=120
    )


def written(lines: list[Any], file: Path) -> Path:
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    file.write_text("".join(f"{text}\n" for text in texts))
    return file


def answers(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_killed_again_and_again_it_loses_nothing_and_does_nothing_twice(
    small_bundle: Path, session: AtomSession, tmp_path: Path
) -> None:
    source, output = written(LINES, tmp_path / "in.jsonl"), tmp_path / "out.jsonl"
    seed = random.randrange(2**32)
    print("seed", seed)
    draw = random.Random(seed)
    before, kills = 0, 0
    for _ in range(3):
        process = subprocess.Popen(
            command(small_bundle, source, output), stderr=subprocess.PIPE, text=True
        )
        wanted = before + draw.randint(1, 5000)
        while process.poll() is None and not (output.exists() and output.stat().st_size >= wanted):
            time.sleep(0.001)
        kills += process.poll() is None
        process.kill()
        process.communicate()
        before = output.stat().st_size
        with output.open("ab") as file:  # a line that was being written
            file.write(b'{"line": 9')
    assert kills
    done = run(small_bundle, source, output)
    assert done.returncode == 0, done.stderr
    found = answers(output)
    assert [line["custom_id"] for line in found] == [line["custom_id"] for line in LINES]
    assert [line["line"] for line in found] == list(range(1, len(LINES) + 1))
    for line, asked in list(zip(found, LINES, strict=True))[:: len(LINES) // 20]:
        reply = session.generate(asked["prompt"], max_new_tokens=asked["max_tokens"], seed=1)
        (choice,) = line["response"]["body"]["choices"]
        assert (choice["text"], choice["finish_reason"]) == (reply.text, reply.finish_reason)
    again = output.read_bytes()
    assert run(small_bundle, source, output).returncode == 0
    assert output.read_bytes() == again


def test_a_bad_line_is_an_error_line_and_an_exit_code(small_bundle: Path, tmp_path: Path) -> None:
    body = {"prompt": "The", "n": 2, "max_tokens": 2}
    lines: list[Any] = [
        {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": body},
        "",
        "{broken",
        {"custom_id": "b", "prompt": "The", "colour": "red"},
        {"custom_id": "c", "prompt": [5] * 500},
        {"custom_id": "d", "messages": [{"role": "user", "content": "Hello"}]},
        {"custom_id": "e", "url": "/v1/embeddings", "body": {}},
        {"custom_id": "f", "prompt": "The", "stream": True},
        {"custom_id": 7, "prompt": "The"},
        "[1]",
        {"prompt": "The", "n": 10**8},
        {"custom_id": "g", "prompt": "The", "max_tokens": 2},
    ]
    output = tmp_path / "out.jsonl"
    source = written(lines, tmp_path / "in.jsonl")
    # As some editors on Windows write it.
    source.write_bytes(codecs.BOM_UTF8 + source.read_bytes().replace(b"\n", b"\r\n"))
    done = run(small_bundle, source, output)
    assert done.returncode == 1
    assert done.stderr.startswith("11 lines, 9 of them errors; ")
    found = answers(output)
    assert [line["line"] for line in found] == [1, *range(3, 13)]
    assert [line["custom_id"] for line in found] == ["a", None, *"bcdef", *[None] * 3, "g"]
    assert len(found[0]["response"]["body"]["choices"]) == 2
    params = [line["error"]["param"] for line in found[1:-1]]
    assert params == [None, "colour", "prompt", None, "url", "stream", "custom_id", None, "n"]
    assert all(line["response"] is None for line in found[1:-1])
    assert found[-1]["error"] is None


def test_the_output_of_another_input_is_left_alone(
    small_bundle: Path, session: AtomSession, tmp_path: Path
) -> None:
    output = tmp_path / "out.jsonl"
    run(small_bundle, written(LINES[:3], tmp_path / "in.jsonl"), output)
    before = output.read_bytes()
    done = run(small_bundle, written(LINES[5:9], tmp_path / "other.jsonl"), output)
    assert done.returncode == 1
    assert "line 1 does not answer the input" in done.stderr
    assert output.read_bytes() == before
    with pytest.raises(AtomEdgeError, match="is the input"):
        run_file(session, "atom", output, output, parallel=4)
    assert output.read_bytes() == before
    for place in (Path("/dev/zero"), tmp_path):
        for files in ((output, place), (place, output)):
            with pytest.raises(AtomEdgeError, match="is not a regular file"):
                run_file(session, "atom", *files, parallel=4)
    missing = run(small_bundle, tmp_path / "missing.jsonl", output)
    assert missing.returncode != 0
    assert "Traceback" not in missing.stderr
