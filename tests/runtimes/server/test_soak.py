"""The soak of benchmarks/serving.py, in a few seconds."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "serving.py"


def test_it_bears_load_that_goes_away_and_serves_again_after_a_kill() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--soak", "0.05", "--clients", "2,80"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = re.findall(r"^\| \d.*$", done.stdout, re.MULTILINE)
    assert len(rows) == 4
    cancelled = [int(row.split("|")[4]) for row in rows]
    assert sum(cancelled) > 0, done.stdout
    assert "it served again after" in done.stdout
