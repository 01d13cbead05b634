"""Packed products: products of one value with several weights become one, and a Split.

Query, key and value are one product so, and so are gate and up: a run of a node costs more than
the arithmetic of a small one, and one long product uses the threads better than three short ones.

Matches every group of two or more MatMul nodes that have the same left input and constant
two-dimensional right inputs of the same type. The outputs keep their order.

Declines for
1. a weight that is computed, or that has not two dimensions,
2. a product that is an output of the graph (its name must stay),
3. a group of one.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from atom_edge.exporters.passes.matching import add_initializer, array, remove_unused


def pack_products(model: ir.Model) -> int:
    """Apply the pass in place; returns the number of packed groups."""
    packed = 0
    for group in _groups(model.graph):
        _pack(model, group)
        packed += 1
    if packed:
        remove_unused(model)
    return packed


def _groups(graph: ir.Graph) -> list[list[ir.Node]]:
    by_input: dict[ir.Value, list[ir.Node]] = {}
    for node in graph:
        if node.op_type == "MatMul" and node.inputs[0] is not None and _can_pack(node):
            by_input.setdefault(node.inputs[0], []).append(node)
    return [group for group in by_input.values() if len(group) > 1]


def _can_pack(node: ir.Node) -> bool:
    weight = array(node.inputs[1])
    return weight is not None and weight.ndim == 2 and not node.outputs[0].is_graph_output()


def _pack(model: ir.Model, group: list[ir.Node]) -> None:
    x = group[0].inputs[0]
    assert x is not None
    weights = [held for node in group if (held := array(node.inputs[1])) is not None]
    columns = [held.shape[1] for held in weights]
    name = f"{group[0].outputs[0].name}.packed"
    weight = add_initializer(model, f"{name}.weight", np.concatenate(weights, axis=1))
    sizes = add_initializer(
        model, "split." + "_".join(map(str, columns)), np.array(columns, np.int64)
    )
    product = ir.node("MatMul", [x, weight])
    first = group[0].outputs[0]
    product.outputs[0].name = name
    product.outputs[0].type = first.type
    if first.shape is not None:
        product.outputs[0].shape = ir.Shape([*first.shape[:-1], sum(columns)])
    split = ir.node(
        "Split", [product.outputs[0], sizes], attributes={"axis": -1}, num_outputs=len(group)
    )
    model.graph.insert_before(group[0], [product, split])
    for node, output in zip(group, split.outputs, strict=True):
        old = node.outputs[0]
        output.name, output.type, output.shape = old.name, old.type, old.shape
        ir.convenience.replace_all_uses_with(old, output)
        model.graph.remove(node, safe=True)
