"""Whether this machine can run bundles, tried and not only looked up."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from atom_edge import __version__
from atom_edge.bundle import open_bundle
from atom_edge.errors import AtomEdgeError, MissingExtraError, ProviderError, how_to_install
from atom_edge.reference import bundle_path
from atom_edge.runtimes import native
from atom_edge.runtimes.cpu import int8_features
from atom_edge.runtimes.installation import (
    how_to_mend,
    import_onnxruntime,
    installed_flavours,
    mixture,
)
from atom_edge.runtimes.providers import (
    default_threads,
    missing_libraries,
    quietly,
    usable_cores,
)

Status = Literal["ok", "info", "warning", "error"]

OLDEST = (1, 26)
# Versions that pip may have kept and that are known to fail: version -> (machines, what happens).
KNOWN_BAD = {
    "1.21.0": (("aarch64", "arm64"), "it stops with an illegal instruction on a Raspberry Pi 4"),
    "1.29.0": (None, "it was withdrawn"),
}
# An ONNX model of one node, y = x + x, as the bytes of its file.
_PROBE = bytes.fromhex(
    "08083a350a0e0a01780a017812017922034164641201675a0f0a0178120a0a08080112040a020801"
    "620f0a0179120a0a08080112040a02080142040a001011"
)
# In every wheel; sends tensors to a service of its maker's and computes nothing here.
_REMOTE = "AzureExecutionProvider"
_SWITCHES = ("ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY")
_EXPORT_EXTRA = ("torch", "transformers", "onnx", "onnxscript", "safetensors")


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        name: what was looked at.
        status: "ok"; "info", for something optional that is not there; "warning", when something
            works less well; "error", when it does not work.
        detail: what was found.
        remedy: what to do; empty when it is ok.
    """

    name: str
    status: Status
    detail: str
    remedy: str = ""


def examine() -> Iterator[Finding]:
    """Look at everything that running a bundle needs, the most basic first."""
    yield _python()
    for package in ("numpy", "tokenizers"):
        yield _package(package)
    runtime = _onnxruntime()
    yield runtime
    if runtime.status != "error":
        yield from _providers()
    yield _cpu()
    yield _native_library()
    yield _threads()
    yield _telemetry()
    yield _export_extra()
    if runtime.status != "error":
        yield _reference_bundle()
    yield _cache()


def _python() -> Finding:
    version, machine = platform.python_version(), platform.machine()
    detail = f"{version} ({sys.implementation.name}), {platform.system()} {machine}"
    if sys.maxsize < 2**32:
        return Finding(
            "Python",
            "error",
            f"{detail}, 32-bit",
            "onnxruntime has no wheels for 32-bit systems: install a 64-bit system and Python.",
        )
    return Finding("Python", "ok", detail)


def _package(name: str) -> Finding:
    try:
        return Finding(name, "ok", importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, "error", "not installed", f"Run: pip install {name}")


def _onnxruntime() -> Finding:
    name, flavours = "onnxruntime", installed_flavours()
    extra = "cuda" if "onnxruntime-gpu" in flavours else "cpu"
    try:
        module = import_onnxruntime(extra)
    except (MissingExtraError, ProviderError) as error:
        return Finding(name, "error", str(error), how_to_mend(flavours, extra))
    version: str = module.__version__
    if mixed := mixture(flavours):
        return Finding(name, "error", mixed, how_to_mend(flavours, extra))
    flavour, listed = next(iter(flavours.items()), ("onnxruntime", version))
    detail = f"{flavour} {version}"
    # A wheel's metadata and its code differ in the local part alone, such as +cu130.
    if listed.partition("+")[0] != version.partition("+")[0]:
        return Finding(
            name,
            "error",
            f"{detail}, where pip has {listed}: the files of another one lie over it",
            how_to_mend(flavours, extra),
        )
    machines, fault = KNOWN_BAD.get(version, ((), ""))
    if fault and (machines is None or platform.machine().lower() in machines):
        upgrade = f"{how_to_install(extra)} --upgrade"
        return Finding(name, "error", f"{detail}: {fault}", upgrade)
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        return Finding(
            name,
            "error",
            f"{detail}, and bundles need {oldest} or later",
            f"{how_to_install(extra)} --upgrade",
        )
    return Finding(name, "ok", detail)


def _providers() -> Iterator[Finding]:
    onnxruntime = import_onnxruntime()
    for provider in onnxruntime.get_available_providers():
        if provider == _REMOTE:
            continue
        try:
            try_provider(provider)
        except Exception as error:  # onnxruntime's exceptions have no common base of their own
            yield _does_not_run(provider, str(error).strip().partition("\n")[0])
        else:
            yield Finding(_line_of(provider), "ok", "ran a graph")


