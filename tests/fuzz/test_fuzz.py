"""A bounded attack in every run of the tests, the same for a commit."""

from __future__ import annotations

import subprocess
import sys

import pytest

SEED, COUNT, MINUTES = 13, 2_000, 2


@pytest.mark.parametrize("half", [0, 1])
def test_no_mutant_ends_in_anything_but_a_refusal_or_a_result(half: int) -> None:
    command = [sys.executable, "-m", "tests.fuzz", "--seed", str(SEED + half)]
    command += ["--count", str(COUNT // 2), "--minutes", str(MINUTES)]
    attack = subprocess.run(command, capture_output=True, text=True, timeout=600)
    print(attack.stdout)
    assert attack.returncode == 0, attack.stdout[-8000:] + attack.stderr[-2000:]
