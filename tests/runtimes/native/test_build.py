"""The library is built where a compiler is, and nothing breaks where none is."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from atom_edge import __version__
from atom_edge.errors import BuildError, ProviderError
from atom_edge.runtimes import native
from atom_edge.runtimes.doctor import examine
from atom_edge.runtimes.native import build as builder

SOURCE = Path(__file__).parents[3]
NATIVE = "atom_edge/runtimes/native"
QUICK = "-O0"  # what is built here computes nothing


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what a distribution is made from, without anything that was built before."""
    copy = tmp_path_factory.mktemp("source")
    unwanted = shutil.ignore_patterns("__pycache__", "objects", "*.so", "*.onnx")
    for name in ("atom_edge", "exporters", "runtimes"):
        shutil.copytree(SOURCE / name, copy / name, symlinks=True, ignore=unwanted)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(SOURCE / name, copy)
    return copy


def make_wheel(source: Path, folder: Path, **environment: str) -> Path:
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder)]
    subprocess.run(
        [*pip, "."], cwd=source, check=True, timeout=300, env={**os.environ, **environment}
    )
    (wheel,) = folder.glob("*.whl")
    return wheel


def test_a_wheel_is_of_its_platform_and_any_python(source: Path, tmp_path: Path) -> None:
    wheel = make_wheel(source, tmp_path, ATOM_EDGE_NATIVE="required", CXXFLAGS=QUICK)
    assert re.search(r"-py3-none-(linux|macosx|win)_\w+\.whl$", wheel.name)
    names = zipfile.ZipFile(wheel).namelist()
    for name in ("src/version.cpp", "include/atom_edge.h", native.library_name()):
        assert f"{NATIVE}/{name}" in names
    assert "atom_edge/training/synthetic/science.txt" in names
    assert not any("/prose/" in name for name in names)
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    assert native.library_version(tmp_path / "site" / NATIVE / native.library_name())


def test_without_a_compiler_the_install_works(source: Path, tmp_path: Path) -> None:
    missing = str(tmp_path / "no-compiler")
    wheel = make_wheel(source, tmp_path, CXX=missing)
    assert wheel.name.endswith("-py3-none-any.whl")
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    build = [sys.executable, "-m", "atom_edge.runtimes.native.build"]

    def run(command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            env={**os.environ, "PYTHONPATH": str(site), **environment},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
        )

    failed = run(build, CXX=missing)
    assert failed.returncode == 1
    assert failed.stderr.startswith(f"error: The C++ compiler {missing} does not run")
    # What doctor says to do, in the place where it says it.
    built = run(build, CXXFLAGS=QUICK)
    assert built.returncode == 0, built.stderr
    assert Path(built.stdout.strip()).parent == site / NATIVE


def test_a_missing_compiler_is_told(source: Path, tmp_path: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        make_wheel(source, tmp_path, CXX="no-compiler", ATOM_EDGE_NATIVE="required")


def test_doctor_says_what_is_lost(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def finding() -> tuple[str, str, str]:
        found = next(line for line in examine() if line.name == "native library")
        return found.status, found.detail, found.remedy

    assert finding() == ("ok", str(native.library()), "")
    monkeypatch.setattr(native, "_FOLDER", tmp_path)
    status, detail, remedy = finding()
    assert status == "warning"
    assert "slower" in detail
    assert "apt install g++" in remedy
    with pytest.raises(ProviderError, match=r"not built\. Install a C\+\+ compiler"):
        native.register(None)  # type: ignore[arg-type]  # it is not looked at
    (tmp_path / native.library_name()).write_bytes(b"not a library")
    assert finding()[0] == "error"


def test_what_has_not_changed_is_not_compiled_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources, headers = tmp_path / "src", tmp_path / "include"
    for file, text in {
        sources / "one.cpp": "extern int two;\nint one() { return two; }\n",
        sources / "inner" / "two.cpp": '#include "two.h"\nint two = TWO;\n',
        headers / "two.h": "#define TWO 2\n",
    }.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    monkeypatch.setattr(builder, "SOURCES", sources)
    monkeypatch.setattr(builder, "HEADERS", headers)

    def build() -> dict[str, int]:
        library = builder.build(tmp_path / "built", tmp_path / "objects")
        assert library == tmp_path / "built" / native.library_name()
        objects = (tmp_path / "objects").rglob("*.o")
        return {path.name: path.stat().st_mtime_ns for path in objects}

    first = build()
    assert set(first) == {"one.o", "inner-two.o"}
    assert build() == first
    (sources / "one.cpp").touch()
    second = build()
    assert {name for name in first if second[name] != first[name]} == {"one.o"}
    (headers / "two.h").touch()
    third = build()
    assert all(third[name] != second[name] for name in second)


def test_a_failing_compiler_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXXFLAGS", "--no-such-flag")
    with pytest.raises(BuildError, match="no-such-flag"):
        builder.build(tmp_path, tmp_path)


def test_the_library_shows_its_interface_alone() -> None:
    """A second C++ library in the process can neither take nor replace what is within."""
    library = native.library()
    assert library is not None
    assert native.library_version(library) == __version__
    symbols = subprocess.run(
        ["nm", "-D", "--defined-only", str(library)], capture_output=True, text=True, check=True
    )
    names = {line.split()[-1] for line in symbols.stdout.splitlines()}
    assert "atom_edge_version" in names
    assert {name for name in names if not name.startswith("atom_edge_")} <= {"RegisterCustomOps"}
    needed = subprocess.run(
        ["readelf", "-d", str(library)], capture_output=True, text=True, check=True
    )
    libraries = set(re.findall(r"NEEDED.*\[(\w[\w.+-]*)\]", needed.stdout))
    assert {re.split(r"[.-]", name)[0] for name in libraries} <= {
        *("libc", "libm", "libdl", "libpthread", "ld")
    }
