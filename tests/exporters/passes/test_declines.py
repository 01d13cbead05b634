"""Where a pass must not match: graphs that look alike and compute something else."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from atom_edge.exporters.passes.chosen_logits import choose_logits
from atom_edge.exporters.passes.fixed_shapes import fix_shapes
from atom_edge.exporters.passes.own_value import fuse_own_value
from atom_edge.exporters.passes.packed_products import pack_products
from atom_edge.exporters.passes.projection import project_off_own_value
from atom_edge.exporters.passes.residual_norm import fuse_residual_norm
from atom_edge.exporters.passes.rms_norm import fuse_rms_norm
from atom_edge.exporters.passes.rotary import fuse_rotary
from atom_edge.exporters.passes.silu import fuse_silu
from atom_edge.exporters.passes.static_cache import use_static_cache

from .conftest import build, constant, operators, run


def norm(axis: int = -1, power: float = 2.0, weight_shape: tuple[int, ...] = (8,)) -> ir.Model:
    def make(op, x):
        squares = op.op("Pow", [x, constant(op, power, np.float32)])
        mean = op.op("ReduceMean", [squares, constant(op, [axis])], {"keepdims": 1})
        root = op.op("Sqrt", [op.op("Add", [mean, constant(op, 1e-6, np.float32)])])
        normal = op.op("Mul", [x, op.op("Reciprocal", [root])])
        weight = constant(op, np.ones(weight_shape), np.float32)
        weight.shape = ir.Shape(weight_shape)
        return op.op("Mul", [normal, weight])

    return build(make, x=(4, 8))


def test_a_norm_as_it_is_written_by_hand_is_found() -> None:
    assert fuse_rms_norm(norm()) == fuse_rms_norm(norm(axis=1)) == 1


@pytest.mark.parametrize(
    "model", [norm(axis=0), norm(power=3.0), norm(weight_shape=(4, 8))], ids=("axis", "cube", "2d")
)
def test_another_norm_is_not_an_rms_norm(model: ir.Model) -> None:
    before = operators(model)
    assert fuse_rms_norm(model) == 0
    assert operators(model) == before


def residual(second: tuple[int, ...], axis: int) -> ir.Model:
    def make(op, a, b):
        weight = constant(op, np.ones(8), np.float32)
        total = op.op("Add", [a, b])
        attributes = {"axis": axis, "epsilon": 1e-6}
        return op.op("SimplifiedLayerNormalization", [total, weight], attributes)

    return build(make, a=(2, 4, 8), b=second)


def test_a_residual_norm_needs_equal_shapes_and_the_last_axis() -> None:
    assert fuse_residual_norm(residual((2, 4, 8), -1)) == 1
    assert fuse_residual_norm(residual((8,), -1)) == 0
    assert fuse_residual_norm(residual((2, 4, 8), 1)) == 0


def test_a_gate_of_another_value_is_not_silu() -> None:
    def gate(op, x, y):
        return op.op("Mul", [x, op.op("Sigmoid", [y])])

    assert fuse_silu(build(gate, x=(2, 8), y=(2, 8))) == 0
    assert fuse_silu(build(lambda op, x: gate(op, x, x), x=(2, 8))) == 1


def products(*weights: np.ndarray | None) -> ir.Model:
    def make(op, x, w):
        results = [
            op.op("MatMul", [x, w if weight is None else constant(op, weight, np.float32)])
            for weight in weights
        ]
        total = results[0]
        for result in results[1:]:
            total = op.op("Add", [total, result])
        return total

    return build(make, x=(3, 8), w=(8, 8))


def test_only_constant_matrices_are_packed() -> None:
    matrix = np.random.default_rng(0).standard_normal((8, 8))
    assert pack_products(products(matrix, 2 * matrix)) == 1
    assert pack_products(products(matrix)) == 0
    assert pack_products(products(matrix, None)) == 0
    assert pack_products(products(matrix, matrix[None])) == 0


def direction(epsilon: float, axis: int, place: int = 2) -> ir.Model:
    def make(op, v):
        squares = op.op("Pow", [v, constant(op, 2.0, np.float32)])
        total = op.op("ReduceSum", [squares, constant(op, [axis])], {"keepdims": 1})
        bounded = op.op("Clip", [total, constant(op, epsilon, np.float32)])
        unit = op.op("Mul", [v, op.op("Reciprocal", [op.op("Sqrt", [bounded])])])
        return op.op("Unsqueeze", [unit, constant(op, [place])])

    return build(make, v=(2, 3, 8))


def test_a_direction_has_a_small_epsilon_and_the_last_axis() -> None:
    assert fuse_own_value(direction(1e-20, -1)) == 1
    assert fuse_own_value(direction(1e-3, -1)) == 0
    assert fuse_own_value(direction(1e-20, 1)) == 0
    assert fuse_own_value(direction(1e-20, -1, place=3)) == 0


def change(model: ir.Model, operator: str, edit: Callable[[ir.Node], None]) -> ir.Model:
    for node in model.graph:
        if node.op_type == operator:
            edit(node)
    return model


def test_a_rotation_by_computed_angles_is_left(traced: ir.Model) -> None:
    computed = ir.node("Cos", [traced.graph.initializers[_table(traced)]])
    traced.graph.insert_before(traced.graph[0], computed)
    change(traced, "GatherND", lambda node: node.replace_input_with(0, computed.outputs[0]))
    assert fuse_rotary(traced) == 0


def _table(model: ir.Model) -> str:
    return str(next(n.inputs[0].name for n in model.graph if n.op_type == "GatherND"))


def test_a_static_cache_is_all_or_nothing(traced: ir.Model) -> None:
    """One layer whose scores are not scaled by a constant keeps all from it."""
    softmax = next(node for node in traced.graph if node.op_type == "Softmax")
    scaled = softmax.inputs[0].producer().inputs[0].producer()
    assert scaled.op_type == "Mul"
    computed = ir.node("Exp", [scaled.inputs[1]])
    traced.graph.insert_before(scaled, computed)
    scaled.replace_input_with(1, computed.outputs[0])
    before = operators(traced)
    assert use_static_cache(traced) == 0
    assert operators(traced) == before
    assert "past_length" not in {value.name for value in traced.graph.inputs}


def projection(axis: int = -1, rows: int | str = 4, directions: int = 1) -> ir.Model:
    def make(op, y, v):
        weight = constant(op, np.ones(8), np.float32)
        unit = op.op("SimplifiedLayerNormalization", [v, weight], {"axis": -1, "epsilon": 1e-6})
        products = op.op("Mul", [y, unit])
        along = op.op("ReduceSum", [products, constant(op, [axis])], {"keepdims": 1})
        return op.op("Sub", [y, op.op("Mul", [along, unit])])

    return build(make, y=(2, 3, rows, 8), v=(2, 3, directions, 8))


def test_a_projection_has_one_direction_for_each_matrix() -> None:
    model, before = projection(), projection()
    assert project_off_own_value(model) == 1
    inputs = {
        name: np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        for name, shape in (("y", (2, 3, 4, 8)), ("v", (2, 3, 1, 8)))
    }
    expected = run(before, inputs)["output"]
    np.testing.assert_allclose(run(model, inputs)["output"], expected, rtol=0, atol=1e-6)
    assert project_off_own_value(projection(axis=1)) == 0
    assert project_off_own_value(projection(rows="n")) == 0
    assert project_off_own_value(projection(directions=4)) == 0


def test_logits_of_another_making_are_left(traced: ir.Model) -> None:
    logits = traced.graph.outputs[0]
    product = logits.producer()
    doubled = ir.node("Add", [product.outputs[0], product.outputs[0]])
    traced.graph.insert_after(product, doubled)
    doubled.outputs[0].name, logits.name = "logits", "half"
    traced.graph.outputs[0] = doubled.outputs[0]
    assert choose_logits(traced) == 0


def test_two_free_axes_that_both_move_keep_their_computed_shape() -> None:
    def make(op, x):
        sizes = op.op("Shape", [x])
        turned = op.op("Gather", [sizes, constant(op, [1, 0, 2])])
        view = op.op("Reshape", [x, turned])
        view.shape = ir.Shape(["b", "a", 4])
        view.type = ir.TensorType(ir.DataType.FLOAT)
        return op.op("Neg", [view])

    model = build(make, x=("a", "b", 4))
    assert fix_shapes(model) == 0
    assert operators(model)["Gather"] == 1
