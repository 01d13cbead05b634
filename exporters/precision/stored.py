"""Int8 storage: 8-bit weights in blocks, which a runtime makes float32 as it opens the graph.

The file has a quarter of the size and the arithmetic is that of float32, in standard operators
alone. Weights times scales are made of constants, so that a runtime folds them once.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from atom_edge.errors import ExportError
from atom_edge.exporters.precision.blocks import (
    ZERO_POINT,
    add_initializer,
    array_of,
    constant_matrix,
    is_embedding,
    quantize_blocks,
    remove_unused,
)


def store_blocks(model: ir.Model, block: int = 32) -> ir.Model:
    """Store every constant matrix that `model` multiplies by, and the embedding, in place.

    Args:
        model: a float32 graph.
        block: elements that share a scale.

    Returns:
        `model`, whose float matrices are gone.

    Raises:
        ExportError: when there is nothing to store.
    """
    graph = model.graph
    products = [node for node in graph if constant_matrix(node) is not None]
    if not products:
        raise ExportError("The graph has no constant matrix product to quantize.")
    stored: dict[ir.Value, _Stored] = {}
    for node in products:
        found = constant_matrix(node)
        assert found is not None
        source, transposed = found
        if source not in stored:
            stored[source] = _Stored(graph, source, block, transposed=transposed)
            _use_instead(graph, source, stored[source].matrix())
    for node in [node for node in graph if is_embedding(node)]:
        table = node.inputs[0]
        assert table is not None
        if table not in stored:
            stored[table] = _Stored(graph, table, block, transposed=False)
        rows = stored[table].rows(node)
        ir.convenience.replace_all_uses_with(node.outputs[0], rows)
    remove_unused(graph)
    return model


def _use_instead(graph: ir.Graph, source: ir.Value, matrix: ir.Value) -> None:
    """Let every node but an embedding read `matrix` in the place of `source`."""
    for node, index in source.uses():
        if not is_embedding(node):
            node.replace_input_with(index, matrix)


class _Stored:
    """A matrix `[N, K]`, or `[K, N]` where it is transposed, as int8 `[N, blocks, block]`."""

    def __init__(self, graph: ir.Graph, source: ir.Value, block: int, *, transposed: bool) -> None:
        self._graph = graph
        self._transposed = transposed
        matrix = array_of(source)
        matrix = np.ascontiguousarray(matrix.T if transposed else matrix, np.float32)
        self._padded = matrix.shape[1] % block != 0
        levels, scales = quantize_blocks(matrix, block)
        signed = (levels.astype(np.int16) - ZERO_POINT).astype(np.int8)
        name = source.name
        self._levels = add_initializer(graph, f"{name}_int8", signed)
        self._scales = add_initializer(graph, f"{name}_scale", scales[:, :, None])
        self._width = matrix.shape[1]

    def matrix(self) -> ir.Value:
        """The float32 matrix in the shape of the source, made ahead of all else."""
        nodes = self._floats(self._levels, self._scales, rank=2)
        if self._transposed:
            nodes.append(ir.node("Transpose", nodes[-1].outputs, {"perm": [1, 0]}))
        self._graph.insert_before(self._graph[0], nodes)
        return nodes[-1].outputs[0]

    def rows(self, gather: ir.Node) -> ir.Value:
        """The float32 rows `[B, T, K]` that a Gather takes."""
        picked = [
            ir.node("Gather", [stored, gather.inputs[1]], {"axis": 0})
            for stored in (self._levels, self._scales)
        ]
        nodes = self._floats(*(node.outputs[0] for node in picked), rank=3)
        self._graph.insert_before(gather, [*picked, *nodes])
        return nodes[-1].outputs[0]

    def _floats(self, levels: ir.Value, scales: ir.Value, *, rank: int) -> list[ir.Node]:
        nodes = [ir.node("Cast", [levels], {"to": ir.DataType.FLOAT})]
        nodes.append(ir.node("Mul", [nodes[-1].outputs[0], scales]))
        whole = self._constant(f"whole_{rank}", [*[0] * (rank - 1), -1])
        nodes.append(ir.node("Reshape", [nodes[-1].outputs[0], whole]))
        if self._padded:
            # The zeros that fill the last block are cut off again.
            bounds = [
                self._constant(f"{label}_{number}", [number])
                for label, number in (("start", 0), ("end", self._width), ("axis", rank - 1))
            ]
            nodes.append(ir.node("Slice", [nodes[-1].outputs[0], *bounds]))
        return nodes

    def _constant(self, name: str, values: list[int]) -> ir.Value:
        name = f"stored_{name}"
        known = self._graph.initializers.get(name)
        return known or add_initializer(self._graph, name, np.array(values, np.int64))