def _does_not_run(provider: str, reason: str) -> Finding:
    line, detail = _line_of(provider), f"listed, and does not run: {reason}"
    if provider == "CPUExecutionProvider":
        return Finding(line, "error", detail, how_to_mend(installed_flavours(), "cpu"))
    if provider == "CUDAExecutionProvider":
        remedy = "Check the driver and libraries of CUDA; bundles run on the CPU meanwhile."
        return Finding(line, "warning", detail, remedy)
    return Finding(line, "ok", f"listed, does not run, and no bundle uses it: {reason}")


def _line_of(provider: str) -> str:
    return f"provider {provider.removesuffix('ExecutionProvider')}"


def runs(provider: str) -> bool:
    """Whether a provider, by onnxruntime's name of it, can be had here."""
    import onnxruntime

    if provider not in onnxruntime.get_available_providers():
        return False
    try:
        try_provider(provider)
    except Exception:  # onnxruntime's exceptions have no common base of their own
        return False
    return True


def try_provider(provider: str) -> None:
    """Run a graph of one node on a provider alone.

    Raises:
        ProviderError: if it cannot run there, or the sum is wrong.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # the exception says it; the log would say it again
    if provider != "CPUExecutionProvider":
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    with quietly() as printed:
        if provider == "CUDAExecutionProvider":
            onnxruntime.preload_dlls()
        try:
            session = onnxruntime.InferenceSession(_PROBE, options, providers=[provider])
        except Exception as error:
            raise ProviderError(missing_libraries(printed.getvalue()) or str(error)) from error
    (result,) = session.run(None, {"x": np.array([21.0], np.float32)})
    if result.tolist() != [42.0]:
        raise ProviderError(f"21 + 21 gave {result.tolist()}")


def _cpu() -> Finding:
    features = int8_features()
    if features is None:
        return Finding("CPU", "ok", "its features cannot be read here")
    listed = ", ".join(sorted(features)) or "no instructions for products of int8"
    return Finding("CPU", "ok", f"{platform.machine()} with {listed}")


def _native_library() -> Finding:
    name, path = "native library", native.library()
    if path is None:
        return Finding(
            name,
            "warning",
            "not built: bundles run on onnxruntime's own operators, which are slower, and "
            "programs in C and C++ cannot open them",
            native.HOW_TO_BUILD,
        )
    try:
        version = native.library_version(path)
    except ProviderError as error:
        return Finding(name, "error", str(error), native.HOW_TO_BUILD)
    if version != __version__:
        detail = f"{path} is of version {version}, and this is {__version__}"
        return Finding(name, "error", detail, native.HOW_TO_BUILD)
    return Finding(name, "ok", str(path))


def _threads() -> Finding:
    usable, present = usable_cores(), os.cpu_count() or 1
    default = default_threads()
    detail = f"{default} of {usable} usable cores"
    if default > 1:
        detail += ", and 1 for a small model"
    if usable < present:
        detail += f" ({present} in the machine)"
    return Finding("threads", "ok", detail)


def _telemetry() -> Finding:
    on = [name for name in _SWITCHES if os.environ.get(name, "").lower() not in ("1", "true")]
    if on:
        return Finding(
            "telemetry",
            "warning",
            f"the libraries may send some: {' and '.join(on)} is set to allow it",
            f"Run: unset {' '.join(on)}",
        )
    return Finding("telemetry", "ok", "off")


def _export_extra() -> Finding:
    name = "export extra"
    missing = []
    for package in _EXPORT_EXTRA:
        try:
            importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            missing.append(package)
    if missing:
        detail = f"without {', '.join(missing)}: bundles run here, and none can be made"
        return Finding(name, "info", detail, how_to_install("export"))
    return Finding(name, "ok", "installed")


def _reference_bundle() -> Finding:
    from atom_edge.runtimes.session import AtomSession

    path, name = bundle_path(), "reference bundle"
    if not path.is_dir():
        return Finding(name, "warning", f"{path} is missing", "Install atom-edge again.")
    try:
        session = AtomSession(open_bundle(path))
        tokens = session.generate("The", max_new_tokens=4, temperature=0).token_ids
    except AtomEdgeError as error:
        return Finding(name, "error", str(error), "Install atom-edge again.")
    return Finding(name, "ok", f"{path}: verified, and generated {len(tokens)} tokens")


def _cache() -> Finding:
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    offline = os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")
    detail = f"{home}{' (offline)' if offline else ''}"
    nearest: Path = next(folder for folder in (home, *home.parents) if folder.exists())
    if not os.access(nearest, os.W_OK):
        return Finding(
            "hub cache", "warning", f"{detail} cannot be written", "Set HF_HOME to another folder."
        )
    return Finding("hub cache", "ok", detail)
