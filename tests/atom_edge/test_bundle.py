"""A bundle is whole or refused."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import onnx
import pytest
from onnx import helper

from atom_edge.bundle import Bundle, open_bundle, seal, write_bundle
from atom_edge.errors import BundleError, IntegrityError
from atom_edge.manifest import FORMAT_VERSION, Figure, Measured, Role, Validation
from tests.atom_edge.bundles import MANIFEST, decoder, fill, make

ENTRY = {"bytes": 0, "sha256": "0" * 64}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make(tmp_path / "bundle")


def change_manifest(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_what_was_written_is_read(folder: Path) -> None:
    bundle = open_bundle(folder)
    assert bundle.path == folder
    assert bundle.manifest.format_version == FORMAT_VERSION
    assert bundle.manifest.quantization == "int8"
    assert bundle.graph() == folder / "onnx" / "model.onnx"
    assert bundle.roles == (Role.MODEL,)
    assert bundle.tokenizer_file == folder / "tokenizer.json"
    assert bundle.config == {"model_type": "llama"}
    assert bundle.generation_config == {"eos_token_id": [2, 4]}
    assert bundle.context_length == 512
    assert bundle.chat_template is None
    assert set(bundle.manifest.files) == {
        "config.json",
        "generation_config.json",
        "onnx/model.onnx",
        "tokenizer.json",
    }


def test_the_chat_template_is_read_from_either_place(tmp_path: Path) -> None:
    config = '{"chat_template": "{{ messages }}"}'
    inside = make(tmp_path / "inside", tokenizer_config__json=config)
    assert open_bundle(inside).chat_template == "{{ messages }}"
    beside = make(tmp_path / "beside", chat_template__jinja="{{ tools }}")
    assert open_bundle(beside).chat_template == "{{ tools }}"


def test_a_graph_that_is_not_there_is_an_error(folder: Path) -> None:
    with pytest.raises(BundleError, match="no graph for 'decode'; it has model"):
        open_bundle(folder).graph("decode")


@pytest.mark.parametrize(
    "name", ["config.json", "generation_config.json", "tokenizer.json", "onnx/model.onnx"]
)
def test_one_changed_byte_is_refused(folder: Path, name: str) -> None:
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(IntegrityError, match=rf"{Path(name).name} does not have the sha256"):
        open_bundle(folder)


def test_a_missing_file_is_refused(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    with pytest.raises(IntegrityError, match=r"lacks its file tokenizer\.json"):
        open_bundle(folder)


def test_a_truncated_file_is_refused(folder: Path) -> None:
    graph = folder / "onnx" / "model.onnx"
    graph.write_bytes(graph.read_bytes()[:-1])
    with pytest.raises(IntegrityError, match="bytes, and the manifest says"):
        open_bundle(folder)


def test_a_tensor_in_another_file_is_refused(tmp_path: Path) -> None:
    """Whatever the graph's file is called, and though the other file is listed."""
    with write_bundle(tmp_path / "bundle") as staging:
        fill(staging)
        (staging / "onnx" / "model.onnx").unlink()
        onnx.save(
            helper.make_model(decoder()),
            staging / "onnx" / "model.bin",
            save_as_external_data=True,
            size_threshold=0,
            location="weights.bin",
        )
        seal(staging, msgspec.structs.replace(MANIFEST, graphs={"model": "onnx/model.bin"}))
    with pytest.raises(IntegrityError, match="its data in another file"):
        open_bundle(tmp_path / "bundle").read_graph()


def test_a_file_that_is_not_listed_is_refused(folder: Path) -> None:
    (folder / ".gitattributes").write_text("*.onnx filter=lfs")
    open_bundle(folder)
    (folder / "onnx" / "more.bin").write_text("more")
    with pytest.raises(
        IntegrityError, match=r"holds 'onnx/more\.bin', which its manifest does not"
    ):
        open_bundle(folder)


def test_a_link_is_refused(folder: Path) -> None:
    (folder / "tokenizer.json").rename(folder.parent / "tokenizer.json")
    (folder / "tokenizer.json").symlink_to(folder.parent / "tokenizer.json")
    with pytest.raises(IntegrityError, match=r"tokenizer\.json is a link"):
        open_bundle(folder)


def test_a_folder_that_is_a_link_is_refused(folder: Path) -> None:
    (folder / "onnx").rename(folder.parent / "elsewhere")
    (folder / "onnx").symlink_to(folder.parent / "elsewhere")
    with pytest.raises(IntegrityError, match="onnx is a link"):
        open_bundle(folder)


