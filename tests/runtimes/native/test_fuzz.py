"""Bad models and bad inputs, under the address and undefined behaviour sanitizers."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from atom_edge.runtimes.native import build
from tests.conftest import SANITIZERS, best_instruction_set

SECONDS = 8


@pytest.fixture(scope="module")
def fuzz(sanitized: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Runs the fuzzer on an instruction set; it must come to its end."""
    program = tmp_path_factory.mktemp("fuzz") / "fuzz"
    command = [*build.find_compiler().command, *build.COMPILE_FLAGS, "-O1", "-g", *SANITIZERS]
    command += [
        f"-I{build.HEADERS}",
        f"-I{build.SOURCES}",
        str(Path(__file__).with_name("fuzz.cpp")),
    ]
    command += map(str, sanitized.rglob("*.o"))
    subprocess.run([*command, "-pthread", "-ldl", "-o", str(program)], check=True)

    def run(instruction_set: str) -> str:
        seed = int.from_bytes(os.urandom(4))
        print("seed", seed)
        done = subprocess.run(
            [str(program), str(seed), str(SECONDS)],
            env={**os.environ, "ATOM_EDGE_ISA": instruction_set},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.mark.parametrize("kind", ["best", "plain"])
def test_bad_input_is_an_error_and_never_a_crash(fuzz: Callable[[str], str], kind: str) -> None:
    counts = fuzz(best_instruction_set() if kind == "best" else kind)
    numbers = [int(word) for word in counts.replace(",", "").split() if word.isdigit()]
    models, bad_models, runs, spoiled, bad_runs = numbers
    assert 0 < bad_models < models
    assert 0 < bad_runs < runs
    assert 0 < spoiled < runs
