"""Emulated ARM boards with the package installed on them, from its wheel."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

SOURCE = Path(__file__).parents[2]
FOLDER = Path(os.environ.get("ATOM_EDGE_ARM", "~/.cache/atom-edge/arm")).expanduser()
ROOT = FOLDER / "root"


@pytest.fixture(scope="session")
def arm_system() -> Path:
    """The emulated system with a cross compiler beside it."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    setup = SOURCE / ".ci" / "arm-setup"
    subprocess.run([setup], env={**os.environ, "PATH": path}, check=True, timeout=600)
    return ROOT


@pytest.fixture(scope="session")
def wheel(arm_system: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel for aarch64, cross-compiled from a copy of the source alone."""
    source = tmp_path_factory.mktemp("source")
    for name in ("atom_edge", "exporters", "runtimes"):
        unwanted = shutil.ignore_patterns("__pycache__", "objects", "*.so")
        shutil.copytree(SOURCE / name, source / name, symlinks=True, ignore=unwanted)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(SOURCE / name, source)
    pip = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--wheel-dir",
        "wheels",
        ".",
    ]
    cross = {
        "CXX": "aarch64-linux-gnu-g++",
        "_PYTHON_HOST_PLATFORM": "linux-aarch64",
        "ATOM_EDGE_NATIVE": "required",
    }
    subprocess.run(pip, cwd=source, check=True, timeout=300, env={**os.environ, **cross})
    (built,) = (source / "wheels").glob("*.whl")
    return built


@pytest.fixture(scope="session")
def package(arm_system: Path, wheel: Path) -> Iterator[Path]:
    """The installed package, a folder within the emulated system."""
    with tempfile.TemporaryDirectory(dir=arm_system, prefix="package.") as folder:
        zipfile.ZipFile(wheel).extractall(folder)
        yield Path(folder)


@dataclass(frozen=True)
class Board:
    """An emulated CPU that runs the installed package."""

    cpu: str
    package: Path

    def command(self, *arguments: object) -> list[str]:
        """The command line of its Python. /proc and /sys are empty: they are another machine's."""
        python = ["/usr/bin/qemu-aarch64-static", "-cpu", self.cpu, "/usr/bin/python3"]
        return ["chroot", str(ROOT), *python, *map(str, arguments)]

    @property
    def environment(self) -> dict[str, str]:
        """Its environment: nothing of ours but the terminal."""
        return {
            "PYTHONPATH": f"/{self.package.name}:/site",
            "HOME": "/tmp",
            "PATH": "/usr/sbin:/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "TERM": "xterm",
            "NO_COLOR": "1",
        }

    def run(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        """Run its Python to the end."""
        return subprocess.run(
            self.command(*arguments),
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=300,
        )

    def evaluate(self, code: str) -> Any:
        """Run code that prints one JSON value, and read it."""
        result = self.run("-W", "error", "-c", code)
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)


@pytest.fixture(scope="session", params=["cortex-a72", "cortex-a76"])
def board(request: pytest.FixtureRequest, package: Path) -> Board:
    """A Raspberry Pi 4's CPU, and a Raspberry Pi 5's."""
    return Board(request.param, package)
