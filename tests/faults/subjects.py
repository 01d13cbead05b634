"""What the writers write: each has a version, which must be found whole."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from atom_edge.bundle import open_bundle, seal, write_bundle
from atom_edge.manifest import Manifest
from atom_edge.staging import write_file


class Subject(NamedTuple):
    """How a version is written to a place, and which is there; that raises if none is, whole."""

    write: Callable[[Path, int], None]
    version_at: Callable[[Path], int]


def _write_bundle(place: Path, version: int) -> None:
    with write_bundle(place, force=True) as staging:
        (staging / "onnx").mkdir()
        (staging / "onnx" / "model.onnx").write_bytes(os.urandom(50_000))
        for name in ("generation_config.json", "tokenizer.json"):
            (staging / name).write_text("{}")
        (staging / "config.json").write_text(json.dumps({"version": version}))
        seal(staging, Manifest(context_length=8, graphs={"model": "onnx/model.onnx"}))


def _bundle_version(place: Path) -> int:
    return int(open_bundle(place).config["version"])


def _write_file(place: Path, version: int) -> None:
    place.parent.mkdir(exist_ok=True)
    write_file(place, json.dumps([version] * 20_000).encode())


def _file_version(place: Path) -> int:
    (version,) = set(json.loads(place.read_bytes()))
    return int(version)


def _write_checkpoint(place: Path, version: int) -> None:
    import torch

    from atom_edge.training.state import save_checkpoint

    save_checkpoint(place, version, {"weights": torch.full((20_000,), float(version))})


def _checkpoint_version(place: Path) -> int:
    import torch

    from atom_edge.training.state import load_newest

    state = load_newest(place, torch.device("cpu"))
    assert set(state["weights"].tolist()) == {state["step"]}
    return int(state["step"])


def _write_snapshot(place: Path, version: int) -> None:
    import torch

    from atom_edge.config import AtomConfig
    from atom_edge.modeling import AtomForCausalLM
    from atom_edge.reference import checkpoint_path
    from atom_edge.training.state import save_snapshot

    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "head_dim": 8}
    config = AtomConfig(**small, num_attention_heads=2, num_key_value_heads=1, vocab_size=64)
    config.version = version
    model = AtomForCausalLM(config)
    torch.nn.init.constant_(next(model.parameters()), version % 128)
    save_snapshot(model, checkpoint_path(), place)


def _snapshot_version(place: Path) -> int:
    from safetensors.torch import load_file

    version = json.loads((place / "config.json").read_text())["version"]
    first = load_file(place / "model.safetensors")["model.embed_tokens.weight"]
    assert first.unique().tolist() == [version % 128]
    assert (place / "tokenizer.json").exists()
    return int(version)


SUBJECTS = {
    "bundle": Subject(_write_bundle, _bundle_version),
    "file": Subject(_write_file, _file_version),
    "checkpoint": Subject(_write_checkpoint, _checkpoint_version),
    "snapshot": Subject(_write_snapshot, _snapshot_version),
}
