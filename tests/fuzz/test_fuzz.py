"""A bounded attack in every run of the tests, the same for a commit."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SEED, COUNT, MINUTES = 13, 2_000, 2


@pytest.fixture(scope="module")
def place(
    small_snapshot: Path,
    small_bundle: Path,
    small_int8_bundle: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """What `python -m tests.fuzz` makes for itself where it is given no place."""
    folder = tmp_path_factory.mktemp("place")
    shutil.copytree(small_snapshot, folder / "snapshot")
    shutil.copytree(small_bundle, folder / "bundles" / "float32")
    shutil.copytree(small_int8_bundle, folder / "bundles" / "int8")
    return folder


@pytest.mark.parametrize("half", [0, 1])
def test_no_mutant_ends_in_anything_but_a_refusal_or_a_result(half: int, place: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "tests.fuzz",
        "--place",
        str(place),
        "--seed",
        str(SEED + half),
    ]
    command += ["--count", str(COUNT // 2), "--minutes", str(MINUTES)]
    attack = subprocess.run(command, capture_output=True, text=True, timeout=600)
    print(attack.stdout)
    assert attack.returncode == 0, attack.stdout[-8000:] + attack.stderr[-2000:]
