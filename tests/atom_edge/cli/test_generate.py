"""`atom-edge generate` as scripts use it: real processes, real pipes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from atom_edge.runtimes.session import AtomSession

MAIN = [sys.executable, "-c", "from atom_edge.cli import main; main()"]


def run(
    *arguments: str | Path, stdin: bytes = b"", env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*MAIN, *map(str, arguments)], input=stdin, capture_output=True, timeout=120, env=env
    )


def test_the_continuation_alone_goes_to_stdout(small_bundle: Path, session: AtomSession) -> None:
    result = run("generate", "The water", "--bundle", small_bundle, "-n", 8, "--temperature", "0")
    expected = session.generate("The water", max_new_tokens=8, temperature=0).text
    assert result.returncode == 0
    assert result.stdout.decode() == expected + "\n"
    assert b"prompt 2 tokens at" in result.stderr
    assert b"ended by length" in result.stderr


def test_the_prompt_may_come_by_stdin_and_be_echoed(
    small_bundle: Path, session: AtomSession
) -> None:
    options = ("--bundle", small_bundle, "-n", 8, "--temperature", "0", "--echo")
    result = run("generate", *options, stdin="Où est\nla mer\n".encode())
    expected = session.generate("Où est\nla mer", max_new_tokens=8, temperature=0).text
    assert result.stdout.decode() == f"Où est\nla mer{expected}\n"


def test_json_is_one_object_with_everything(small_bundle: Path, session: AtomSession) -> None:
    options = ("--seed", 4, "--top-k", 50, "--logprobs", 2, "--json")
    result = run("generate", "The", "--bundle", small_bundle, "-n", 6, *options)
    reply = session.generate("The", max_new_tokens=6, seed=4, top_k=50, logprobs=2)
    fields = json.loads(result.stdout)
    assert fields["prompt"] == "The"
    assert fields["text"] == reply.text
    assert fields["token_ids"] == list(reply.token_ids)
    assert fields["finish_reason"] == "length"
    assert fields["prompt_tokens"] == 1
    assert fields["generation_tokens"] == 6
    assert fields["truncated_tokens"] == 0
    assert fields["prompt_tps"] > 0
    assert fields["generation_tps"] > 0
    assert reply.logprobs is not None
    assert len(fields["logprobs"]) == 6
    for shown, entry in zip(fields["logprobs"], reply.logprobs, strict=True):
        assert (shown["token_id"], shown["logprob"]) == (entry.token_id, entry.logprob)
        assert shown["token"] == session.tokenizer.decode([entry.token_id])
        assert [(top["token_id"], top["logprob"]) for top in shown["top"]] == list(entry.top)
        assert all(top["token"] for top in shown["top"])
    assert result.stderr == b""


def test_a_cache_file_is_made_then_used_and_one_of_another_model_is_refused(
    small_bundle: Path, tmp_path: Path
) -> None:
    options = ("--bundle", small_bundle, "-n", 8, "-t", "0", "--cache", tmp_path / "cache")
    first = run("generate", "The water cycle is", *options)
    second = run("generate", "The water cycle is", *options, "--json")
    assert first.returncode == second.returncode == 0
    assert json.loads(second.stdout)["text"] + "\n" == first.stdout.decode()
    refused = run("generate", "The water cycle is", "--cache", tmp_path / "cache")
    assert refused.returncode == 1
    assert b"was made by another graph" in refused.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_a_prompt_may_be_a_message(chat_bundle: Path, session: AtomSession) -> None:
    options = ("-n", 8, "--temperature", "0", "--chat", "--system", "Be brief.")
    result = run("generate", "Hello", "--bundle", chat_bundle, *options)
    text = "s: Be brief.\nu: Hello\na:"
    expected = session.generate(text, max_new_tokens=8, temperature=0).text
    assert result.stdout.decode() == expected + "\n"


def test_a_base_model_takes_no_message(small_bundle: Path) -> None:
    result = run("generate", "Hello", "--bundle", small_bundle, "--chat")
    assert result.returncode == 1
    assert b"has no chat template" in result.stderr
    assert run("generate", "Hello", "--system", "Be brief.").returncode == 2


def test_log_probabilities_are_shown_without_json(small_bundle: Path) -> None:
    result = run("generate", "The", "--bundle", small_bundle, "-n", 3, "-t", 0, "--logprobs", 2)
    *lines, _ = result.stderr.decode().splitlines()
    assert len(lines) == 3
    assert all(len(re.findall(r"-\d+\.\d{3}", line)) == 3 for line in lines)


def test_a_stop_text_may_name_a_new_line(small_bundle: Path, session: AtomSession) -> None:
    written = run("generate", "x", "--bundle", small_bundle, "--stop", r"a\x", "-n", 3)
    assert written.returncode == 1
    assert b"has a backslash that names no character" in written.stderr
    whole = session.generate("x", max_new_tokens=60, temperature=0).text
    named = whole[20].encode("unicode_escape").decode()
    stop = f"\\u{ord(whole[20]):04x}" if named == whole[20] else named
    options = ("--bundle", small_bundle, "-n", 60, "--temperature", "0", "--json")
    result = run("generate", "x", *options, "--stop", stop)
    assert json.loads(result.stdout)["text"] == whole[: whole.index(whole[20])]


def test_a_stop_text_may_be_given_several_times(small_bundle: Path, session: AtomSession) -> None:
    whole = session.generate("The", max_new_tokens=20, temperature=0).text
    options = ("--bundle", small_bundle, "-n", 20, "--temperature", "0", "--stop", "never")
    result = run("generate", "The", *options, "--stop", whole[9:13], "--json")
    assert json.loads(result.stdout)["text"] == whole[: whole.index(whole[9:13])]
    assert json.loads(result.stdout)["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["x", "--bundle", "nowhere"], 1, "error: There is no bundle nowhere"),
        (
            ["x", "--temperature", "-1"],
            1,
            "error: temperature is -1.0; it must be a number, 0 (greedy)",
        ),
        (["x", "--stop", ""], 1, "error: stop is"),
        (["x", "--provider", "tpu"], 2, "tpu"),
        (["x", "-n", "many"], 2, "max-new-tokens"),
    ],
)
def test_what_is_wrong_is_said_without_a_traceback(
    small_bundle: Path, arguments: list[str], code: int, message: str
) -> None:
    if "--bundle" not in arguments:
        arguments = [*arguments, "--bundle", str(small_bundle)]
    result = run("generate", *arguments)
    assert result.returncode == code
    assert message in result.stderr.decode()
    assert b"Traceback" not in result.stderr
    assert result.stdout == b""


def test_input_that_is_not_utf_8_is_wrong_usage(small_bundle: Path) -> None:
    result = run("generate", "--bundle", small_bundle, stdin=b"caf\xe9")
    assert result.returncode == 2
    assert b"not UTF-8 (byte 3)" in result.stderr


def test_a_reader_that_goes_away_is_no_error(small_bundle: Path) -> None:
    process = subprocess.Popen(
        [*MAIN, "generate", "The", "--bundle", str(small_bundle), "-n", "60"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    process.wait(timeout=60)


def test_an_output_that_lacks_characters_is_no_error(small_bundle: Path) -> None:
    env = {**os.environ, "PYTHONIOENCODING": "ascii"}
    result = run("generate", "日本", "--bundle", small_bundle, "-n", 3, "--echo", env=env)
    assert result.returncode == 0
    assert result.stdout.startswith(b"??")


def test_ctrl_c_exits_130_without_a_traceback(small_bundle: Path) -> None:
    slowly = (
        "import time; from atom_edge.runtimes.text import TextStream as T; push = T.push\n"
        "T.push = lambda self, token: (time.sleep(0.2), push(self, token))[1]\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", slowly + MAIN[-1], "generate", "a", "--bundle", str(small_bundle)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    _, notes = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in notes
