"""Where snapshots come from, and what is refused before a tensor is read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from atom_edge import open_snapshot
from atom_edge.config import AtomConfig
from atom_edge.errors import SnapshotError, WeightsError
from atom_edge.modeling import AtomForCausalLM

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CONFIG = AtomConfig(
    vocab_size=300,
    hidden_size=24,
    intermediate_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    max_position_embeddings=64,
)
SETTINGS = CONFIG.to_dict()


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    tensors = AtomForCausalLM(CONFIG).state_dict()
    del tensors["lm_head.weight"]
    return tensors


Write = Callable[..., Path]


def test_the_only_safetensors_file_may_have_another_name(
    tmp_path: Path, tensors: dict[str, Any], write_snapshot: Write
) -> None:
    folder = write_snapshot(tmp_path / "model", tensors, SETTINGS)
    (folder / "model.safetensors").rename(folder / "consolidated.safetensors")
    assert list(open_snapshot(folder).provenance["sha256"]) == ["consolidated.safetensors"]
    (folder / "more.safetensors").write_bytes((folder / "consolidated.safetensors").read_bytes())
    with pytest.raises(SnapshotError, match=r"several.*consolidated\.safetensors, more"):
        open_snapshot(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "last.ckpt"])
def test_a_pickle_is_refused_with_the_reason(
    tmp_path: Path, tensors: dict[str, Any], write_snapshot: Write, name: str
) -> None:
    folder = write_snapshot(tmp_path / "model", tensors, SETTINGS)
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / name)
    with pytest.raises(SnapshotError, match="can run any code") as refusal:
        open_snapshot(folder)
    assert name in str(refusal.value)
    assert "safetensors.torch.save_file" in str(refusal.value)


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("../outside.safetensors", "not followed"),
        ("/etc/passwd", "not followed"),
        ("sub/model.safetensors", "not followed"),
        ("..", "not followed"),
        ("C:\\model.safetensors", "not followed"),
        ("gone.safetensors", "not there"),
        ("pytorch_model-1.bin", "can run any code"),
    ],
)
def test_an_index_that_leads_elsewhere_is_refused(
    tmp_path: Path, tensors: dict[str, Any], write_snapshot: Write, target: str, reason: str
) -> None:
    folder = write_snapshot(tmp_path / "model", tensors, SETTINGS, shards=2)
    (tmp_path / "outside.safetensors").touch()
    index = folder / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["model.norm.weight"] = target
    index.write_text(json.dumps(content))
    with pytest.raises(SnapshotError, match=reason) as refusal:
        open_snapshot(folder)
    assert target in str(refusal.value)


def test_index_and_shards_must_agree(
    tmp_path: Path, tensors: dict[str, Any], write_snapshot: Write
) -> None:
    folder = write_snapshot(tmp_path / "model", tensors, SETTINGS, shards=2)
    index = folder / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    home = content["weight_map"].pop("model.norm.weight")
    index.write_text(json.dumps(content))
    with pytest.raises(WeightsError, match=rf"model\.norm\.weight: nowhere by the index, {home}"):
        open_snapshot(folder)


@pytest.mark.parametrize("kept", [0, 7, 100])
def test_a_cut_file_is_refused(
    tmp_path: Path, tensors: dict[str, Any], write_snapshot: Write, kept: int
) -> None:
    folder = write_snapshot(tmp_path / "model", tensors, SETTINGS)
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(SnapshotError, match="damaged"):
        open_snapshot(folder)


def test_weights_that_are_no_floats_are_refused(
    tmp_path: Path, tensors: dict[str, Any], write_snapshot: Write
) -> None:
    tensors["model.norm.weight"] = tensors["model.norm.weight"].to(torch.int8)
    folder = write_snapshot(tmp_path / "model", tensors, SETTINGS)
    with pytest.raises(SnapshotError, match=r"model\.norm\.weight is torch\.int8"):
        open_snapshot(folder)


def test_folders_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(SnapshotError, match="There is no folder"):
        open_snapshot(tmp_path / "nowhere")
    with pytest.raises(SnapshotError, match="There is no folder"):
        open_snapshot("./nowhere/at/all")
    with pytest.raises(SnapshotError, match="no weights"):
        open_snapshot(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(SnapshotError, match="is a file"):
        open_snapshot(tmp_path / "file")
    with pytest.raises(SnapshotError, match="no revision 'main'"):
        open_snapshot(tmp_path, revision="main")


@pytest.mark.parametrize("content", ["", "[1]", "{'a': 1}", "\xff"])
def test_a_config_that_is_no_json_object(
    tmp_path: Path, tensors: dict[str, Any], write_snapshot: Write, content: str
) -> None:
    folder = write_snapshot(tmp_path / "model", tensors, SETTINGS)
    (folder / "config.json").write_text(content, encoding="latin-1")
    with pytest.raises(SnapshotError, match=r"config\.json"):
        open_snapshot(folder)


@pytest.fixture
def hub(
    tmp_path: Path, tensors: dict[str, Any], write_snapshot: Write, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A hub cache with one repository, org/atom, whose branch main is at COMMIT."""
    repository = tmp_path / "home" / "hub" / "models--org--atom"
    (repository / "snapshots").mkdir(parents=True)
    write_snapshot(repository / "snapshots" / COMMIT, tensors, SETTINGS)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(repository.parent))
    return tmp_path / "home"


@pytest.mark.parametrize("revision", [None, "main", COMMIT])
def test_a_hub_id_from_the_cache(hub: Path, revision: str | None) -> None:
    snapshot = open_snapshot("org/atom", revision=revision, local_files_only=True)
    assert snapshot.path == hub / "hub" / "models--org--atom" / "snapshots" / COMMIT
    assert snapshot.provenance["repo"] == "org/atom"
    assert snapshot.provenance["revision"] == COMMIT


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(("name", "revision"), [("org/other", None), ("org/atom", "v2")])
def test_what_the_cache_does_not_hold(name: str, revision: str | None) -> None:
    with pytest.raises(SnapshotError, match="cache does not hold it") as refusal:
        open_snapshot(name, revision=revision, local_files_only=True)
    assert name in str(refusal.value)


def test_hf_home_and_offline_are_honoured(hub: Path) -> None:
    script = (
        "from atom_edge import open_snapshot\n"
        "from atom_edge.errors import SnapshotError\n"
        "print(open_snapshot('org/atom').provenance['revision'])\n"
        "try:\n    open_snapshot('org/other')\n"
        "except SnapshotError as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "HF_HOME": str(hub), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    first, second = done.stdout.splitlines()
    assert first == COMMIT
    assert "HF_HUB_OFFLINE" in second
