"""The doctor finds what is wrong, and tries what it calls right."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import onnx
import onnxruntime
import pytest

from atom_edge.errors import MissingExtraError, ProviderError
from atom_edge.runtimes import doctor, installation
from atom_edge.runtimes.doctor import Finding, examine, try_provider
from atom_edge.runtimes.installation import import_onnxruntime


def found(name: str) -> Finding:
    return next(finding for finding in examine() if finding.name == name)


def test_a_whole_installation_has_no_errors() -> None:
    findings = list(examine())
    assert [finding for finding in findings if finding.status == "error"] == []
    assert found("onnxruntime").detail == f"onnxruntime {onnxruntime.__version__}"
    assert found("provider CPU").detail == "ran a graph"
    assert found("telemetry").detail == "off"
    assert all(finding.remedy for finding in findings if finding.status != "ok")


def test_the_probe_is_a_valid_model() -> None:
    onnx.checker.check_model(onnx.load_from_string(doctor._PROBE), full_check=True)


def flavours(monkeypatch: pytest.MonkeyPatch, **versions: str) -> None:
    """Pretend that these distributions are installed, by name with _ for -, and no others."""
    named = {name.replace("_", "-"): version for name, version in versions.items()}
    monkeypatch.setattr(doctor, "installed_flavours", lambda: named)


def test_two_flavours_in_one_folder_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    flavours(monkeypatch, onnxruntime="1.31.1", onnxruntime_gpu="1.31.1")
    finding = found("onnxruntime")
    assert finding.status == "error"
    assert "onnxruntime 1.31.1 and onnxruntime-gpu 1.31.1" in finding.detail
    assert "pip uninstall -y onnxruntime onnxruntime-gpu" in finding.remedy
    assert "pip install '.[cuda]'" in finding.remedy


def test_a_flavour_in_another_folder_is_not_in_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    information = tmp_path / "onnxruntime_gpu-1.31.1.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Name: onnxruntime-gpu\nVersion: 1.31.1\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert installation.installed_flavours() == {"onnxruntime": onnxruntime.__version__}
    assert found("onnxruntime").status == "ok"
    beside = Path(onnxruntime.__file__).parents[1]
    monkeypatch.setattr(installation, "_imported_from", lambda: [beside, tmp_path])
    assert set(installation.installed_flavours()) == {"onnxruntime", "onnxruntime-gpu"}


def test_files_of_another_version_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    flavours(monkeypatch, onnxruntime="1.26.0")
    assert found("onnxruntime").status == "error"
    assert "where pip has 1.26.0" in found("onnxruntime").detail


@pytest.mark.parametrize(
    ("version", "says"),
    [("1.21.0", "illegal instruction"), ("1.29.0", "withdrawn"), ("1.25.2", "need 1.26 or later")],
)
def test_versions_that_fail_are_errors(
    version: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    flavours(monkeypatch, onnxruntime=version)
    monkeypatch.setattr(onnxruntime, "__version__", version)
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert found("onnxruntime").status == "error"
    assert says in found("onnxruntime").detail
    assert "--upgrade" in found("onnxruntime").remedy


def test_a_listed_provider_that_does_not_run_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    """This wheel has no CUDA; one that has it and finds no driver fails alike."""
    monkeypatch.setattr(
        onnxruntime,
        "get_available_providers",
        lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"],
    )
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None)
    with pytest.warns(UserWarning, match="CUDAExecutionProvider"):
        finding = found("provider CUDA")
    assert finding.status == "warning"
    assert "does not run" in finding.detail


def test_a_provider_that_no_bundle_uses_need_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """onnxruntime-gpu lists TensorRT where its libraries are not."""
    monkeypatch.setattr(
        onnxruntime,
        "get_available_providers",
        lambda: ["TensorrtExecutionProvider", "CPUExecutionProvider"],
    )
    with pytest.warns(UserWarning, match="TensorrtExecutionProvider"):
        finding = found("provider Tensorrt")
    assert finding.status == "ok"
    assert "does not run, and no bundle uses it" in finding.detail


def test_a_provider_put_in_another_s_place_is_an_error() -> None:
    with (
        pytest.warns(UserWarning, match="CUDAExecutionProvider"),
        pytest.raises(Exception, match="fallback to CPU EP has been explicitly disabled"),
    ):
        try_provider("CUDAExecutionProvider")


def test_telemetry_that_is_on_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    assert found("telemetry").status == "warning"
    assert "ORT_DISABLE_TELEMETRY" in found("telemetry").remedy


def test_a_cache_that_cannot_be_written_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", "/proc/none")
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).startswith("/proc"))
    assert found("hub cache").status == "warning"


def test_a_gutted_onnxruntime_says_how_to_mend_it(tmp_path: Path) -> None:
    """What is left when one of two flavours is uninstalled: a folder without its code."""
    (tmp_path / "onnxruntime" / "capi").mkdir(parents=True)
    result = subprocess.run(
        [sys.executable, "-m", "atom_edge.cli", "doctor", "--json"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    # A folder without __init__.py yields to a whole package elsewhere, so that it needs one.
    assert json.loads(result.stdout)["ok"] is True
    (tmp_path / "onnxruntime" / "__init__.py").touch()
    result = subprocess.run(
        [sys.executable, "-m", "atom_edge.cli", "doctor", "--json"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 1
    report = json.loads(result.stdout)
    assert report["ok"] is False
    finding = next(line for line in report["findings"] if line["name"] == "onnxruntime")
    assert "lacks its files" in finding["detail"]
    assert "pip uninstall -y onnxruntime" in finding["remedy"]


def test_an_onnxruntime_that_cannot_be_imported_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ProviderError, match=r"onnxruntime \S+ cannot be imported: .*uninstall"):
        import_onnxruntime()
    monkeypatch.setattr(installation, "installed_flavours", dict)
    with pytest.raises(MissingExtraError, match=r"pip install .\.\[cuda\]"):
        import_onnxruntime("cuda")


def test_the_command_prints_a_line_for_each_finding() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "atom_edge.cli", "doctor"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert any(line.startswith("ok") and "ran a graph" in line for line in lines)
    assert "\x1b" not in result.stdout
