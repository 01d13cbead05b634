"""Real traced graphs, and the means to run a graph before and after a pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch

from atom_edge.config import AtomConfig
from atom_edge.modeling import AtomForCausalLM
from atom_edge.torch_decoder import TorchDecoder

if TYPE_CHECKING:
    from tests.conftest import SharedFolder

SHAPES = {
    "atom": {"num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 16},
    "llama": {
        "xsa": False,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 8,
        "tie_word_embeddings": False,
    },
}
LAYERS, VOCABULARY, CONTEXT = 2, 90, 64

Arrays = dict[str, np.ndarray]


@pytest.fixture(scope="session")
def traced_models(shared: SharedFolder) -> dict[str, ir.Model]:
    """The traced graphs of a small Atom and of a small Llama."""
    models = {}
    for name, shape in SHAPES.items():
        torch.manual_seed(0)
        config = AtomConfig(
            vocab_size=VOCABULARY,
            hidden_size=48,
            intermediate_size=40,
            num_hidden_layers=LAYERS,
            max_position_embeddings=CONTEXT,
            initializer_range=0.2,
            **shape,
        )
        model = AtomForCausalLM(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() == 1:
                    parameter.add_(0.3 * torch.randn_like(parameter))
        models[name] = shared.trace(TorchDecoder(model))
    return models


@pytest.fixture(params=SHAPES)
def shape(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def traced(traced_models: Mapping[str, ir.Model], shape: str) -> ir.Model:
    """A traced graph of its own for each test."""
    return traced_models[shape].clone()


def operators(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph)


def open_session(model: ir.Model) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    # What is tested is the graph as it is written, not onnxruntime's own rewriting.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(
        ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def run(model: ir.Model, inputs: Arrays) -> Arrays:
    session = open_session(model)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def run_in_place(model: ir.Model, inputs: Arrays) -> Arrays:
    """Run with each present cache written over its past, in copies of those of `inputs`."""
    session = open_session(model)
    binding = session.io_binding()
    caches: Arrays = {}
    for name, value in inputs.items():
        if name.startswith("past_key_values."):
            present = name.replace("past_key_values", "present")
            value = caches[present] = value.copy()
            place = (np.float32, value.shape, value.ctypes.data)
            binding.bind_output(present, "cpu", 0, *place)
        binding.bind_cpu_input(name, value)
    binding.bind_output("logits")
    session.run_with_iobinding(binding)
    logits = next(value for value in binding.get_outputs() if value.shape()[-1] == VOCABULARY)
    return {"logits": logits.numpy(), **caches}


def portable_inputs(model: ir.Model, batch: int, past: int, tokens: int) -> Arrays:
    """Random inputs of a traced graph, the first row padded on the left."""
    random = np.random.default_rng(0)
    mask = np.ones((batch, past + tokens), np.int64)
    if batch > 1:
        mask[0, : (past + tokens) // 2] = 0
    inputs: Arrays = {
        "input_ids": random.integers(0, VOCABULARY, (batch, tokens)),
        "attention_mask": mask,
        "position_ids": np.maximum(mask.cumsum(1) - 1, 0)[:, past:],
    }
    for value in model.graph.inputs:
        if value.name.startswith("past_key_values."):
            _, heads, _, width = value.shape
            inputs[value.name] = random.standard_normal((batch, heads, past, width), np.float32)
    return inputs


def assert_same_results(before: ir.Model, after: ir.Model) -> None:
    for batch, past, tokens in ((1, 0, 1), (1, 0, 20), (3, 9, 1), (2, 7, 12)):
        inputs = portable_inputs(before, batch, past, tokens)
        expected, results = run(before, inputs), run(after, inputs)
        assert list(results) == list(expected)
        for name, value in expected.items():
            np.testing.assert_allclose(results[name], value, rtol=0, atol=2e-5, err_msg=name)


def build(make: Callable[..., object], **inputs: tuple[int | str, ...]) -> ir.Model:
    """A graph of float inputs, written on a tape: `make(op, *values)` is its output."""
    from onnx_ir import tape

    values = [
        ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT))
        for name, shape in inputs.items()
    ]
    op = tape.Tape()
    output = make(op, *values)
    assert isinstance(output, ir.Value)
    output.name = "output"
    output.type = ir.TensorType(ir.DataType.FLOAT)
    graph = ir.Graph(
        values,
        [output],
        nodes=op.nodes,
        initializers=op.initializers,
        opset_imports={"": 20},
        name="written_by_hand",
    )
    return ir.Model(graph, ir_version=10)


def constant(op: object, contents: object, kind: type = np.int64) -> ir.Value:
    tensor = ir.tensor(np.array(contents, kind))
    return op.op("Constant", [], {"value": tensor})  # type: ignore[attr-defined,no-any-return]
