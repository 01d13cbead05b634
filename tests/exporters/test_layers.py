"""Layers that are alike are traced once; a stack of any other kind is seen to be one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
import transformers
from torch import nn

from atom_edge.config import AtomConfig
from atom_edge.exporters.layers import TRACED, Stack, alike_layers, first_layers, repeat_layers
from atom_edge.torch_decoder import TorchDecoder

LAYERS = 6
WIDTH = 4
SIZES: dict[str, Any] = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
}


def decoder_of(config: Any) -> TorchDecoder:
    return TorchDecoder(transformers.AutoModelForCausalLM.from_config(config).eval())


@pytest.mark.parametrize(
    "config",
    [
        AtomConfig(**SIZES),
        transformers.GPT2Config(n_layer=LAYERS, n_embd=16, n_head=2, vocab_size=32, n_positions=32),
        transformers.GPTNeoXConfig(**SIZES),
        transformers.StableLmConfig(**SIZES),
    ],
    ids=lambda config: config.model_type,
)
def test_layers_that_differ_in_their_weights_are_alike(config: Any) -> None:
    decoder = decoder_of(config)
    stack = alike_layers(decoder)
    assert stack is not None
    assert len(stack.layers) == LAYERS
    names = dict(decoder.named_modules())
    assert names[stack.scope(LAYERS - 1)] is stack.layers[-1]


@pytest.mark.parametrize(
    "config",
    [
        AtomConfig(**{**SIZES, "num_hidden_layers": TRACED}),
        transformers.SmolLM3Config(**SIZES),
        transformers.Gemma3TextConfig(**SIZES, head_dim=8),
        transformers.GPTNeoConfig(
            **{name: size for name, size in SIZES.items() if "layers" not in name},
            num_layers=LAYERS,
            num_heads=2,
            attention_types=[[["global", "local"], LAYERS // 2]],
        ),
    ],
    ids=["few", "rotation in some", "windows in some", "local attention in some"],
)
def test_layers_of_several_kinds_are_not(config: Any) -> None:
    assert alike_layers(decoder_of(config)) is None


@pytest.mark.parametrize(
    "change",
    [
        lambda layer: setattr(layer.mlp, "act_fn", nn.Tanh()),
        lambda layer: setattr(layer.input_layernorm, "eps", 0.5),
        lambda layer: layer.register_buffer("scale", torch.ones(1)),
    ],
    ids=["activation", "epsilon", "buffer"],
)
def test_one_layer_that_is_changed_is_seen(change: Callable[[Any], None]) -> None:
    decoder = decoder_of(AtomConfig(**SIZES))
    change(decoder.model.model.layers[LAYERS - 1])
    assert alike_layers(decoder) is None


def test_the_decoder_has_all_of_its_layers_again_after_an_error() -> None:
    decoder = decoder_of(AtomConfig(**SIZES))
    before, stack = decoder.cache_shapes, alike_layers(decoder)
    assert stack is not None
    layers = list(stack.layers)
    with contextlib.suppress(RuntimeError), first_layers(decoder, stack):
        assert list(stack.layers) == layers[:TRACED]
        assert len(decoder.cache_shapes) == 2 * TRACED
        raise RuntimeError("the tracer gives up")
    assert list(stack.layers) == layers
    assert decoder.cache_shapes is before


class Small(nn.Module):
    """A decoder of layers that add to the cache a product of what the layer before gave."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS))

    @property
    def stack(self) -> Stack:
        return Stack("layers", self.layers)


def traced(small: Small, change: str = "") -> ir.Model:
    """The first layers of `small` as a tracer gives them, but for a change in the last."""
    x = ir.val("x", ir.DataType.FLOAT, ["T", WIDTH])
    inputs, outputs, initializers, nodes = [x], [], [], []

    def add(scope: str, operator: str, *values: ir.Value | None, name: str) -> ir.Value:
        node = ir.node(operator, values)
        node.metadata_props["pkg.torch.onnx.name_scopes"] = repr(["", scope])
        node.outputs[0].name = name
        nodes.append(node)
        return node.outputs[0]

    first = given = x
    for index in range(TRACED):
        scope = f"layers.{index}"
        last = index == TRACED - 1
        past = ir.val(f"past_key_values.{index}.key", ir.DataType.FLOAT, ["T", WIDTH])
        weight, bias = (
            ir.val(f"{scope}.{name}", const_value=ir.tensor(tensor.detach().numpy()))
            for name, tensor in small.layers[index].named_parameters()
        )
        inputs.append(past)
        initializers += [weight, bias]
        product = add(scope, "MatMul", given, weight, name=f"product_{index}")
        if last and change == "two layers back":
            product = add(scope, "MatMul", first, weight, name="product")
        if index == 0:
            first = product
        operator = "Sub" if last and change == "operator" else "Add"
        total = add(scope, operator, product, bias, name=f"total_{index}")
        given = add(scope, "Add", total, past, name=f"given_{index}")
        outputs.append(add(scope, "Neg", given, name=f"present.{index}.key"))
    if change == "used behind":
        given = add("norm", "Add", given, total, name="sum")
    result = add("norm", "Relu", given, name="logits")
    for value in (result, *outputs):
        value.type, value.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(["T", WIDTH])
    graph = ir.Graph(
        inputs, [result, *outputs], nodes=nodes, initializers=initializers, opset_imports={"": 20}
    )
    return ir.Model(graph, ir_version=10)


def test_a_repeated_layer_has_its_own_weights_and_cache() -> None:
    torch.manual_seed(0)
    small = Small()
    model = traced(small)
    assert repeat_layers(model, small, small.stack)
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString())
    numbers = torch.randn(LAYERS + 1, 2, WIDTH)
    x, past = numbers[0], numbers[1:]
    feeds = {"x": x.numpy()}
    feeds |= {f"past_key_values.{index}.key": past[index].numpy() for index in range(LAYERS)}
    names = [value.name for value in session.get_outputs()]
    assert names == ["logits", *(f"present.{index}.key" for index in range(LAYERS))]
    logits, *present = session.run(None, feeds)
    for index, layer in enumerate(small.layers):
        x = x @ layer.weight + layer.bias + past[index]
        np.testing.assert_allclose(present[index], -x.detach().numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(logits, x.relu().detach().numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("change", ["operator", "two layers back", "used behind"])
def test_a_last_layer_that_computes_something_else_is_not_repeated(change: str) -> None:
    small = Small()
    model = traced(small, change)
    before = ir.to_proto(model).SerializeToString()
    assert not repeat_layers(model, small, small.stack)
    assert ir.to_proto(model).SerializeToString() == before
