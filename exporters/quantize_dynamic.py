"""Dynamic int8 quantization: products in int8 over whole columns, for many rows at a time.

Every constant matrix product becomes com.microsoft::DynamicQuantizeMatMul: int8 weights with a
scale for each output column, activations quantized to uint8 as the graph runs. It does more rows a
second than MatMulNBits on every CPU, and on CPUs without an int8 dot product also more tokens.

The kernel knows one scale for all rows of its input. After a norm the rows are alike; other rows
are divided by their own root mean square before the product, and the product multiplied by it,
so that no row is quantized by the measure of another.

A tied embedding is stored once, as int8 rows with a scale each: looked up by Gather, and turned
into the output projection's columns when the session is made.

Source: DynamicQuantizeMatMul in onnxruntime's docs/ContribOperators.md.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from atom_edge.errors import ExportError
from atom_edge.exporters.passes.matching import (
    MICROSOFT,
    add_initializer,
    array,
    remove_unused,
    size,
)

LARGEST = 127
_NORMS = ("SimplifiedLayerNormalization", "SkipSimplifiedLayerNormalization")
# Nodes that pass rows on as they are.
_ROUTES = ("Reshape", "Gather")

Stored = tuple[ir.Value, ir.Value]


def quantize_columns(
    weight: npt.NDArray[np.float32],
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Quantize each column of `weight` `[K, N]`, symmetric around 0.

    CPUs with AVX2 and without VNNI add the products of two neighbours in 16 bits: 255 times the sum
    of their levels must not reach 2**15. So the scale is that of the largest sum, if that is more
    than the largest level; every CPU then computes the same.

    Returns:
        int8 `[K, N]` and float32 scales `[N]`, `weight ~ levels * scales` to half a scale.

    Raises:
        ExportError: for weights that are not finite.
    """
    if not np.isfinite(weight).all():
        raise ExportError(
            "A weight matrix holds values that are not finite and cannot be quantized. "
            "Check the checkpoint, or export with --quantize none."
        )
    even = weight if weight.shape[0] % 2 == 0 else np.vstack([weight, 0 * weight[:1]])
    pairs = np.abs(even[0::2] + even[1::2]).max(axis=0)
    largest = np.maximum(np.abs(weight).max(axis=0), pairs)
    scales = (largest / LARGEST).astype(np.float32)
    # A column of zeros takes any scale; so does one of values too small to divide by.
    scales[scales < np.finfo(np.float32).tiny] = 1.0
    return np.rint(weight / scales).astype(np.int8), scales


def quantize_dynamic(model: ir.Model) -> ir.Model:
    """Quantize every constant matrix product of `model`, and the embedding, in place.

    Args:
        model: a fused float32 graph.

    Returns:
        `model`, whose float matrices are gone.
    """
    for node in list(model.graph):
        if _is_lookup(node):
            _quantize_lookup(model, node)
    for node in list(model.graph):
        if node.op_type == "MatMul":
            _quantize_product(model, node)
    remove_unused(model)
    model.graph.opset_imports[MICROSOFT] = 1
    return model


def _is_lookup(node: ir.Node) -> bool:
    table = array(node.inputs[0]) if node.op_type == "Gather" else None
    return table is not None and table.ndim == 2 and table.dtype == np.float32


def _quantize_lookup(model: ir.Model, node: ir.Node) -> None:
    """Look up int8 rows and their scales; a transposed use of the same table shares the rows."""
    table, ids = node.inputs[:2]
    contents = array(table)
    assert table is not None
    assert contents is not None
    levels, scales = quantize_columns(np.ascontiguousarray(contents.T))
    rows = add_initializer(model, f"{table.name}_int8", levels.T)
    scale = add_initializer(model, f"{table.name}_scale", scales)
    last = add_initializer(model, "last_axis", np.array([-1], np.int64))
    gathered = ir.node("Gather", [rows, ids])
    values = ir.node("Cast", [gathered.outputs[0]], {"to": ir.DataType.FLOAT})
    row_scales = ir.node("Gather", [scale, ids])
    column = ir.node("Unsqueeze", [row_scales.outputs[0], last])
    scaled = ir.node("Mul", [values.outputs[0], column.outputs[0]])
    _replace(model.graph, node, [gathered, values, row_scales, column, scaled])
    for use in list(table.uses()):
        if use.node.op_type == "Transpose":
            use.node.replace_input_with(0, rows)
            use.node.outputs[0].type = ir.TensorType(ir.DataType.INT8)
            for product in list(use.node.outputs[0].uses()):
                _multiply(model, product.node, (use.node.outputs[0], scale))


def _quantize_product(model: ir.Model, node: ir.Node) -> None:
    source = node.inputs[1]
    weight = array(source)
    if source is None or weight is None or weight.ndim != 2:
        return
    levels, scales = quantize_columns(weight)
    _multiply(
        model,
        node,
        (
            add_initializer(model, f"{source.name}_int8", levels),
            add_initializer(model, f"{source.name}_scale", scales),
        ),
    )


def _multiply(model: ir.Model, node: ir.Node, weight: Stored) -> None:
    x = node.inputs[0]
    assert x is not None
    if _is_even(x):
        product = ir.node("DynamicQuantizeMatMul", [x, *weight], domain=MICROSOFT)
        _replace(model.graph, node, [product])
        return
    width = size(x, len(x.shape) - 1) if x.shape is not None else None
    assert width is not None
    ones = add_initializer(model, f"ones.{width}", np.ones(width, np.float32))
    attributes = {"axis": -1, "epsilon": 1e-12, "stash_type": 1}
    normal = ir.node("SimplifiedLayerNormalization", [x, ones], attributes, num_outputs=2)
    rows, inverse = normal.outputs
    product = ir.node("DynamicQuantizeMatMul", [rows, *weight], domain=MICROSOFT)
    restored = ir.node("Div", [product.outputs[0], inverse])
    _replace(model.graph, node, [normal, product, restored])


def _is_even(x: ir.Value) -> bool:
    """Whether the rows of `x` come from a norm, and so have one root mean square."""
    node = x.producer()
    while node is not None and node.op_type in _ROUTES and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return node is not None and node.op_type in _NORMS


def _replace(graph: ir.Graph, old: ir.Node, nodes: list[ir.Node]) -> None:
    graph.insert_before(old, nodes[:-1])
    new = nodes[-1].outputs[0]
    new.name = old.outputs[0].name
    ir.convenience.replace_nodes_and_values(graph, old, [old], [nodes[-1]], old.outputs, [new])
