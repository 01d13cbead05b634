"""The attention of a fused graph over its growing cache: what the passes for a static cache match.

With G query heads for each of the K key-value heads, in each layer,

    present = Concat(past, new) over axis 2, for keys and for values
    weights = Softmax(MatMul(queries [B, K, G, T, D], present keys) * scale + mask)
    Transpose(MatMul(weights, present values) as heads [B, H, T, D]) to [B, T, H, D]

Not matched are layers
1. whose heads or head size are not static, or whose scale is not a constant,
2. whose past is not an input of the graph,
3. whose mask depends on anything but the attention mask and the lengths.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import onnx_ir as ir
from onnxscript.rewriter import MatchResult, pattern

from atom_edge.exporters.passes.matching import scalar, size

CACHE_AXIS = 2


class PackedProduct(NamedTuple):
    """What queries, keys and values are parts of, its part of values, and the tables of angles."""

    product: ir.Value
    values: ir.Value
    cos: ir.Value
    sin: ir.Value


class CachedAttention(pattern.RewriteRuleClassBase):
    """Pattern and conditions; a pass adds the rewriting."""

    def __init__(self) -> None:
        super().__init__(remove_nodes=False)

    def pattern(
        self,
        op: Any,
        flat: Any,
        by_token: Any,
        grouped: Any,
        past_key: Any,
        key: Any,
        past_value: Any,
        value: Any,
        axis: Any,
        scale: Any,
        mask: Any,
        by_head: Any,
    ) -> Any:
        """What is matched; `flat` is the queries `[B, T, H * D]`."""
        present_key = op.Concat(past_key, key, axis=CACHE_AXIS)
        present_value = op.Concat(past_value, value, axis=CACHE_AXIS)
        tokens = op.Reshape(flat, by_token, _outputs=["tokens"])
        queries = op.Reshape(op.Transpose(tokens, perm=[0, 2, 1, 3]), grouped, _outputs=["queries"])
        turned = op.Transpose(op.Unsqueeze(present_key, axis), perm=[0, 1, 2, 4, 3])
        scores = op.Add(op.Mul(op.MatMul(queries, turned), scale), op.Unsqueeze(mask, axis))
        weights = op.Softmax(scores, axis=-1)
        mixed = op.MatMul(weights, op.Unsqueeze(present_value, axis))
        output = op.Transpose(op.Reshape(mixed, by_head), perm=[0, 2, 1, 3])
        return output, present_key, present_value

    def check(  # type: ignore[override]  # it names what it reads, as the base says
        self, context: Any, axis: ir.Value, scale: ir.Value, mask: ir.Value, **matched: ir.Value
    ) -> MatchResult:
        """The conditions of this module's docstring."""
        result = MatchResult()
        if scalar(axis) != CACHE_AXIS or scalar(scale) is None:
            return result.fail("another layout of heads, or no constant scale", [axis, scale])
        queries = matched["queries"]
        if any(size(queries, place) is None for place in (1, 2, 4)):
            return result.fail("heads or head size are not static", queries)
        for part in (matched["past_key"], matched["past_value"]):
            if not part.is_graph_input():
                return result.fail("the past is not an input of the graph", part)
        if "position_ids" in {value.name for value in _graph_inputs_of(mask)}:
            return result.fail("the mask depends on the positions", mask)
        return result


class PackedAttention(CachedAttention):
    """Likewise, of queries, keys and values that are parts of one packed product."""

    def check(  # type: ignore[override]  # the base names what it reads, and so does this
        self, context: Any, flat: ir.Value, key: ir.Value, value: ir.Value, **matched: Any
    ) -> MatchResult:
        """The conditions of the base, and a product that `packed_product` finds."""
        result = super().check(context, flat=flat, key=key, value=value, **matched)
        if result and packed_product(flat, key, value) is None:
            return result.fail("not one packed, rotated product", [flat, key, value])
        return result


def heads_of(queries: ir.Value) -> tuple[int, int, int]:
    """K, G and D of matched queries `[B, K, G, T, D]`."""
    kv_heads, groups, width = (size(queries, axis) for axis in (1, 2, 4))
    assert kv_heads is not None
    assert groups is not None
    assert width is not None
    return kv_heads, groups, width


def packed_product(flat: ir.Value, key: ir.Value, value: ir.Value) -> PackedProduct | None:
    """What matched queries, keys and values are parts of, turned together; None if they are not.

    Args:
        flat: the queries `[B, T, H * D]`.
        key: the new keys `[B, K, T, D]`.
        value: the new values `[B, K, T, D]`.
    """
    inner = _producer(flat, "Split")
    rotation = _producer(inner.inputs[0], "RotaryEmbedding") if inner else None
    outer = _producer(rotation.inputs[0], "Split") if rotation else None
    if inner is None or rotation is None or outer is None or len(outer.outputs) != 2:
        return None
    values = outer.outputs[1]
    if [*inner.outputs, values] != [flat, _before_heads(key), _before_heads(value)]:
        return None
    product, (_, _, cos, sin) = outer.inputs[0], rotation.inputs
    return PackedProduct(product, values, cos, sin) if product and cos and sin else None


def _before_heads(heads: ir.Value) -> ir.Value | None:
    """The value `[B, T, K * D]` that `heads` `[B, K, T, D]` views."""
    turned = _producer(heads, "Transpose")
    viewed = _producer(turned.inputs[0], "Reshape") if turned else None
    return viewed.inputs[0] if viewed else None


def _producer(value: ir.Value | None, operator: str) -> ir.Node | None:
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type == operator else None


def name_cache_length(graph: ir.Graph) -> None:
    """Call the rows of every cache tensor, past and present, `cache_length`: they are the same."""
    for value in (*graph.inputs, *graph.outputs):
        if value.name and value.name.startswith(("past_key_values.", "present.")):
            assert value.shape is not None
            batch, kv_heads, _, width = value.shape
            value.shape = ir.Shape([batch, kv_heads, "cache_length", width])


def _graph_inputs_of(value: ir.Value) -> set[ir.Value]:
    seen: set[ir.Value] = set()
    stack = [value]
    while stack:
        current = stack.pop()
        if current in seen:
            continue
        seen.add(current)
        node = current.producer()
        if node is not None:
            stack.extend(item for item in node.inputs if item is not None)
    return {current for current in seen if current.is_graph_input()}
