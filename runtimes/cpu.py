"""What the CPU can do that makes products of int8 fast."""

from __future__ import annotations

import ctypes
import platform
import re
import sys
from pathlib import Path

# Linux's <asm/hwcap.h> of arm64, as `getauxval` gives it: it needs no /proc.
_AT_HWCAP, _AT_HWCAP2 = 16, 26
_HWCAP_DOT_PRODUCT, _HWCAP2_I8MM = 1 << 20, 1 << 13
# Windows's IsProcessorFeaturePresent.
_PF_AVX2, _PF_ARM_DOT_PRODUCT = 40, 43
_X86_FEATURES = ("avx2", "avx_vnni", "avx512_vnni")
_CPUINFO = Path("/proc/cpuinfo")


def int8_features() -> frozenset[str] | None:
    """Those of avx2, avx_vnni, avx512_vnni, dotprod and i8mm that the CPU has; None if unknown."""
    arm = platform.machine().lower() in ("aarch64", "arm64")
    if sys.platform == "darwin":
        # Every Apple CPU that onnxruntime has a wheel for has the dot product.
        return frozenset({"dotprod"}) if arm else None
    if sys.platform == "win32":
        return _windows_features(arm)
    return _linux_arm_features() if arm else _linux_x86_features(_CPUINFO)


def cpu_name() -> str:
    """What the maker calls the CPU, or its architecture where the system does not say."""
    try:
        found = re.search(
            r"^model name\s*:(.*)$", _CPUINFO.read_text(encoding="utf-8"), re.MULTILINE
        )
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()


def _windows_features(arm: bool) -> frozenset[str]:
    number, name = (_PF_ARM_DOT_PRODUCT, "dotprod") if arm else (_PF_AVX2, "avx2")
    present = ctypes.CDLL("kernel32").IsProcessorFeaturePresent(number)
    return frozenset({name}) if present else frozenset()


def _linux_arm_features() -> frozenset[str] | None:
    try:
        getauxval = ctypes.CDLL(None).getauxval
    except (OSError, AttributeError):
        return None
    getauxval.restype = ctypes.c_ulong
    getauxval.argtypes = [ctypes.c_ulong]
    found = set()
    if getauxval(_AT_HWCAP) & _HWCAP_DOT_PRODUCT:
        found.add("dotprod")
    if getauxval(_AT_HWCAP2) & _HWCAP2_I8MM:
        found.add("i8mm")
    return frozenset(found)


def _linux_x86_features(cpuinfo: Path) -> frozenset[str] | None:
    try:
        flags = re.search(r"^flags\s*:(.*)$", cpuinfo.read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        return None
    return None if flags is None else frozenset(flags[1].split()) & frozenset(_X86_FEATURES)