def test_the_links_of_a_hub_cache_are_followed(folder: Path, tmp_path: Path) -> None:
    repository = tmp_path / "models--org--name"
    snapshot = repository / "snapshots" / "0123abc"
    (repository / "blobs").mkdir(parents=True)
    (snapshot / "onnx").mkdir(parents=True)
    for file in folder.rglob("*"):
        if file.is_file():
            blob = repository / "blobs" / file.name
            file.rename(blob)
            link = snapshot / file.relative_to(folder)
            link.symlink_to(os.path.relpath(blob, link.parent))
    assert open_bundle(snapshot).read_graph()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda m: m.update(format_version=2), BundleError, "format_version: 2;"),
        (lambda m: m.pop("format_version"), BundleError, "format_version: None;"),
        (lambda m: m.pop("files"), IntegrityError, "graphs.model: 'onnx/model.onnx' is not among"),
        (lambda m: m.update(graphs=[]), IntegrityError, "graphs: expected object, got array"),
        (lambda m: m.update(graphs={}), IntegrityError, "graphs: there is none that this release"),
        (
            lambda m: m.update(graphs={"nonesuch": "onnx/model.onnx"}),
            IntegrityError,
            "graphs: there is none",
        ),
        (
            lambda m: m["graphs"].update(decode="../m.onnx"),
            IntegrityError,
            r"manifest\.json: graphs\.decode: '\.\./m\.onnx' is not a path inside the bundle",
        ),
        (lambda m: m["graphs"].update(decode=7), IntegrityError, "graphs.decode: expected str"),
        (lambda m: m["files"].pop("config.json"), IntegrityError, "files: config.json is missing"),
        (lambda m: m["files"].pop("onnx/model.onnx"), IntegrityError, "is not among its files"),
        (
            lambda m: m["files"].update({"config.json": 1}),
            IntegrityError,
            r"files\.config\.json: expected object, got int",
        ),
        (
            lambda m: m["files"]["tokenizer.json"].update(bytes=-1),
            IntegrityError,
            r"files\.tokenizer\.json\.bytes: expected int >= 0",
        ),
        (
            lambda m: m["files"]["tokenizer.json"].update(sha256="A" * 64),
            IntegrityError,
            r"files\.tokenizer\.json\.sha256: expected str matching",
        ),
        *(
            (
                lambda m, name=name: m["files"].update({name: ENTRY}),
                IntegrityError,
                "is not a path inside the bundle",
            )
            for name in (
                *("../x", "/etc/passwd", "a\\..\\x", "C:x", "", ".", "a//b", "a/", "a/./b"),
                *("a\x1b[2J", "x" * 5000, "manifest.json"),
            )
        ),
        (lambda m: m.update(context_length="512"), IntegrityError, "context_length: expected int"),
        (lambda m: m.update(context_length=True), IntegrityError, "context_length: expected int"),
        (lambda m: m.update(context_length=0), IntegrityError, "context_length: expected int >= 1"),
        (lambda m: m.update(context_length=10**18), IntegrityError, "context_length: expected int"),
        (lambda m: m.update(quantization="int4"), IntegrityError, "quantization: invalid enum"),
        (lambda m: m.update(source=[]), IntegrityError, "source: expected object, got array"),
        (lambda m: m.update(nodes={"model": "x"}), IntegrityError, "nodes.model: expected int"),
    ],
)
def test_a_manifest_that_cannot_be_trusted_is_refused(
    folder: Path,
    change: Callable[[dict[str, Any]], object],
    error: type[BundleError],
    message: str,
) -> None:
    change_manifest(folder, change)
    with pytest.raises(error, match=message):
        open_bundle(folder)


@pytest.mark.parametrize("content", ["", "[]", "{", "\0", "[" * 100_000])
def test_an_unreadable_manifest_is_refused(folder: Path, content: str) -> None:
    (folder / "manifest.json").write_text(content)
    with pytest.raises(IntegrityError, match=r"manifest\.json(: expected obj| is not readable)"):
        open_bundle(folder)


def test_what_is_no_bundle_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="atom-edge export"):
        open_bundle(tmp_path)
    with pytest.raises(BundleError, match="neither a folder nor a hub id"):
        open_bundle(tmp_path / "nothing")


def test_a_context_longer_than_the_positions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="context_length: 512, and the model has 511"):
        open_bundle(make(tmp_path / "b", config__json='{"max_position_embeddings": 511}'))


def test_a_graph_replaced_after_opening_is_refused(folder: Path) -> None:
    bundle, before = open_bundle(folder), (folder / "onnx" / "model.onnx").read_bytes()
    assert bundle.read_graph() == before
    (folder / "onnx" / "model.onnx").write_bytes(before[:-1] + b"!")
    with pytest.raises(IntegrityError, match="was replaced after the bundle was opened"):
        bundle.read_graph()


def test_a_role_of_a_later_release_is_passed_over(folder: Path) -> None:
    change_manifest(folder, lambda m: m["graphs"].update(later="onnx/model.onnx"))
    assert open_bundle(folder).roles == (Role.MODEL,)


def test_a_figure_that_is_not_finite_is_never_written(folder: Path) -> None:
    measured = Measured("model", "", (Figure("mean_kl", float("nan")),))
    broken = msgspec.structs.replace(MANIFEST, validation=Validation(measured=(measured,)))
    with pytest.raises(BundleError, match="not finite"):
        seal(folder, broken)


def test_a_bundle_is_frozen(folder: Path) -> None:
    bundle: Bundle = open_bundle(folder)
    with pytest.raises(AttributeError):
        bundle.path = Path()  # type: ignore[misc]
