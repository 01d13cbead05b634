"""What the session in C refuses to open, as Python does."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import onnx
import pytest
from c_interface import (
    BUNDLE,
    Failed,
    Session,
    make_bundle,
    opened,
)

from atom_edge.bundle import open_bundle
from atom_edge.errors import AtomEdgeError
from atom_edge.reference import checkpoint_path


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(checkpoint_path(), tmp_path_factory.mktemp("c") / "bundle")


def refused(folder: Path) -> str:
    """The error of both, told by C."""
    with pytest.raises(AtomEdgeError):
        open_bundle(folder)
    return refused_in_c(folder)


def refused_in_c(folder: Path) -> str:
    with pytest.raises(Failed) as caught:
        Session(folder)
    assert caught.value.code == BUNDLE
    return str(caught.value)


def test_a_damaged_bundle_is_refused(bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    assert "There is no bundle" in refused(folder)
    shutil.copytree(bundle, folder)
    for file in [path for path in folder.rglob("*") if path.is_file()]:
        whole = file.read_bytes()
        name = file.relative_to(folder).as_posix()
        if name == "manifest.json":
            continue
        file.write_bytes(whole[:-1])
        assert f"{name} does not have the size" in refused(folder)
        file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        assert f"{name} does not have the sha256" in refused(folder)
        file.unlink()
        assert f"{name} is missing" in refused(folder)
        file.mkdir()
        assert f"{name} is missing" in refused(folder)
        file.rmdir()
        file.write_bytes(whole)
    (folder / "more.txt").write_text("")
    assert "holds more.txt, which its manifest does not list" in refused(folder)
    (folder / "more.txt").unlink()
    (folder / "onnx" / "link").symlink_to("/")
    assert "is a link" in refused(folder)
    (folder / "onnx" / "link").unlink()
    (folder / ".DS_Store").write_text("")
    with opened(folder) as session:
        assert session.generate("The", max_new_tokens=1).finish == "length"


CHANGES: tuple[tuple[str, Any], ...] = (
    ("", b"{"),
    ("", b"\xff{}"),
    ("", b'{"format_version": 1}'),
    ("", b"[" * 100_000),
    ("format_version", 2),
    ("format_version", "1"),
    ("format_version", 1.5),
    ("context_length", 0),
    ("context_length", 2**25),
    ("context_length", "512"),
    ("graphs", {"native": "onnx/other.onnx"}),
    ("graphs", {"native": 1}),
    ("graphs", {}),
    ("files", []),
    ("files", {"../outside": {"bytes": 0, "sha256": "0" * 64}}),
    ("files", {"/outside": {"bytes": 0, "sha256": "0" * 64}}),
    ("files", {"a//b": {"bytes": 0, "sha256": "0" * 64}}),
    ("files", {"a/./b": {"bytes": 0, "sha256": "0" * 64}}),
    ("files", {"a\\b": {"bytes": 0, "sha256": "0" * 64}}),
    ("files", {"config.json": {"bytes": -1, "sha256": "0" * 64}}),
    ("files", {"config.json": {"bytes": 10, "sha256": "0" * 63 + "G"}}),
    ("files", {"config.json": {"bytes": 10}}),
    ("files", {"config.json": None}),
)


@pytest.mark.parametrize(("key", "value"), CHANGES, ids=lambda value: repr(value)[:40])
def test_a_wrong_manifest_is_refused(bundle: Path, tmp_path: Path, key: str, value: Any) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(bundle, folder)
    file = folder / "manifest.json"
    manifest = json.loads(file.read_text())
    if key == "files" and value:
        value = {**manifest["files"], **value}
    file.write_bytes(json.dumps({**manifest, key: value}).encode() if key else value)
    assert str(file) in refused(folder)


def test_a_bundle_for_others_is_refused(bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(bundle, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["graphs"] = {"model": "onnx/native.onnx"}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert "no native graph" in refused_in_c(folder)


def change_graph(folder: Path, data: bytes) -> None:
    (folder / "onnx" / "native.onnx").write_bytes(data)
    manifest = json.loads((folder / "manifest.json").read_text())
    digest = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    manifest["files"]["onnx/native.onnx"] = digest
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_a_graph_of_another_kind_is_refused(bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(bundle, folder)
    whole = (folder / "onnx" / "native.onnx").read_bytes()

    def refusal(data: bytes) -> str:
        change_graph(folder, data)
        return refused_in_c(folder)

    assert "it is not one graph" in refusal(b"")
    assert "a field passes its end" in refusal(whole[:-9])
    assert "is not run as a native graph" in refusal(b"\x0b" * 99)
    model = onnx.load_from_string(whole)
    model.graph.node.add().CopyFrom(model.graph.node[0])
    assert "not one node" in refusal(model.SerializeToString())
    model = onnx.load_from_string(whole)
    model.graph.node[0].domain = ""
    assert "not atom_edge.Decoder" in refusal(model.SerializeToString())
    model = onnx.load_from_string(whole)
    model.functions.add().name = "Decoder"
    assert "functions" in refusal(model.SerializeToString())
    model = onnx.load_from_string(whole)
    model.graph.initializer[0].external_data.add(key="location", value="../../secret")
    assert "tensors in other files" in refusal(model.SerializeToString())
    model = onnx.load_from_string(whole)
    model.graph.initializer[0].data_location = onnx.TensorProto.EXTERNAL
    assert "tensors in other files" in refusal(model.SerializeToString())
    model = onnx.load_from_string(whole)
    model.graph.node[0].attribute[0].t.name = "t"
    assert "a tensor or a graph" in refusal(model.SerializeToString())
    model = onnx.load_from_string(whole)
    model.graph.input[5].name = "else"
    change_graph(folder, model.SerializeToString())
    with pytest.raises(Failed):
        Session(folder)
