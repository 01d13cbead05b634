"""Chosen logits: what only the logits depend on runs only for the positions that a caller names.

Prefill needs the logits of one position of each row. The projection to the vocabulary is a fifth of
the weights, and behind the last attention all of the last layer treats every position by itself.
Matches a `logits` output `[B, T, V]` that a MatMul makes; adds the input

    logits_index   int64 [N], places b * T + t

and makes the output `[N, V]`, in the order of the index. The positions are chosen as early as
possible: before all nodes that work on each position by itself and serve nothing else.

Declines when `logits` is made by anything else than a MatMul with a constant, or the width of a
value that is chosen from is not static.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from atom_edge.exporters.passes.matching import add_initializer, size

# With inputs that are all [B, T, ...] or constant, and the work done along the last axis.
_BY_POSITION = ("Add", "MatMul", "Mul", "QuickGelu", "SimplifiedLayerNormalization")


def choose_logits(model: ir.Model) -> int:
    """Apply the pass in place, after `use_static_cache`; returns 1, or 0 if it declined."""
    graph = model.graph
    logits = next((value for value in graph.outputs if value.name == "logits"), None)
    product = logits.producer() if logits is not None else None
    if logits is None or product is None or product.op_type != "MatMul":
        return 0
    if not _works_by_position(product):
        return 0
    region = _region_before(graph, product)
    sources = dict.fromkeys(value for node in region for value in _positions_of(node))
    made = {output for node in region for output in node.outputs}
    if any(size(value, 2) is None for value in sources):
        return 0
    index = ir.Value(
        name="logits_index", shape=ir.Shape(["chosen"]), type=ir.TensorType(ir.DataType.INT64)
    )
    graph.inputs.append(index)
    for value in sources:
        if value not in made:
            _choose(model, value, index, region)
    for value in made:
        assert value.shape is not None
        value.shape = ir.Shape(["chosen", *value.shape[2:]])
    return 1


def _region_before(graph: ir.Graph, product: ir.Node) -> list[ir.Node]:
    """`product` and the nodes by position that serve only it, in the order of the graph."""
    region = {product}
    for node in reversed(graph):
        uses = [use.node for output in node.outputs for use in output.uses()]
        inside = uses and all(use in region for use in uses)
        if inside and _works_by_position(node) and not node.outputs[0].is_graph_output():
            region.add(node)
    return [node for node in graph if node in region]


def _works_by_position(node: ir.Node) -> bool:
    if node.op_type not in _BY_POSITION or node.attributes.get_int("axis", -1) != -1:
        return False
    if node.op_type == "MatMul" and not _is_constant(node.inputs[1]):
        return False
    positions = _positions_of(node)
    return bool(positions) and all(
        _is_constant(value) or value in positions for value in node.inputs if value is not None
    )


def _positions_of(node: ir.Node) -> list[ir.Value]:
    """The inputs of `node` that are `[B, T, ...]`."""
    return [
        value
        for value in node.inputs
        if value is not None
        and not _is_constant(value)
        and value.shape is not None
        and len(value.shape) == 3
        and not isinstance(value.shape[1], int)
    ]


def _is_constant(value: ir.Value | None) -> bool:
    if value is None:
        return False
    node = value.producer()
    if node is not None and node.op_type == "Transpose":  # of a table that is the embedding too
        return _is_constant(node.inputs[0])
    return ir.convenience.get_const_tensor(value) is not None


def _choose(model: ir.Model, value: ir.Value, index: ir.Value, region: list[ir.Node]) -> None:
    width = size(value, 2)
    shape = add_initializer(model, f"rows_of_{width}", np.array([-1, width], np.int64))
    rows = ir.node("Reshape", [value, shape], attributes={"allowzero": 0})
    chosen = ir.node("Gather", [rows.outputs[0], index], attributes={"axis": 0})
    users = [node for node in region if value in node.inputs]
    model.graph.insert_before(users[0], [rows, chosen])
    for node in users:
        for place, used in enumerate(node.inputs):
            if used is value:
                node.replace_input_with(place, chosen.outputs[0])
