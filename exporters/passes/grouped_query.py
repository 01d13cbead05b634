"""One token over a static cache: rotation, cache and attention become GroupQueryAttention.

For one new token of one sequence a run is as long as its list of nodes. Matches the attention of
every layer (`cached_attention`) whose queries, keys and values come from one packed product, with
queries and keys turned by one RotaryEmbedding,

    packed = [queries, keys, values]   [1, 1, (H + 2 K) * D]

and gives the packed product to the operator, which turns, writes the cache in place where past and
present are bound to one buffer, and attends to the rows in use. The inputs of the graph change:
batch and sequence are 1, `attention_mask` and `position_ids` give way to

    past_length   int64 [1], tokens that are in the cache already

Declines, and leaves the graph as it was, when
1. any layer is not of that form,
2. the head size is not a multiple of 16, which the operator's rotation works in.

Source: GroupQueryAttention in onnxruntime's docs/ContribOperators.md.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter import MatchResult

from atom_edge.exporters.passes.cached_attention import (
    CachedAttention,
    heads_of,
    name_cache_length,
)
from atom_edge.exporters.passes.matching import (
    MICROSOFT,
    add_initializer,
    apply_rule,
    remove_unused,
    scalar,
)

_ROTATED_TOGETHER = 16


class _Packed(NamedTuple):
    product: ir.Value
    cos: ir.Value
    sin: ir.Value


class _GroupQueryAttention(CachedAttention):
    def __init__(self, past_length: ir.Value, total_length: ir.Value) -> None:
        super().__init__()
        self.past_length, self.total_length = past_length, total_length

    def check(  # type: ignore[override]
        self, context: Any, flat: ir.Value, key: ir.Value, value: ir.Value, **matched: Any
    ) -> MatchResult:
        result = super().check(context, flat=flat, key=key, value=value, **matched)
        if not result:
            return result
        if _packed_product(flat, key, value) is None:
            return result.fail("not one packed, rotated product", [flat, key, value])
        *_, width = heads_of(matched["queries"])
        if width % _ROTATED_TOGETHER:
            return result.fail("the operator does not rotate heads of this size", flat)
        return result

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
        packed = _packed_product(flat, key, value)
        assert packed is not None
        kv_heads, groups, width = heads_of(queries)
        attended, keys, values = op.GroupQueryAttention(
            packed.product,
            None,
            None,
            past_key,
            past_value,
            self.past_length,
            self.total_length,
            packed.cos,
            packed.sin,
            num_heads=kv_heads * groups,
            kv_num_heads=kv_heads,
            scale=scalar(scale),
            do_rotary=1,
            _domain=MICROSOFT,
            _version=1,
            _outputs=3,
        )
        attended.shape, attended.type = flat.shape, flat.type
        by_head = np.array([1, 1, kv_heads * groups, width], np.int64)
        return op.Reshape(attended, op.Constant(value=ir.tensor(by_head))), keys, values


def _packed_product(flat: ir.Value, key: ir.Value, value: ir.Value) -> _Packed | None:
    """What queries, keys and values are parts of, and the tables of the angles."""
    inner = _producer(flat, "Split")
    rotation = _producer(inner.inputs[0], "RotaryEmbedding") if inner else None
    outer = _producer(rotation.inputs[0], "Split") if rotation else None
    if inner is None or rotation is None or outer is None:
        return None
    parts = [*inner.outputs, *outer.outputs[1:]]
    if parts != [flat, _before_heads(key), _before_heads(value)]:
        return None
    product, (_, _, cos, sin) = outer.inputs[0], rotation.inputs
    return _Packed(product, cos, sin) if product and cos and sin else None


def _before_heads(heads: ir.Value) -> ir.Value | None:
    """The value `[B, T, K * D]` that `heads` `[B, K, T, D]` views."""
    turned = _producer(heads, "Transpose")
    viewed = _producer(turned.inputs[0], "Reshape") if turned else None
    return viewed.inputs[0] if viewed else None


def _producer(value: ir.Value | None, operator: str) -> ir.Node | None:
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type == operator else None


def use_grouped_query_attention(model: ir.Model) -> int:
    """Apply the pass in place, after `pack_products` and `fuse_rotary`.

    Returns:
        the number of layers; 0 if the pass declined.
    """
    layers = sum(value.name.endswith(".key") for value in model.graph.inputs if value.name)
    if _convert(model.clone()) != layers:
        return 0
    return _convert(model)


def _convert(model: ir.Model) -> int:
    graph = model.graph
    one = add_initializer(model, "one_token", np.array([1], np.int32))
    past_length = ir.Value(
        name="past_length", shape=ir.Shape([1]), type=ir.TensorType(ir.DataType.INT64)
    )
    held = ir.node("Cast", [past_length], attributes={"to": ir.DataType.INT32})
    total = ir.node("Add", [held.outputs[0], one])
    graph.insert_before(graph[0], [held, total])
    layers = apply_rule(_GroupQueryAttention(held.outputs[0], total.outputs[0]), model)
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
