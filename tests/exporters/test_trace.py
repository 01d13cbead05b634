"""The traced graph: its contract, and its numbers against PyTorch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from transformers import DynamicCache

from atom_edge.config import AtomConfig
from atom_edge.exporters.portable import LeftPaddedGraph
from atom_edge.exporters.trace import trace
from atom_edge.modeling import AtomForCausalLM
from atom_edge.torch_decoder import TorchDecoder

MODELS = {
    "atom": {},
    "llama": {
        "xsa": False,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 16,
        "tie_word_embeddings": False,
    },
}
COMMON = {
    "vocab_size": 300,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.1,
}


@pytest.fixture(scope="module", params=MODELS)
def traced(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[AtomForCausalLM, ir.Model, LeftPaddedGraph]:
    torch.manual_seed(0)
    model = AtomForCausalLM(AtomConfig(**COMMON, **MODELS[request.param])).eval()
    graph = trace(TorchDecoder(model))
    file = tmp_path_factory.mktemp("graphs") / "model.onnx"
    ir.save(graph, file)
    return model, graph, LeftPaddedGraph(file, threads=1)


def test_names_and_axes_are_the_contract(traced: tuple) -> None:
    model, graph, _ = traced
    config = model.config
    cache = f"[batch_size,{config.num_key_value_heads},{{}},{config.head_dim}]"
    shapes = {v.name: str(v.shape) for v in (*graph.graph.inputs, *graph.graph.outputs)}
    assert shapes.pop("input_ids") == "[batch_size,sequence_length]"
    assert shapes.pop("position_ids") == "[batch_size,sequence_length]"
    assert shapes.pop("attention_mask") == "[batch_size,total_sequence_length]"
    assert shapes.pop("logits") == "[batch_size,sequence_length,300]"
    expected = {}
    for layer in range(2):
        for part in ("key", "value"):
            expected[f"past_key_values.{layer}.{part}"] = cache.format("past_sequence_length")
            expected[f"present.{layer}.{part}"] = cache.format("total_sequence_length")
    assert shapes == expected


def test_no_metadata_of_the_tracer_is_left(traced: tuple) -> None:
    _, graph, _ = traced
    assert str(Path(__file__).parents[2]) not in ir.to_proto(graph).SerializeToString().decode(
        "latin-1"
    )


@pytest.mark.parametrize(
    ("batch", "past", "tokens"), [(1, 0, 1), (1, 0, 64), (3, 0, 9), (2, 30, 1), (4, 11, 20)]
)
def test_logits_and_cache_are_those_of_pytorch(
    traced: tuple, batch: int, past: int, tokens: int
) -> None:
    model, _, graph = traced
    rng = np.random.default_rng(past)
    config = model.config
    shape = (batch, config.num_key_value_heads, past, config.head_dim)
    tensors = [rng.standard_normal(shape).astype(np.float32) for _ in range(4)]
    ids = rng.integers(0, 300, (batch, tokens))
    mask = np.ones((batch, past + tokens), np.int64)
    mask[0, : past // 2] = 0  # a padded row
    logits, cache = graph.run(ids, mask, tensors)

    theirs = DynamicCache()
    for layer in range(2):
        theirs.update(*map(torch.from_numpy, tensors[2 * layer : 2 * layer + 2]), layer)
    positions = torch.from_numpy(mask).cumsum(1)[:, past:] - 1
    with torch.no_grad():
        expected = model(
            torch.from_numpy(ids),
            attention_mask=torch.from_numpy(mask),
            position_ids=positions.clamp(min=0),
            past_key_values=theirs,
        ).logits
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5)
    flat = [t.numpy() for layer in theirs.layers for t in (layer.keys, layer.values)]
    for ours, their in zip(cache, flat, strict=True):
        np.testing.assert_allclose(ours, their, rtol=0, atol=1e-5)


def test_a_zero_value_vector_gives_no_nan(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = AtomForCausalLM(AtomConfig(**COMMON)).eval()
    for layer in model.model.layers:
        torch.nn.init.zeros_(layer.self_attn.v_proj.weight)
    ir.save(trace(TorchDecoder(model)), tmp_path / "model.onnx")
    ids = np.arange(10)[None]
    logits, _ = LeftPaddedGraph(tmp_path / "model.onnx").run(ids)
    with torch.no_grad():
        expected = model(torch.from_numpy(ids)).logits
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5)


def test_tracing_leaves_the_model_as_it_was() -> None:
    model = AtomForCausalLM(AtomConfig(**COMMON)).eval()
    before = model.config._attn_implementation
    trace(TorchDecoder(model))
    assert model.config._attn_implementation == before == "sdpa"
