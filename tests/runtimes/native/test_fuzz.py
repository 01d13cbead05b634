"""Bad models and bad inputs, under the address and undefined behaviour sanitizers."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from atom_edge.runtimes import native
from atom_edge.runtimes.native import build

# Operator and fuzzer alone; the rest of the library has no part in it.
SOURCES = ("operator", "loader", "loop", "request", "instruction_sets", "workspace", "isa_plain")
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
SECONDS = 8


def best_set() -> str:
    """The instruction set that the library would choose here."""
    path = native.library()
    assert path is not None
    function = ctypes.CDLL(str(path)).atom_edge_instruction_set
    function.restype = ctypes.c_char_p
    name: bytes = function()
    return name.decode()


@pytest.fixture(scope="module")
def fuzz(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Runs the fuzzer on an instruction set; it must come to its end."""
    folder = tmp_path_factory.mktemp("fuzz")
    compiler, best = build.find_compiler(), best_set()
    flags = [*build.COMPILE_FLAGS, "-O1", "-g", *SANITIZERS, f"-DATOM_EDGE_HAS_{best.upper()}=1"]
    includes = [f"-I{build.HEADERS}", f"-I{build.SOURCES}"]
    units = [(build.SOURCES / f"{name}.cpp", ()) for name in SOURCES]
    of_set = build.INSTRUCTION_SETS[compiler.machine][f"isa_{best}"]
    units += [
        (build.SOURCES / f"isa_{best}.cpp", of_set),
        (Path(__file__).with_name("fuzz.cpp"), ()),
    ]

    def compiled(unit: tuple[Path, tuple[str, ...]]) -> str:
        source, own = unit
        target = str(folder / f"{source.stem}.o")
        command = [*compiler.command, *flags, *own, *includes, "-c", str(source), "-o", target]
        subprocess.run(command, check=True)
        return target

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compiled, units))
    program = folder / "fuzz"
    subprocess.run([*compiler.command, *SANITIZERS, *objects, "-o", str(program)], check=True)

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
    counts = fuzz(best_set() if kind == "best" else kind)
    numbers = [int(word) for word in counts.replace(",", "").split() if word.isdigit()]
    models, bad_models, runs, spoiled, bad_runs = numbers
    assert 0 < bad_models < models
    assert 0 < bad_runs < runs
    assert 0 < spoiled < runs
