"""A small model, traced once, as a bundle with the reference tokenizer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import onnx_ir as ir
import pytest
import torch

from atom_edge.bundle import seal, write_bundle
from atom_edge.config import AtomConfig
from atom_edge.exporters.trace import trace
from atom_edge.modeling import AtomForCausalLM
from atom_edge.reference import checkpoint_path
from atom_edge.runtimes.session import AtomSession

CONTEXT = 96


@pytest.fixture(scope="session")
def model() -> AtomForCausalLM:
    """Random weights wide enough apart that no two logits are nearly equal."""
    torch.manual_seed(0)
    config = AtomConfig(
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=12,
        max_position_embeddings=CONTEXT,
        eos_token_id=[2, 4],
        initializer_range=0.3,
    )
    return AtomForCausalLM(config).eval()


@pytest.fixture(scope="session")
def bundle(model: AtomForCausalLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    destination = tmp_path_factory.mktemp("bundles") / "small"
    with write_bundle(destination) as staging:
        (staging / "onnx").mkdir()
        ir.save(trace(model), staging / "onnx" / "model.onnx")
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(checkpoint_path() / name, staging)
        (staging / "config.json").write_text(model.config.to_json_string())
        special = {"bos_token_id": 1, "eos_token_id": [2, 4], "pad_token_id": 0}
        (staging / "generation_config.json").write_text(json.dumps(special))
        seal(staging, {"context_length": CONTEXT, "graphs": {"model": "onnx/model.onnx"}})
    return destination


@pytest.fixture(scope="session")
def session(bundle: Path) -> AtomSession:
    return AtomSession.from_pretrained(bundle, threads=1)
