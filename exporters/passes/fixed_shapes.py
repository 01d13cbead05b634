"""Fixed shapes: views get constant shapes, and a chain of views becomes one.

A traced view computes its shape from the sizes of the inputs, at every run. A constant can say the
same: 0 for an axis that keeps its size, -1 for the one that is left over.

1. A Reshape, an Unsqueeze, a Squeeze, or a Transpose that moves only axes of size 1, after another
   of these, views the first one's input directly.
2. Its shape becomes a constant if at most one axis is neither static nor the input's axis of the
   same place.
3. A view that changes nothing goes.

Declines for values that are not float, for shapes that are not known, for two free axes that both
moved, and for graph outputs.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from atom_edge.exporters.passes.matching import remove_unused

_VIEWS = ("Reshape", "Unsqueeze", "Squeeze")


def fix_shapes(model: ir.Model) -> int:
    """Apply the pass in place; returns the number of views with a new, constant shape."""
    fixed = 0
    for node in list(model.graph):
        output = node.outputs[0]
        if not _is_view(node) or output.is_graph_output() or output.dtype != ir.DataType.FLOAT:
            continue
        source = _source(node)
        target = _constant_shape(source, output)
        if target is None:
            continue
        if source.shape == output.shape:
            ir.convenience.replace_all_uses_with(output, source)
        else:
            _view(model, node, source, target)
        fixed += 1
    if fixed:
        remove_unused(model)
    return fixed


def _is_view(node: ir.Node) -> bool:
    if node.op_type == "Transpose":
        source = node.inputs[0]
        order = node.attributes.get_ints("perm", ())
        if source is None or source.shape is None or not order:
            return False
        moved = [axis for axis in order if source.shape[axis] != 1]
        return moved == sorted(moved)
    return node.op_type in _VIEWS


def _source(node: ir.Node) -> ir.Value:
    value = node.inputs[0]
    assert value is not None
    before = value.producer()
    if before is not None and _is_view(before) and value.dtype == ir.DataType.FLOAT:
        return _source(before)
    return value


def _constant_shape(source: ir.Value, output: ir.Value) -> list[int] | None:
    if source.shape is None or output.shape is None:
        return None
    target: list[int] = []
    for axis, dimension in enumerate(output.shape):
        if isinstance(dimension, int):
            target.append(dimension)
        elif axis < len(source.shape) and _same_axis(source.shape[axis], dimension):
            target.append(0)
        else:
            target.append(-1)
    return target if target.count(-1) <= 1 else None


def _same_axis(first: int | ir.SymbolicDim, second: int | ir.SymbolicDim) -> bool:
    return (
        isinstance(first, ir.SymbolicDim)
        and isinstance(second, ir.SymbolicDim)
        and first.value is not None
        and first.value == second.value
    )


def _view(model: ir.Model, node: ir.Node, source: ir.Value, target: list[int]) -> None:
    shape = ir.node("Constant", [], attributes={"value": ir.tensor(np.array(target, np.int64))})
    view = ir.node("Reshape", [source, shape.outputs[0]], attributes={"allowzero": 0})
    old, new = node.outputs[0], view.outputs[0]
    new.shape, new.type = old.shape, old.type
    model.graph.insert_before(node, [shape, view])
    ir.convenience.replace_all_uses_with(old, new)
