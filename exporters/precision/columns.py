"""Dynamic int8 quantization: products in int8 over whole columns, for many rows at a time.

1. A constant matrix product right after a norm becomes com.microsoft::MatMulIntegerToFloat: int8
   weights with a scale for each output column, activations quantized to uint8 as the graph runs,
   once for all products of one norm. It does more rows a second than MatMulNBits on every CPU, and
   on CPUs without an int8 dot product also more tokens.
2. The kernel knows one scale for all rows of its input. After a norm the rows are alike; where
   they are not (the input of the down projection has rows a hundred times as large as others),
   that scale would be the loss of most rows. There the weights alone are int8: they are stored
   so, and turned to float once, when the session is made. So are those of the output projection,
   which runs for few rows and shows every error in the logits.
3. The embedding is stored as int8 rows with a scale each: looked up by Gather, and, where it is
   also the output projection, turned into its columns when the session is made.

Source: DynamicQuantizeLinear of ONNX opset 11; MatMulIntegerToFloat in onnxruntime's
docs/ContribOperators.md.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx_ir.passes import common

from atom_edge.errors import ExportError
from atom_edge.exporters.passes.matching import (
    MICROSOFT,
    add_initializer,
    array,
    remove_unused,
)

LARGEST = 127
_NORMS = ("SimplifiedLayerNormalization", "SkipSimplifiedLayerNormalization")

Matrix = npt.NDArray[np.float32]
Levels = npt.NDArray[np.int8]


def quantize_columns(weight: Matrix, *, in_pairs: bool = False) -> tuple[Levels, Matrix]:
    """Quantize each column of `weight` `[K, N]`, symmetric around 0.

    Args:
        weight: float32 `[K, N]`.
        in_pairs: for a product in int8. CPUs with AVX2 and without VNNI add the products of two
            neighbours in 16 bits, and cut off what does not fit. With a scale that keeps 255 times
            the sum of their levels below 2**15 every CPU computes the same.

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
    largest = np.abs(weight).max(axis=0)
    if in_pairs:
        even = weight if weight.shape[0] % 2 == 0 else np.vstack([weight, 0 * weight[:1]])
        largest = np.maximum(largest, np.abs(even[0::2] + even[1::2]).max(axis=0))
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
    common.CommonSubexpressionEliminationPass()(model)
    remove_unused(model)
    model.graph.opset_imports[MICROSOFT] = 1
    return model


def _is_lookup(node: ir.Node) -> bool:
    table = array(node.inputs[0]) if node.op_type == "Gather" else None
    return table is not None and table.ndim == 2 and table.dtype == np.float32


def _quantize_lookup(model: ir.Model, node: ir.Node) -> None:
    """Look up int8 rows and their scales; a product with the table transposed shares them."""
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
                _multiply_in_float(model, product.node, use.node.outputs[0], scale)


def _quantize_product(model: ir.Model, node: ir.Node) -> None:
    x, source = node.inputs[:2]
    weight = array(source)
    if x is None or source is None or weight is None or weight.ndim != 2:
        return
    before = x.producer()
    alike = before is not None and before.op_type in _NORMS
    levels, scales = quantize_columns(weight, in_pairs=alike)
    stored = add_initializer(model, f"{source.name}_int8", levels)
    scale = add_initializer(model, f"{source.name}_scale", scales)
    if alike:
        activations = ir.node("DynamicQuantizeLinear", [x], num_outputs=3)
        levels_of_x, scale_of_x, zero = activations.outputs
        product = ir.node(
            "MatMulIntegerToFloat",
            [levels_of_x, stored, scale_of_x, scale, zero],
            domain=MICROSOFT,
        )
        _replace(model.graph, node, [activations, product])
    else:
        _multiply_in_float(model, node, stored, scale)


def _multiply_in_float(model: ir.Model, node: ir.Node, levels: ir.Value, scales: ir.Value) -> None:
    # onnxruntime folds both nodes into a constant when it makes the session.
    values = ir.node("Cast", [levels], {"to": ir.DataType.FLOAT})
    scaled = ir.node("Mul", [values.outputs[0], scales])
    product = ir.node("MatMul", [node.inputs[0], scaled.outputs[0]])
    _replace(model.graph, node, [values, scaled, product])


def _replace(graph: ir.Graph, old: ir.Node, nodes: list[ir.Node]) -> None:
    graph.insert_before(old, nodes[:-1])
    new = nodes[-1].outputs[0]
    new.name = old.outputs[0].name
    ir.convenience.replace_nodes_and_values(graph, old, [old], [nodes[-1]], old.outputs, [new])
