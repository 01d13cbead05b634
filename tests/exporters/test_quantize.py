"""Int8 quantization: the arithmetic, the graph, and the kernel that reads it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from atom_edge.errors import ExportError
from atom_edge.exporters.precision.blocks import add_initializer, dequantize_blocks, quantize
from atom_edge.exporters.precision.blocks import quantize_blocks as blocks
from atom_edge.exporters.precision.stored import store_blocks

FLOATS = st.floats(-1e4, 1e4, width=32)


@settings(max_examples=80, deadline=None)
@given(
    weight=hnp.arrays(
        np.float32, st.tuples(st.integers(1, 5), st.integers(1, 70)), elements=FLOATS
    ),
    block=st.sampled_from([16, 32, 64]),
)
def test_every_value_is_within_half_a_step(weight: np.ndarray, block: int) -> None:
    levels, scales = blocks(weight, block)
    assert levels.dtype == np.uint8
    assert levels.min() >= 1  # symmetric: 0 is never used
    restored = dequantize_blocks(levels, scales, weight.shape[1])
    step = np.repeat(scales, block, axis=1)[:, : weight.shape[1]]
    assert (np.abs(restored - weight) <= 0.5001 * step).all()


def test_a_block_of_zeros_stays_zero() -> None:
    levels, scales = blocks(np.zeros((2, 40), np.float32), 32)
    assert (dequantize_blocks(levels, scales, 40) == 0).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(ExportError, match="not finite"):
        blocks(np.array([[1.0, value]], np.float32), 16)


def embedding_and_head(tied: bool, vocab: int = 50, width: int = 48) -> tuple[ir.Model, np.ndarray]:
    """Logits of looked-up rows: the smallest graph with both uses of a tied embedding."""
    rng = np.random.default_rng(0)
    table = rng.standard_normal((vocab, width)).astype(np.float32)
    head = table if tied else rng.standard_normal((vocab, width)).astype(np.float32)
    ids = ir.val("input_ids", ir.DataType.INT64, ir.Shape(["batch_size", "sequence_length"]))
    graph = ir.Graph([ids], [], nodes=[], opset_imports={"": 20}, name="test")
    embedding = add_initializer(graph, "embedding", table)
    source = embedding if tied else add_initializer(graph, "head", head)
    gather = ir.node("Gather", [embedding, ids])
    transpose = ir.node("Transpose", [source], {"perm": [1, 0]})
    matmul = ir.node("MatMul", [gather.outputs[0], transpose.outputs[0]])
    graph.extend([gather, transpose, matmul])
    logits = matmul.outputs[0]
    logits.name, logits.dtype = "logits", ir.DataType.FLOAT
    logits.shape = ir.Shape(["batch_size", "sequence_length", vocab])
    graph.outputs.append(logits)
    return ir.Model(graph, ir_version=10), table @ head.T


def product(weight: np.ndarray, axes: tuple[str, ...]) -> ir.Model:
    """Logits of an input `[..., K]` times a constant matrix `[K, N]`."""
    x = ir.val("x", ir.DataType.FLOAT, ir.Shape([*axes, weight.shape[0]]))
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": 20}, name="test")
    matmul = ir.node("MatMul", [x, add_initializer(graph, "weight", weight)])
    graph.append(matmul)
    logits = matmul.outputs[0]
    logits.name, logits.dtype = "logits", ir.DataType.FLOAT
    logits.shape = ir.Shape([*axes, weight.shape[1]])
    graph.outputs.append(logits)
    return ir.Model(graph, ir_version=10)


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (3, 4), (7,)])
def test_activations_of_16_bits_lose_next_to_nothing(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((96, 70)).astype(np.float32)
    x = rng.standard_normal((*shape, 96)).astype(np.float32)
    x[0, ..., :32] = 0  # a block without a scale
    exact = x.astype(np.float64) @ dequantize_blocks(*blocks(weight.T, 32), 96).T
    errors = {}
    for bits in (8, 16):
        model = quantize(product(weight, ("batch", "tokens")[: len(shape)]), activation_bits=bits)
        ir.save(model, tmp_path / f"{bits}.onnx")
        session = ort.InferenceSession(tmp_path / f"{bits}.onnx")
        (logits,) = session.run(None, {"x": x})
        errors[bits] = np.abs(logits - exact).max()
    assert errors[16] < errors[8] / 50, errors


@pytest.mark.parametrize("block", [16, 32, 64])
@pytest.mark.parametrize("tied", [True, False])
def test_products_and_embedding_become_bytes(tmp_path: Path, tied: bool, block: int) -> None:
    model, expected = embedding_and_head(tied)
    quantize(model, block)
    kinds = [node.op_type for node in model.graph]
    assert "MatMul" not in kinds
    assert kinds.count("GatherBlockQuantized") == kinds.count("MatMulNBits") == 1
    stored = [v for v in model.graph.initializers.values() if v.name.endswith("_int8")]
    assert len(stored) == (1 if tied else 2), "a tied embedding is stored once"

    ir.save(model, tmp_path / "model.onnx")
    session = ort.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    ids = np.arange(50, dtype=np.int64)[None]
    (logits,) = session.run(None, {"input_ids": ids})
    # Weights and activations each lose half a step of 127 a value; 48 values are summed.
    assert np.abs(logits[0] - expected).max() < 0.03 * expected.std() * 48**0.5
    assert np.abs(logits[0] - expected).max() > 0, "this is not the float graph"


def test_a_graph_without_weights_is_refused() -> None:
    x = ir.val("x", ir.DataType.FLOAT, ir.Shape([1]))
    node = ir.node("Relu", [x])
    graph = ir.Graph([x], node.outputs, nodes=[node], opset_imports={"": 20})
    with pytest.raises(ExportError, match="no constant matrix product"):
        quantize(ir.Model(graph, ir_version=10))


@pytest.mark.parametrize("block", [16, 32, 64])
@pytest.mark.parametrize("tied", [True, False])
def test_weights_are_stored_in_bytes_and_multiplied_as_floats(
    tmp_path: Path, tied: bool, block: int
) -> None:
    model, _ = embedding_and_head(tied)
    tables = [v.const_value.numpy() for v in model.graph.initializers.values()]
    restored = [dequantize_blocks(*blocks(table, block), table.shape[1]) for table in tables]
    store_blocks(model, block)
    stored = [v for v in model.graph.initializers.values() if v.name.endswith("_int8")]
    assert len(stored) == (1 if tied else 2), "a tied embedding is stored once"
    ir.save(model, tmp_path / "stored.onnx")
    onnx.checker.check_model(tmp_path / "stored.onnx", full_check=True)
    ids = np.arange(50, dtype=np.int64).reshape(2, 25)
    session = ort.InferenceSession(tmp_path / "stored.onnx")
    (logits,) = session.run(None, {"input_ids": ids})
    np.testing.assert_allclose(
        logits.reshape(50, 50), restored[0] @ restored[-1].T, rtol=1e-5, atol=1e-4
    )


@pytest.mark.parametrize("operator", ["MatMul", "Gemm"])
def test_matrices_of_every_orientation_are_stored(tmp_path: Path, operator: str) -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((40, 70)).astype(np.float32)
    x = rng.standard_normal((3, 40)).astype(np.float32)
    model = product(weight, ("batch",))
    if operator == "Gemm":
        node = model.graph[0]
        bias = add_initializer(model.graph, "bias", np.ones(70, np.float32))
        gemm = ir.node("Gemm", [*node.inputs, bias])
        gemm.outputs[0].name = node.outputs[0].name
        ir.convenience.replace_nodes_and_values(
            model.graph, node, [node], [gemm], node.outputs, gemm.outputs
        )
    ir.save(store_blocks(model), tmp_path / "stored.onnx")
    (logits,) = ort.InferenceSession(tmp_path / "stored.onnx").run(None, {"x": x})
    expected = x @ dequantize_blocks(*blocks(weight.T, 32), 40).T + (operator == "Gemm")
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-4)


def test_a_graph_without_weights_is_not_stored() -> None:
    with pytest.raises(ExportError, match="no constant matrix product"):
        store_blocks(ir.Model(ir.Graph([], [], nodes=[], opset_imports={"": 20}), ir_version=10))
