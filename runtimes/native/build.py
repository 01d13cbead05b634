"""Compile the C++ in `src/` to one shared library beside this file.

    python -m atom_edge.runtimes.native.build

compiles again what has changed. `pip install` does the same by way of `setup.py`, where a missing
compiler is no error: the library makes a bundle faster and serves programs in C, and Python runs
bundles without it.

The compiler is `$CXX`, else the first of c++, g++ and clang++ that is found; `$CXXFLAGS` follow
the flags below. GCC and Clang on Linux are tested; the flags for macOS and for Clang on Windows
are written down, and were never tried. A cross compiler makes the library of its target.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from atom_edge.errors import BuildError
from atom_edge.runtimes.native import is_apple, is_windows, library_name

HERE = Path(__file__).resolve().parent
SOURCES, HEADERS, OBJECTS = HERE / "src", HERE / "include", HERE / "objects"
# The names that the library shows; templates of the C++ library would be seen without it.
EXPORTS = SOURCES / "exports.map"

# A float is rounded where the source says, whatever the instruction set.
COMPILE_FLAGS = (
    *("-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off"),
    *("-fno-math-errno", "-Wall", "-Wextra"),
)
# Only kernels gain from -O3; the rest compiles in less time without it.
_NO_KERNEL = ("-O2",)
# Files of one instruction set, by name and machine: `isa_avx2.cpp` is compiled on x86_64, with
# these flags. The other files see ATOM_EDGE_HAS_AVX2 where it is; a compiler too old for the flags
# leaves it out. `isa_plain.cpp` needs none and is for every machine.
INSTRUCTION_SETS: dict[str, dict[str, tuple[str, ...]]] = {
    "x86_64": {
        "isa_avx512vnni": (
            *("-mavx2", "-mfma", "-mavx512f", "-mavx512bw"),
            *("-mavx512dq", "-mavx512vl", "-mavx512vnni"),
        ),
        "isa_avxvnni": ("-mavx2", "-mfma", "-mavxvnni"),
        "isa_avx2": ("-mavx2", "-mfma"),
    },
    "aarch64": {
        "isa_neon_dotprod": ("-march=armv8.2-a+dotprod",),
        "isa_neon": (),
    },
}
_PLAIN = "isa_plain"
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}


@dataclass(frozen=True)
class Compiler:
    """A C++ compiler and the machine for which it compiles.

    Attributes:
        command: how it is called.
        target: its target, such as `x86_64-linux-gnu`.
    """

    command: tuple[str, ...]
    target: str

    @property
    def machine(self) -> str:
        """The processor of the target, `x86_64` or `aarch64` for those with kernels."""
        name = self.target.partition("-")[0]
        return _MACHINES.get(name, name)

    @property
    def library_name(self) -> str:
        """The library's file name on the target."""
        return library_name(self.target)

    @property
    def link_flags(self) -> tuple[str, ...]:
        """Flags of the linker; the library needs nothing at run time but the system's own C."""
        if is_apple(self.target):
            return ("-dynamiclib",)
        if is_windows(self.target):
            return ("-shared", "-static")
        return (
            *("-shared", "-static-libstdc++", "-static-libgcc", "-pthread"),
            *("-Wl,--no-undefined", f"-Wl,--version-script={EXPORTS}", "-ldl"),
        )

    def accepts(self, flags: Sequence[str]) -> bool:
        """Whether it knows these flags."""
        probe = [*self.command, *flags, "-E", "-x", "c++", "-"]
        return subprocess.run(probe, input=b"", capture_output=True, check=False).returncode == 0


def find_compiler() -> Compiler:
    """The compiler to use.

    Raises:
        BuildError: if there is none, or it does not answer.
    """
    if named := os.environ.get("CXX"):
        command = tuple(shlex.split(named))
    else:
        found = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
        if found is None:
            raise BuildError("There is no C++ compiler (c++, g++ or clang++).")
        command = (found,)
    try:
        answer = subprocess.run(
            [*command, "-dumpmachine"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise BuildError(
            f"The C++ compiler {shlex.join(command)} does not run: {error}."
        ) from error
    return Compiler(command, answer.stdout.strip())


def build(folder: Path, objects: Path, compiler: Compiler | None = None) -> Path:
    """Compile and link; what has not changed since the last time is not compiled again.

    Args:
        folder: where the library goes.
        objects: where object files are kept.
        compiler: the one to use; `find_compiler` when None.

    Returns:
        the library.

    Raises:
        BuildError: if there is no compiler, or it fails; with what it said.
    """
    compiler = compiler or find_compiler()
    extra = tuple(shlex.split(os.environ.get("CXXFLAGS", "")))
    library = folder / compiler.library_name
    units = dict(_units(compiler))
    defines = tuple(f"-DATOM_EDGE_HAS_{name.upper()}=1" for name in _compiled_sets(units))
    common = (*compiler.command, *COMPILE_FLAGS, *defines, f"-I{HEADERS}", f"-I{SOURCES}")
    digest = hashlib.sha256(repr((compiler, common, extra)).encode()).hexdigest()[:12]
    kept = objects / f"{compiler.target}-{digest}"
    kept.mkdir(parents=True, exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)

    newest_header = max(
        path.stat().st_mtime_ns for path in (*_headers(SOURCES), *_headers(HEADERS))
    )

    def compiled(source: Path) -> Path:
        target = kept / f"{'-'.join(source.relative_to(SOURCES).with_suffix('').parts)}.o"
        newest = max(newest_header, source.stat().st_mtime_ns)
        if not target.exists() or target.stat().st_mtime_ns <= newest:
            partial = target.with_suffix(".partial")
            _run([*common, *units[source], *extra, "-c", str(source), "-o", str(partial)])
            partial.replace(target)
        return target

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        parts = list(pool.map(compiled, units))
    # A library that is loaded must not change under its user: a new file takes its name.
    partial = library.with_suffix(".partial")
    _run([*compiler.command, *map(str, parts), *compiler.link_flags, *extra, "-o", str(partial)])
    partial.replace(library)
    return library


def _units(compiler: Compiler) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """The sources for the compiler's target, and the flags of each beyond the common ones."""
    sets = INSTRUCTION_SETS.get(compiler.machine, {})
    for source in sorted(SOURCES.rglob("*.cpp")):
        if not source.stem.startswith("isa_"):
            yield source, _NO_KERNEL
        elif source.stem == _PLAIN:
            yield source, ()
        elif source.stem in sets and compiler.accepts(sets[source.stem]):
            yield source, sets[source.stem]


def _compiled_sets(units: dict[Path, tuple[str, ...]]) -> list[str]:
    return [path.stem.removeprefix("isa_") for path in units if path.stem.startswith("isa_")]


def _headers(folder: Path) -> list[Path]:
    return [folder, *folder.rglob("*.h")]


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(f"{shlex.join(command)} failed:\n{done.stderr.strip()}")
    if done.stderr:
        sys.stderr.write(done.stderr)


def main() -> None:
    """Build from the command line."""
    parser = argparse.ArgumentParser(prog="python -m atom_edge.runtimes.native.build")
    parser.add_argument("--output", type=Path, default=HERE, help="folder of the library")
    parser.add_argument("--objects", type=Path, default=OBJECTS, help="folder of objects")
    arguments = parser.parse_args()
    try:
        print(build(arguments.output, arguments.objects))
    except BuildError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
