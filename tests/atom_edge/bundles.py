"""Bundles with a small graph, whole but for what a test changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from atom_edge.bundle import seal, write_bundle
from atom_edge.manifest import Manifest

MANIFEST = Manifest(context_length=512, graphs={"model": "onnx/model.onnx"}, quantization="int8")


def decoder() -> onnx.GraphProto:
    """Inputs and outputs of a model whose cache does not grow."""

    def value(name: str, *shape: str | int, kind: int = TensorProto.INT64) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, shape)

    def part(name: str) -> onnx.ValueInfoProto:
        return value(name, "batch", 1, "past", 16, kind=TensorProto.FLOAT)

    ids = [value(name, "batch", "tokens") for name in ("input_ids", "attention_mask")]
    ids.append(value("position_ids", "batch", "tokens"))
    names = ("0.key", "0.value")
    logits = value("logits", "batch", "tokens", 8, kind=TensorProto.FLOAT)
    weights = onnx.numpy_helper.from_array(np.ones((8, 8), np.float32), "weights")
    nodes = [helper.make_node("Gather", ["weights", "input_ids"], ["logits"])]
    nodes += [
        helper.make_node("Identity", [f"past_key_values.{name}"], [f"present.{name}"])
        for name in names
    ]
    return helper.make_graph(
        nodes,
        "main",
        [*ids, *(part(f"past_key_values.{name}") for name in names)],
        [logits, *(part(f"present.{name}") for name in names)],
        initializer=[weights],
    )


def fill(staging: Path, **more: str) -> None:
    (staging / "onnx").mkdir()
    onnx.save(helper.make_model(decoder()), staging / "onnx" / "model.onnx")
    (staging / "config.json").write_text('{"model_type": "llama"}')
    (staging / "generation_config.json").write_text('{"eos_token_id": [2, 4]}')
    (staging / "tokenizer.json").write_text("{}")
    for name, content in more.items():
        (staging / name.replace("__", ".")).write_text(content)


def make(destination: Path, force: bool = False, **more: str) -> Path:
    with write_bundle(destination, force=force) as staging:
        fill(staging, **more)
        seal(staging, MANIFEST)
    return destination
