"""CPU features as the system tells them."""

from __future__ import annotations

import ctypes
import platform
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from atom_edge.runtimes import cpu
from atom_edge.runtimes.cpu import int8_features


@pytest.mark.parametrize(
    ("cpuinfo", "features"),
    [
        ("processor : 0\nflags\t\t: fpu sse2 avx2 avx512_vnni\n", {"avx2", "avx512_vnni"}),
        ("flags : fpu sse2 avx\n", set()),
        ("vendor_id : none\n", None),
    ],
)
def test_linux_x86(
    cpuinfo: str,
    features: set[str] | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    monkeypatch.setattr(cpu, "_CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    assert int8_features() == features


def test_linux_x86_without_cpuinfo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "_CPUINFO", tmp_path / "none")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    assert int8_features() is None


class _Call:
    """A C function: a number of ours for each argument."""

    def __init__(self, values: dict[int, int]) -> None:
        self._values = values

    def __call__(self, argument: int) -> int:
        return self._values[argument]


@pytest.mark.parametrize(
    ("hwcap", "hwcap2", "features"),
    [
        (0x887, 0, set()),  # Cortex-A72
        (0x10B0F7 | 1 << 20, 0, {"dotprod"}),  # Cortex-A76
        (0x1FB3FFFF, 1 << 13, {"dotprod", "i8mm"}),  # Neoverse V1
    ],
)
def test_linux_arm(
    hwcap: int, hwcap2: int, features: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    library = SimpleNamespace(getauxval=_Call({16: hwcap, 26: hwcap2}))
    monkeypatch.setattr(ctypes, "CDLL", lambda _: library)
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert int8_features() == features


@pytest.mark.parametrize(
    ("machine", "number", "name"), [("AMD64", 40, "avx2"), ("ARM64", 43, "dotprod")]
)
def test_windows(machine: str, number: int, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(platform, "machine", lambda: machine)
    for present in (0, 1):
        library = SimpleNamespace(IsProcessorFeaturePresent=_Call({number: present}))
        monkeypatch.setattr(ctypes, "CDLL", lambda _, library=library: library)
        assert int8_features() == ({name} if present else set())


def test_apple(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    assert int8_features() == {"dotprod"}
