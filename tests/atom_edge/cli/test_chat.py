"""`atom-edge chat` in a real terminal, and without one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

from atom_edge.cli import chat_commands
from atom_edge.cli.terminal import ReplyWriter
from atom_edge.runtimes.session import AtomSession

MAIN = "from atom_edge.cli import main; main()"
PROMPT = "> "


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


def start(
    bundle: Path, state: Path, *options: str, before: str = "", **environment: str
) -> pexpect.spawn:
    inherited = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    return pexpect.spawn(
        sys.executable,
        ["-c", before + MAIN, "chat", str(bundle), *options],
        env={**inherited, "XDG_STATE_HOME": str(state), "TERM": "xterm", **environment},
        encoding="utf-8",
        dimensions=(24, 80),
        timeout=60,
    )


@pytest.fixture
def terminal(small_bundle: Path, state: Path) -> Iterator[pexpect.spawn]:
    process = start(small_bundle, state, "--temperature", "0", "-n", "12", NO_COLOR="1")
    process.expect_exact(PROMPT)
    yield process
    process.close(force=True)


def say(terminal: pexpect.spawn, line: str) -> str:
    """Type a line; return what is shown until the next prompt."""
    terminal.sendline(line)
    terminal.expect(r"\r\n(\x1b\[\?2004h)?" + PROMPT)  # after bracketed paste is asked for
    return re.sub(r"\x1b\[\??[0-9;]*[a-zA-Z]", "", terminal.before)


def test_a_base_model_says_so_and_continues_text(
    terminal: pexpect.spawn, session: AtomSession
) -> None:
    assert "a base model. It does not answer, it continues your text" in terminal.before
    reply = session.generate(
        "The water", temperature=0, max_new_tokens=12, repetition_penalty=1.1
    ).text
    shown = say(terminal, "The water")
    assert shown.startswith("The water\r\n")
    assert shown.removeprefix("The water\r\n").split() == reply.translate(CONTROLS).split()


CONTROLS = dict.fromkeys((*range(9), *range(11, 32), *range(127, 160)), "�")


def test_commands(terminal: pexpect.spawn, tmp_path: Path) -> None:
    assert "/save [FILE]" in say(terminal, "/help")
    assert "There is no reply yet." in say(terminal, "/stats")
    say(terminal, "The water")
    stats = say(terminal, "/stats")
    assert re.search(r"reply +12 tokens", stats)
    assert re.search(r"context +14 of 128", stats)
    assert "temperature         0.0" in say(terminal, "/set")
    assert "max_new_tokens = 3" in say(terminal, "/set max_new_tokens 3")
    assert "top_p is 2.0; it must be" in say(terminal, "/set top_p 2")
    assert "seed cannot be 'x'." in say(terminal, "/set seed x")
    assert "stop = '\\n\\n'" in say(terminal, r"/set stop \n\n")
    assert "There is no option 'colour'" in say(terminal, "/set colour 1")
    say(terminal, "again")
    assert re.search(r"reply +3 tokens", say(terminal, "/stats"))
    saved = tmp_path / "talk.txt"
    assert "Saved to" in say(terminal, f"/save {saved}")
    assert saved.read_text().startswith("The water")
    assert "\n\nagain" in saved.read_text()
    assert "is there already. Nothing was saved" in say(terminal, f"/save {saved}")
    assert "forgotten" in say(terminal, "/reset")
    assert "There is no reply yet." in say(terminal, "/stats")
    assert "There is no command /sing" in say(terminal, "/sing")
    terminal.sendline("/exit")
    terminal.expect(pexpect.EOF)
    terminal.wait()
    assert terminal.exitstatus == 0


def test_ctrl_c_stops_the_reply_and_ctrl_d_leaves(small_bundle: Path, state: Path) -> None:
    slowly = (
        "import time; from atom_edge.runtimes.text import TextStream as T; push = T.push\n"
        "T.push = lambda self, token: (time.sleep(0.1), push(self, token))[1]\n"
    )
    terminal = start(small_bundle, state, "-n", "80", before=slowly, NO_COLOR="1")
    terminal.expect_exact(PROMPT)
    terminal.sendline("The water")
    terminal.expect(r"The water\r\n[^\r]*\w")
    terminal.sendintr()
    terminal.expect_exact("(stopped)")
    terminal.expect_exact(PROMPT)
    tokens = re.search(r"reply +(\d+) tokens", say(terminal, "/stats"))
    assert tokens is not None
    assert 0 < int(tokens[1]) < 80
    terminal.send("half a line")
    # CPython's readline misses a signal that comes between two keys, until the next one.
    terminal.expect_exact("half a line")
    terminal.sendintr()
    terminal.expect_exact("Ctrl+D or /exit leaves.")
    terminal.expect_exact(PROMPT)
    terminal.sendeof()
    terminal.expect(pexpect.EOF)
    terminal.wait()
    assert terminal.exitstatus == 0
    assert "Traceback" not in terminal.before


def test_lines_are_kept_and_come_back_with_the_arrow_key(
    terminal: pexpect.spawn, small_bundle: Path, state: Path
) -> None:
    say(terminal, "The water")
    terminal.sendeof()
    terminal.expect(pexpect.EOF)
    history = state / "atom-edge" / "chat_history"
    assert "The water" in history.read_text()
    assert history.stat().st_mode & 0o077 == 0
    again = start(small_bundle, state)
    again.expect_exact(PROMPT)
    again.send("\x1b[A")
    again.expect_exact("The water")
    again.close(force=True)


def test_one_message_of_several_lines(terminal: pexpect.spawn, tmp_path: Path) -> None:
    terminal.sendline('"""first')
    terminal.expect_exact("... ")
    terminal.sendline("second")
    terminal.expect_exact("... ")
    say(terminal, 'third"""')
    terminal.sendline("fourth\\")
    terminal.expect_exact("... ")
    say(terminal, "fifth")
    saved = tmp_path / "talk.txt"
    say(terminal, f"/save {saved}")
    assert saved.read_text().startswith("first\nsecond\nthird")
    assert "\n\nfourth\nfifth" in saved.read_text()


