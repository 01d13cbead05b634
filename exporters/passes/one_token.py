"""One token over a static cache: queries, keys and values of all heads are the rows of one product.

A run for one new token of one sequence is as long as its list of nodes. Matches the attention of
every layer (`cached_attention`) whose queries, keys and values are parts of one packed product,
queries and keys turned by one RotaryEmbedding, with H query and K key-value heads,

    packed = [queries, keys, values]   [1, 1, (H + 2 K) * D]

and views the product as rows `[1, 1, H + 2 K, D]`. They are turned together, each by the position
that it is given: the token's for queries and keys, and 0, which turns nothing, for values. One
Split then gives the three parts in the form that the cache and Attention take. The inputs of the
graph change: batch and sequence are 1, `attention_mask` and `position_ids` give way to

    past_length   int64 [1], tokens that are in the cache already

Declines when any layer is not of that form; the graph is then left as it was.

Source: Attention and TensorScatter of ONNX opset 24; RotaryEmbedding of com.microsoft.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from atom_edge.exporters.passes.cached_attention import (
    CACHE_AXIS,
    PackedAttention,
    heads_of,
    name_cache_length,
    packed_product,
)
from atom_edge.exporters.passes.matching import (
    MICROSOFT,
    add_initializer,
    apply_rule,
    remove_unused,
    scalar,
)
from atom_edge.exporters.passes.static_cache import OPSET


class _Rows(PackedAttention):
    def __init__(self, past_length: ir.Value, positions: ir.Value, length: ir.Value) -> None:
        super().__init__()
        self.past_length, self.positions, self.length = past_length, positions, length

    def rewrite(
        self,
        op: Any,
        flat: ir.Value,
        past_key: ir.Value,
        key: ir.Value,
        past_value: ir.Value,
        value: ir.Value,
        scale: ir.Value,
        queries: ir.Value,
        **_: ir.Value,
    ) -> Any:
        packed = packed_product(flat, key, value)
        assert packed is not None
        kv_heads, groups, width = heads_of(queries)
        heads = kv_heads * groups

        def shaped(x: ir.Value, *sizes: int) -> ir.Value:
            x.shape, x.type = ir.Shape(sizes), flat.type
            return x

        def view(x: ir.Value, *sizes: int) -> ir.Value:
            shape = op.Constant(value=ir.tensor(np.array(sizes, np.int64)))
            return shaped(op.Reshape(x, shape), *sizes)

        turned = op.RotaryEmbedding(
            view(packed.product, 1, 1, heads + 2 * kv_heads, width),
            self.positions,
            packed.cos,
            packed.sin,
            _domain=MICROSOFT,
            _version=1,
        )
        sizes = op.Constant(value=ir.tensor(np.array([heads, kv_heads, kv_heads], np.int64)))
        query, new_key, new_value = op.Split(turned, sizes, axis=2, _outputs=3)
        shaped(query, 1, 1, heads, width)
        shaped(new_key, 1, 1, kv_heads, width)
        shaped(new_value, 1, 1, kv_heads, width)
        by_kv_head = (1, kv_heads, 1, width)
        scatter = {"axis": CACHE_AXIS}
        keys = op.TensorScatter(past_key, view(new_key, *by_kv_head), self.past_length, **scatter)
        values = op.TensorScatter(
            past_value, view(new_value, *by_kv_head), self.past_length, **scatter
        )
        attended = op.Attention(
            view(query, 1, kv_heads, groups, width),
            keys,
            values,
            None,
            None,
            None,
            self.length,
            scale=scalar(scale),
        )
        shaped(attended, 1, kv_heads, groups, width)
        # XSA uses the values too: without this the first Split would stay for them alone.
        ir.convenience.replace_all_uses_with(packed.values, view(new_value, 1, 1, kv_heads * width))
        return view(attended, 1, 1, heads, width), keys, values


def attend_one_token(model: ir.Model) -> int:
    """Apply the pass in place, after `pack_products` and `fuse_rotary`.

    Returns:
        the number of layers; 0 if the pass declined.
    """
    graph = model.graph
    layers = sum(value.name.endswith(".key") for value in graph.inputs if value.name)
    heads = _heads(graph)
    if heads is None or _convert(model.clone(), *heads) != layers:
        return 0
    _convert(model, *heads)
    model.opset_imports[""] = OPSET
    graph.opset_imports[""] = OPSET
    return layers


def _heads(graph: ir.Graph) -> tuple[int, int] | None:
    """Heads that are turned and key-value heads, of the first layer."""
    rotation = next((node for node in graph if node.op_type == "RotaryEmbedding"), None)
    cache = next(value for value in graph.inputs if value.name == "past_key_values.0.key")
    if rotation is None or cache.shape is None or not isinstance(cache.shape[1], int):
        return None
    return rotation.attributes.get_int("num_heads", 0), cache.shape[1]


def _convert(model: ir.Model, turned: int, kv_heads: int) -> int:
    graph = model.graph
    past_length = ir.Value(
        name="past_length", shape=ir.Shape([1]), type=ir.TensorType(ir.DataType.INT64)
    )
    one = add_initializer(model, "one_token", np.array([1], np.int64))
    moved = add_initializer(
        model, "turned_rows", np.array([[1] * turned + [0] * kv_heads], np.int64)
    )
    positions = ir.node("Mul", [past_length, moved])
    length = ir.node("Add", [past_length, one])
    graph.insert_before(graph[0], [positions, length])
    rows = _Rows(past_length, positions.outputs[0], length.outputs[0])
    layers = apply_rule(rows, model)
    graph.sort()  # what used the values may stand before them now
    graph.inputs.append(past_length)
    remove_unused(model)
    for value in list(graph.inputs):
        if value.name in ("attention_mask", "position_ids") and not value.uses():
            graph.inputs.remove(value)
    name_cache_length(graph)
    _fix_sizes(graph, {"batch_size": 1, "sequence_length": 1})
    return layers


def _fix_sizes(graph: ir.Graph, sizes: dict[str, int]) -> None:
    """Give free axes the sizes of their names, wherever they occur."""
    for value in (*graph.inputs, *(output for node in graph for output in node.outputs)):
        if value.shape is not None:
            value.shape = ir.Shape(
                [
                    sizes.get(str(axis.value), axis) if isinstance(axis, ir.SymbolicDim) else axis
                    for axis in value.shape
                ]
            )
