"""Steps of long work: the time that is left, and how a terminal shows it."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path

import pexpect
import pytest

from atom_edge.cli.steps import Pace, show_steps

PLAN = (("open", 1.0), ("make", 2.0), ("check", 5.0))


def test_what_is_left_is_in_proportion_to_what_was_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    pace = Pace(PLAN)
    pace.begin("open")
    assert pace.left is None
    now += 3
    pace.begin("make")
    assert (pace.done, pace.total) == (1, 8)
    assert pace.left == pytest.approx(21)
    now += 1
    assert pace.left == pytest.approx(20)
    pace.begin("make again")  # not planned
    assert pace.left == pytest.approx(20)
    now += 8
    pace.begin("check")
    assert pace.left == pytest.approx(20)
    now += 60
    pace.begin("open")  # behind
    assert (pace.done, pace.left) == (3, 0)


def test_a_terminal_has_one_bar(tmp_path: Path) -> None:
    script = tmp_path / "work.py"
    script.write_text(
        "import time\n"
        "from atom_edge.cli.steps import show_steps\n"
        f"with show_steps(plan={PLAN!r}) as step:\n"
        "    for name in ('open', 'make', 'check'):\n"
        "        step(name)\n"
        "        time.sleep(0.5)\n"
    )
    child = pexpect.spawn(
        sys.executable,
        [str(script)],
        encoding="utf-8",
        timeout=30,
        dimensions=(24, 100),
        env={"TERM": "xterm", "PATH": "", "PYTHONPATH": ":".join(sys.path)},
    )
    child.expect(pexpect.EOF)
    shown = child.before or ""
    assert re.search(r"check.*━.*\d:\d\d left", shown)
    for name in ("open", "make", "check"):
        assert re.search(rf"done.*{name}.*0\.\d s", shown)


def test_elsewhere_each_step_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    with show_steps(plan=PLAN) as step:
        step("open")
        step("make")
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[:2] for line in lines] == [["done", "open"], ["done", "make"]]
    with show_steps(quiet=True, plan=PLAN) as step:
        step("open")
    assert capsys.readouterr().err == ""
