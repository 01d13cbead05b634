"""A destination of a bundle is whole or untouched."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from atom_edge.bundle import open_bundle, write_bundle
from atom_edge.errors import BundleError
from tests.atom_edge.bundles import fill, make


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make(tmp_path / "bundle")


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileExistsError), write_bundle(tmp_path / "a" / "b" / "bundle") as to:  # noqa: PT012
        (to / "onnx").mkdir()
        fill(to)
    assert list(tmp_path.iterdir()) == []


def test_an_unsealed_bundle_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="never sealed"), write_bundle(tmp_path / "b") as to:
        fill(to)
    assert list(tmp_path.iterdir()) == []


def test_a_destination_that_is_taken_stops_before_the_work(folder: Path) -> None:
    with pytest.raises(BundleError, match="--force"), write_bundle(folder):
        pytest.fail("the work began")


def test_force_replaces_a_bundle(folder: Path) -> None:
    make(folder, force=True, added__txt="new")
    assert (folder / "added.txt").read_text() == "new"
    open_bundle(folder)
    assert list(folder.parent.iterdir()) == [folder]


def test_force_fills_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    open_bundle(make(tmp_path / "bundle", force=True))


@pytest.mark.parametrize("taken_by", ["folder", "file"])
def test_force_never_replaces_anything_else(tmp_path: Path, taken_by: str) -> None:
    target = tmp_path / "target"
    kept = target / "thesis.tex" if taken_by == "folder" else target
    kept.parent.mkdir(exist_ok=True)
    kept.write_text("precious")
    with pytest.raises(BundleError, match="not a bundle"), write_bundle(target, force=True):
        pytest.fail("the work began")
    assert kept.read_text() == "precious"


def test_a_failed_replacement_keeps_the_old_bundle(folder: Path) -> None:
    before = (folder / "manifest.json").read_bytes()
    with pytest.raises(FileExistsError), write_bundle(folder, force=True) as staging:  # noqa: PT012
        (staging / "onnx").mkdir()
        fill(staging)
    assert (folder / "manifest.json").read_bytes() == before
    assert list(folder.parent.iterdir()) == [folder]


def test_force_keeps_a_foreign_manifest_and_unlisted_files(folder: Path, tmp_path: Path) -> None:
    extension = tmp_path / "extension"
    extension.mkdir()
    (extension / "manifest.json").write_text('{"manifest_version": 3, "name": "theirs"}')
    with pytest.raises(BundleError, match="not a bundle of atom-edge"):
        make(extension, force=True)
    assert (extension / "manifest.json").exists()
    (folder / "onnx" / "notes.txt").write_text("precious")
    with pytest.raises(BundleError, match=r"holds 'onnx/notes\.txt'"):
        make(folder, force=True)
    assert (folder / "onnx" / "notes.txt").read_text() == "precious"


@pytest.mark.parametrize("exchanges", [True, False])
def test_a_failed_rename_keeps_the_old_bundle(
    folder: Path, monkeypatch: pytest.MonkeyPatch, exchanges: bool
) -> None:
    if not exchanges:
        monkeypatch.setattr("atom_edge.staging._exchange", lambda *_: False)
    make(folder, force=True, added__txt="new")
    assert (folder / "added.txt").exists()
    assert list(folder.parent.iterdir()) == [folder]

    rename = Path.rename

    def failing(path: Path, target: Path) -> Path:
        if path.name.endswith(".partial"):
            raise OSError("disk on fire")
        return rename(path, target)

    monkeypatch.setattr("atom_edge.staging._exchange", lambda *_: False)
    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OSError, match="on fire"):
        make(folder, force=True)
    open_bundle(folder)
    assert list(folder.parent.iterdir()) == [folder]


def test_a_folder_made_meanwhile_costs_neither_bundle(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def racing(path: Path, target: Path) -> Path:
        if path.name.endswith(".partial"):
            target.mkdir()
            (target / "theirs").write_text("precious")
        return rename(path, target)

    monkeypatch.setattr("atom_edge.staging._exchange", lambda *_: False)
    monkeypatch.setattr(Path, "rename", racing)
    with pytest.raises(BundleError, match=r"stood there is now .*\.old"):
        make(folder, force=True)
    (old,) = folder.parent.glob("*.old")
    open_bundle(old)
    assert (folder / "theirs").read_text() == "precious"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    code = (
        "import sys, time; from atom_edge.bundle import write_bundle\n"
        "with write_bundle(sys.argv[1]) as staging:\n"
        "    (staging / 'half').write_text('x'); print('ready', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path / "bundle"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    assert [path.suffix for path in tmp_path.iterdir()] == [".partial"]
    process.send_signal(number)
    assert process.wait(timeout=30) != 0
    process.stdout.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_the_folder_gets_the_usual_permissions(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    assert folder.stat().st_mode == (tmp_path / "plain").stat().st_mode