def test_colours_only_where_they_are_welcome(small_bundle: Path, state: Path) -> None:
    styles = {}
    for name, changes in {"plain": {}, "none": {"NO_COLOR": "1"}, "dumb": {"TERM": "dumb"}}.items():
        process = start(small_bundle, state, **changes)
        process.expect(PROMPT)
        styles[name] = re.findall(r"\x1b\[[0-9;]*m", process.before)
        process.close(force=True)
    assert styles["plain"]
    assert styles["none"] == styles["dumb"] == []


def test_without_a_terminal_only_replies_go_to_stdout(
    small_bundle: Path, session: AtomSession
) -> None:
    result = subprocess.run(
        [sys.executable, "-c", MAIN, "chat", str(small_bundle), "--temperature", "0", "-n", "5"],
        input="The water\n/stats\n/set top_p 7\nlast line without an end",
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0
    options = {"temperature": 0, "max_new_tokens": 5, "repetition_penalty": 1.1}
    first = session.generate("The water", **options).text
    second = session.generate(f"The water{first}\n\nlast line without an end", **options).text
    assert result.stdout == f"{first}\n{second}\n".translate(CONTROLS)
    assert "reply         5 tokens" in result.stderr
    assert "top_p is 7.0" in result.stderr
    assert "\x1b" not in result.stdout + result.stderr


class TestReplyWriter:
    @pytest.fixture
    def written(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        pieces: list[str] = []
        monkeypatch.setattr("atom_edge.cli.terminal.write", pieces.append)
        monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
        monkeypatch.setenv("COLUMNS", "20")
        return pieces

    @pytest.mark.parametrize("cut", [1, 3, 7, 1000])
    def test_words_are_not_broken(self, written: list[str], cut: int) -> None:
        text = " The water cycle is the path of all water.\nIt goes 日本日本日本 round and round"
        writer = ReplyWriter()
        for start in range(0, len(text), cut):
            writer.push(text[start : start + cut])
        writer.close()
        assert "".join(written) == (
            "The water cycle is\nthe path of all\nwater.\nIt goes 日本日本日本\nround and round\n\n"
        )

    def test_indentation_is_kept(self, written: list[str]) -> None:
        writer = ReplyWriter()
        writer.push("def f():\n    return  1\n\n")
        writer.close()
        assert "".join(written) == "def f():\n    return  1\n\n\n\n"

    def test_control_characters_are_harmless(self, written: list[str]) -> None:
        writer = ReplyWriter()
        writer.push("a\x1b[2Jb\x9b\x07\r c")
        writer.close()
        assert "".join(written) == "a\ufffd[2Jb\ufffd\ufffd\ufffd c\n\n"

    def test_space_before_the_first_word_is_dropped(self, written: list[str]) -> None:
        writer = ReplyWriter()
        for text in (" ", "\n\n", "", " The", " end"):
            writer.push(text)
        writer.close()
        assert "".join(written) == "The end\n\n"


def test_the_help_fits_80_columns() -> None:
    assert max(map(len, chat_commands.help_text().splitlines())) < 80


def test_a_pasted_block_is_one_message(terminal: pexpect.spawn, tmp_path: Path) -> None:
    terminal.send("\x1b[200~/usr is a folder.\nIt is\n\nlarge.\n\x1b[201~")
    say(terminal, "")
    saved = tmp_path / "talk.txt"
    say(terminal, f"/save {saved}")
    assert saved.read_text().startswith("/usr is a folder.\nIt is\n\nlarge.")
    assert "reply     12 tokens".replace(" ", "") in say(terminal, "/stats").replace(" ", "")


def test_a_message_may_begin_with_a_slash(terminal: pexpect.spawn, tmp_path: Path) -> None:
    say(terminal, "//etc holds")
    say(terminal, f"/save {tmp_path}/talk.txt")
    assert (tmp_path / "talk.txt").read_text().startswith("/etc holds")
    assert "//sing sends the line as text" in say(terminal, "/sing")


def test_undo_and_retry(terminal: pexpect.spawn, tmp_path: Path) -> None:
    assert "Nothing was said yet." in say(terminal, "/undo")
    assert "Nothing was said yet." in say(terminal, "/retry")
    first = say(terminal, "The water").split()[2:]
    assert say(terminal, "/retry").split()[1:] == first
    assert "are forgotten" in say(terminal, "/undo")
    assert "Nothing was said yet." in say(terminal, "/undo")


def test_a_saved_text_is_loaded(terminal: pexpect.spawn, tmp_path: Path) -> None:
    for name in ("talk.txt", "talk.json"):
        say(terminal, "The water")
        say(terminal, f"/save {tmp_path}/{name}")
        shown = say(terminal, "And").split()
        say(terminal, "/reset")
        assert "Loaded" in say(terminal, f"/load {tmp_path}/{name}")
        assert say(terminal, "And").split() == shown
        say(terminal, "/reset")
    (tmp_path / "bad.json").write_text('[{"role": "user"}]')
    assert "required field content" in say(terminal, f"/load {tmp_path}/bad.json")
    (tmp_path / "bad.json").write_text('[{"role": "dog", "content": "woof"}]')
    assert "There is no role 'dog'" in say(terminal, f"/load {tmp_path}/bad.json")
    assert "cannot be read" in say(terminal, f"/load {tmp_path}/none")
    assert "is no path" in say(terminal, "/load ~nosuchuser/x")


def test_the_tab_key_completes(terminal: pexpect.spawn, tmp_path: Path) -> None:
    terminal.send("/sta\t")
    assert "There is no reply yet." in say(terminal, "")
    terminal.send("/set temp\t")
    assert "temperature = 0.5" in say(terminal, " 0.5")
    (tmp_path / "atalk.txt").write_text("The water")
    terminal.send(f"/load {tmp_path}/at\t")
    assert "Loaded" in say(terminal, "")


def test_an_error_and_undecodable_input_do_not_end_the_conversation(
    small_bundle: Path, session: AtomSession
) -> None:
    result = subprocess.run(
        [sys.executable, "-c", MAIN, "chat", str(small_bundle), "--temperature", "0", "-n", "5"],
        input=b"\xff\xfe\n/system you are a pirate\n/retry\nThe water\n",
        capture_output=True,
        timeout=120,
    )
    assert result.returncode == 0
    options = {"temperature": 0, "max_new_tokens": 5, "repetition_penalty": 1.1}
    reply = session.generate("The water", **options).text
    assert result.stdout.decode() == f"{reply}\n".translate(CONTROLS)
    notes = result.stderr.decode()
    assert "This line is not text in UTF-8 (byte 0)" in notes
    assert "error: A base model has no system message" in notes
    assert "error: Nothing was said yet." in notes
