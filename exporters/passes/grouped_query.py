"""Grouped-query attention: rotation, cache and attention of a layer in one operator.

Matches the attention of every layer (`cached_attention`) whose queries, keys and values are parts
of one packed product, queries and keys turned by one RotaryEmbedding, and puts GroupQueryAttention
in its place. Past and present are of one length, so that a caller who binds both to one buffer has
them written in place. The inputs of the graph change: `attention_mask` and `position_ids` give way
to

    seqlens_k               int32 [B], tokens of each row with the new ones, less one
    total_sequence_length   int32 [], on the CPU: the longest row with its new tokens; for one new
                            token the length of the cache will do as well

Rows of different length are padded on the right. Several new tokens of several rows are taken only
as the first ones of their rows.

Declines when any layer is not of that form, or the head size is not a multiple of 16, which the
operator's own rotation needs; the graph is then left as it was.

Source: GroupQueryAttention of com.microsoft.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter import MatchResult

from atom_edge.exporters.passes.cached_attention import (
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
    size,
)

_WIDTH_STEP = 16


class _GroupedQuery(PackedAttention):
    def __init__(self, lengths: ir.Value, total: ir.Value) -> None:
        super().__init__()
        self.lengths, self.total = lengths, total

    def check(  # type: ignore[override]  # as in the base
        self, context: Any, queries: ir.Value, **matched: Any
    ) -> MatchResult:
        result = super().check(context, queries=queries, **matched)
        if result and heads_of(queries)[2] % _WIDTH_STEP:
            return result.fail("a head size that the operator does not rotate", queries)
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
        packed = packed_product(flat, key, value)
        assert packed is not None
        kv_heads, groups, width = heads_of(queries)
        heads = kv_heads * groups
        attended, keys, values = op.GroupQueryAttention(
            packed.product,
            None,
            None,
            past_key,
            past_value,
            self.lengths,
            self.total,
            packed.cos,
            packed.sin,
            num_heads=heads,
            kv_num_heads=kv_heads,
            scale=scalar(scale),
            do_rotary=1,
            _domain=MICROSOFT,
            _version=1,
            _outputs=3,
        )
        attended.shape, attended.type = flat.shape, flat.type
        shape = op.Constant(value=ir.tensor(np.array([0, 0, heads, width], np.int64)))
        return op.Reshape(attended, shape, allowzero=0), keys, values


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
    lengths = ir.Value(
        name="seqlens_k", shape=ir.Shape(["batch_size"]), type=ir.TensorType(ir.DataType.INT32)
    )
    total = ir.Value(
        name="total_sequence_length", shape=ir.Shape([]), type=ir.TensorType(ir.DataType.INT32)
    )
    layers = apply_rule(_GroupedQuery(lengths, total), model)
    graph.inputs.extend([lengths, total])
    remove_unused(model)
    for node in [node for node in graph if node.op_type == "Split"]:
        _keep_last_part(model, node)
    for value in list(graph.inputs):
        if value.name in ("attention_mask", "position_ids") and not value.uses():
            graph.inputs.remove(value)
    name_cache_length(graph)
    return layers


def _keep_last_part(model: ir.Model, split: ir.Node) -> None:
    """Cut out the values, for XSA, where a Split would copy queries and keys too."""
    first, last = split.outputs[0], split.outputs[-1]
    if len(split.outputs) != 2 or first.uses() or size(last, 2) is None:
        return
    product, width = split.inputs[0], size(last, 2)
    assert product is not None
    assert width is not None
    bounds = [
        add_initializer(model, f"values.{name}", np.array([number], np.int64))
        for name, number in (("start", -width), ("end", np.iinfo(np.int64).max), ("axis", 2))
    ]
    cut = ir.node("Slice", [product, *bounds])
    cut.outputs[0].shape, cut.outputs[0].type = last.shape, last.type
    model.graph.insert_before(split, cut)
    ir.convenience.replace_all_uses_with(last, cut.outputs[0])
    model.graph.remove(split, safe=True)
