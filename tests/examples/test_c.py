"""The programs in C and C++: built as their readers build them, and run; none leaks."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from c_interface import make_bundle, onnxruntime_library

from atom_edge.reference import checkpoint_path
from atom_edge.runtimes import native
from atom_edge.runtimes.session import AtomSession
from tests.conftest import SANITIZERS

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
OPTIONS = {"c": {"seed": 1, "max_new_tokens": 64}, "cpp": {"temperature": 0}}
GENERATIONS = int(os.environ.get("ATOM_EDGE_GENERATIONS", "2000"))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(checkpoint_path(), tmp_path_factory.mktemp("c") / "bundle")


def run(*command: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        list(map(str, command)),
        env={**os.environ, "ORT_DISABLE_TELEMETRY": "1", **environment},
        capture_output=True,
        text=True,
        timeout=600,
    )


def where(question: str) -> str:
    found = run(sys.executable, "-m", "atom_edge.runtimes.native", f"--{question}")
    assert found.returncode == 0, found.stderr
    return found.stdout.strip()


def compiled(source: Path, program: Path, library: Path, *flags: str) -> Path:
    command = ("cc", "-Wall", "-Wextra", "-Werror", "-g", f"-I{where('include')}", *flags)
    built = run(*command, source, "-o", program, library, f"-Wl,-rpath,{library.parent}")
    assert built.returncode == 0, built.stderr
    return program


@pytest.mark.parametrize("language", OPTIONS)
def test_an_example_streams_the_text_of_python(language: str, bundle: Path, tmp_path: Path) -> None:
    source = ROOT / "examples" / language
    assert len((source / f"stream.{language}").read_text().splitlines()) < 40
    for command in (
        ("cmake", "-S", source, "-B", tmp_path, f"-Datom_edge_DIR={where('cmake')}"),
        ("cmake", "--build", tmp_path),
    ):
        built = run(*command)
        assert built.returncode == 0, built.stdout + built.stderr
    stream, library = tmp_path / "stream", onnxruntime_library()
    python = AtomSession.from_pretrained(bundle)
    for prompt in ("The water cycle is", ""):
        streamed = run(stream, bundle, library, prompt)
        assert (streamed.returncode, streamed.stderr) == (0, "")
        assert streamed.stdout == python.generate(prompt, **OPTIONS[language]).text
    failed = run(stream, tmp_path, library, "The")
    assert failed.returncode == 1
    assert failed.stderr == f"error: {tmp_path} is not a bundle: it has no manifest.json.\n"
    assert run(stream).returncode == 2


def test_generations_hold_no_memory(bundle: Path, tmp_path: Path) -> None:
    library = native.library()
    assert library is not None
    program = compiled(HERE / "endurance.c", tmp_path / "endurance", library)
    done = run(program, bundle, onnxruntime_library(), GENERATIONS)
    assert done.returncode == 0, done.stderr
    early, late = map(int, done.stdout.split())
    assert late - early < 1024


def test_under_sanitizers(sanitized: Path, bundle: Path, tmp_path: Path) -> None:
    library = sanitized / native.library_name()
    program = compiled(HERE / "endurance.c", tmp_path / "endurance", library, *SANITIZERS)
    leaks = "detect_leaks=1:detect_stack_use_after_return=1"
    done = run(program, bundle, onnxruntime_library(), 200, ASAN_OPTIONS=leaks)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"\d+ \d+\n", done.stdout)
    assert done.stderr == ""


def test_under_valgrind(bundle: Path, tmp_path: Path) -> None:
    library = native.library()
    assert library is not None
    program = compiled(HERE / "endurance.c", tmp_path / "endurance", library)
    done = run(
        *("valgrind", "--quiet", "--error-exitcode=9", f"--suppressions={HERE}/valgrind.supp"),
        *("--leak-check=full", "--show-leak-kinds=definite", "--errors-for-leak-kinds=definite"),
        *(program, bundle, onnxruntime_library(), 22),
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
