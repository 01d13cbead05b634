"""Static cache: keys and values are written into buffers of fixed length, and read where they are.

The portable graph returns a cache that is one step longer, which copies all of it every step. Here
past and present are the same length, so that a caller who binds both to one buffer has them
written in place: TensorScatter for the copy, Attention for the products and the softmax. The query
heads that share a key-value head are laid out as rows of one head, so that keys and values are
read once for all of them.

Matches, in each layer, with G query heads for each of the K key-value heads,

    present = Concat(past, new) over axis 2, for keys and for values
    weights = Softmax(MatMul(queries [B, K, G, T, D], present keys) * scale + mask)
    Transpose(MatMul(weights, present values) as heads [B, H, T, D]) to [B, T, H, D]

and changes the inputs of the graph: `attention_mask` and `position_ids` give way to

    past_length   int64 [B], tokens of each row that are in the cache already

Row b's new tokens are at positions `past_length[b] + t` and see the cache up to their own place:
the graph's own mask, for rows that are not padded on the left. Rows of different length are padded
on the right; what a padding token writes is overwritten by the next real one.

With `one_token`, T is 1 and the length of the cache in use says it all. Otherwise a mask is made.

Declines when
1. any layer's cache is not attended to in this form (the graph is then left as it was: half a
   static cache is none),
2. heads or head size are not static, or the scale is not a constant,
3. the mask depends on anything but the attention mask and the lengths.

Source: Attention and TensorScatter of ONNX opset 24.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter import MatchResult, pattern

from atom_edge.exporters.passes.matching import (
    add_initializer,
    apply_rule,
    remove_unused,
    scalar,
    size,
)

OPSET = 24
_CACHE_AXIS = 2


class _StaticAttention(pattern.RewriteRuleClassBase):
    def __init__(self, places: _Places) -> None:
        super().__init__(remove_nodes=False)
        self.places = places

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
        present_key = op.Concat(past_key, key, axis=_CACHE_AXIS)
        present_value = op.Concat(past_value, value, axis=_CACHE_AXIS)
        tokens = op.Reshape(flat, by_token, _outputs=["tokens"])
        queries = op.Reshape(op.Transpose(tokens, perm=[0, 2, 1, 3]), grouped, _outputs=["queries"])
        turned = op.Transpose(op.Unsqueeze(present_key, axis), perm=[0, 1, 2, 4, 3])
        scores = op.Add(op.Mul(op.MatMul(queries, turned), scale), op.Unsqueeze(mask, axis))
        weights = op.Softmax(scores, axis=-1)
        mixed = op.MatMul(weights, op.Unsqueeze(present_value, axis))
        output = op.Transpose(op.Reshape(mixed, by_head), perm=[0, 2, 1, 3])
        return output, present_key, present_value

    def check(  # type: ignore[override]
        self, context: Any, axis: ir.Value, scale: ir.Value, mask: ir.Value, **matched: ir.Value
    ) -> MatchResult:
        result = MatchResult()
        if scalar(axis) != _CACHE_AXIS or scalar(scale) is None:
            return result.fail("another layout of heads, or no constant scale", [axis, scale])
        queries = matched["queries"]
        if any(size(queries, place) is None for place in (1, 2, 4)):
            return result.fail("heads or head size are not static", queries)
        for part in (matched["past_key"], matched["past_value"]):
            if not part.is_graph_input():
                return result.fail("the past is not an input of the graph", part)
        if self.places.past_length in _graph_inputs_of(mask):
            return result.fail("the mask depends on the positions", mask)
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
        **matched: ir.Value,
    ) -> Any:
        places = self.places
        kv_heads, groups, width = (size(matched["queries"], axis) or 0 for axis in (1, 2, 4))
        keys = op.TensorScatter(past_key, key, places.past_length, axis=_CACHE_AXIS)
        values = op.TensorScatter(past_value, value, places.past_length, axis=_CACHE_AXIS)

        def view(x: ir.Value, *sizes: int) -> ir.Value:
            shape = op.Constant(value=ir.tensor(np.array(sizes, np.int64)))
            viewed: ir.Value = op.Reshape(x, shape, allowzero=0)
            return viewed

        swap = kv_heads > 1 and not places.one_token
        if swap:
            by_kv_head = op.Transpose(
                view(flat, 0, 0, kv_heads, groups, width), perm=[0, 2, 1, 3, 4]
            )
            rows = view(by_kv_head, 0, kv_heads, -1, width)
        else:
            rows = view(flat, 0, kv_heads, -1, width)
        limits = (places.mask,) if places.mask is not None else (None, None, None, places.length)
        attended = op.Attention(rows, keys, values, *limits, scale=scalar(scale))
        attended.shape = ir.Shape([flat.shape[0], kv_heads, None, width])  # type: ignore[index]
        attended.type = flat.type
        if swap:
            attended = op.Transpose(
                view(attended, 0, kv_heads, -1, groups, width), perm=[0, 2, 1, 3, 4]
            )
            output = view(attended, 0, 0, kv_heads * groups, width)
        else:
            output = view(attended, 0, -1, kv_heads * groups, width)
        return output, keys, values


class _Places:
    """Where the new tokens are: nodes at the head of the graph that all layers share.

    Attributes:
        past_length: the input, int64 `[B]`.
        positions: int64 `[B, T]`.
        length: int64 `[B]`, the cache in use after the step; with `one_token` only.
        mask: float32 `[B, 1, T * G, S]`, 0 or the lowest float; without `one_token` only.
    """

    def __init__(self, model: ir.Model, groups: int, *, one_token: bool) -> None:
        self.model, self.one_token = model, one_token
        self.nodes: list[ir.Node] = []
        self.past_length = ir.Value(
            name="past_length",
            shape=ir.Shape(["batch_size"]),
            type=ir.TensorType(ir.DataType.INT64),
        )
        self.length: ir.Value | None = None
        self.mask: ir.Value | None = None
        one = self._constant("one", 1)
        first = self._node("Unsqueeze", self.past_length, self._constant("axis_1", [1]))
        if one_token:
            self.positions = first
            self.length = self._node("Add", self.past_length, one)
        else:
            inputs = {value.name: value for value in model.graph.inputs}
            tokens = self._axis_range(inputs["input_ids"], 1)
            self.positions = self._node("Add", first, tokens)
            self.mask = self._causal_mask(inputs["past_key_values.0.key"], groups)
        self.positions.shape = ir.Shape(["batch_size", 1 if one_token else "sequence_length"])
        self.positions.type = ir.TensorType(ir.DataType.INT64)

    def _causal_mask(self, cache: ir.Value, groups: int) -> ir.Value:
        column = self._node("Unsqueeze", self.positions, self._constant("axis_2", [2]))
        repeated = self._node("Expand", column, self._constant("groups", [1, 1, groups]))
        rows = self._node("Reshape", repeated, self._constant("rows", [0, 1, -1, 1]))
        seen = self._node("LessOrEqual", self._axis_range(cache, _CACHE_AXIS), rows)
        lowest = float(np.finfo(np.float32).min)
        return self._node(
            "Where", seen, self._constant("seen", 0.0), self._constant("hidden", lowest)
        )

    def _axis_range(self, value: ir.Value, axis: int) -> ir.Value:
        length = self._node("Shape", value, start=axis, end=axis + 1)
        return self._node(
            "Range",
            self._constant("zero", 0),
            self._node("Squeeze", length),
            self._constant("one", 1),
        )

    def _constant(self, name: str, contents: float | list[int]) -> ir.Value:
        kind = np.float32 if isinstance(contents, float) else np.int64
        return add_initializer(self.model, f"places.{name}", np.array(contents, kind))

    def _node(self, operator: str, *inputs: ir.Value, **attributes: int) -> ir.Value:
        self.nodes.append(ir.node(operator, inputs, attributes=attributes))
        return self.nodes[-1].outputs[0]


def use_static_cache(model: ir.Model, *, one_token: bool = False) -> int:
    """Apply the pass in place, after `fuse_rotary`.

    Returns:
        the number of layers; 0 if the pass declined.
    """
    graph = model.graph
    inputs = {value.name: value for value in graph.inputs}
    groups = _query_groups(graph)
    if groups is None or "position_ids" not in inputs:
        return 0
    layers = sum(value.name.endswith(".key") for value in graph.inputs if value.name)
    changed = model.clone()
    if _convert(changed, groups, one_token=one_token) != layers:
        return 0
    _convert(model, groups, one_token=one_token)
    model.opset_imports[""] = OPSET
    graph.opset_imports[""] = OPSET
    return layers


def _convert(model: ir.Model, groups: int, *, one_token: bool) -> int:
    graph = model.graph
    places = _Places(model, groups, one_token=one_token)
    graph.insert_before(graph[0], places.nodes)
    graph.inputs.append(places.past_length)
    for value in graph.inputs:
        if value.name == "position_ids":
            ir.convenience.replace_all_uses_with(value, places.positions)
    layers = apply_rule(_StaticAttention(places), model)
    remove_unused(model)
    for value in list(graph.inputs):
        if value.name in ("attention_mask", "position_ids") and not value.uses():
            graph.inputs.remove(value)
    _name_axes(graph, one_token=one_token)
    return layers


def _query_groups(graph: ir.Graph) -> int | None:
    """Query heads of each key-value head, from the grouped queries of the first attention."""
    for node in graph:
        if node.op_type == "Softmax" and node.outputs[0].shape is not None:
            return size(node.outputs[0], 2) if len(node.outputs[0].shape) == 5 else None
    return None


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


def _name_axes(graph: ir.Graph, *, one_token: bool) -> None:
    for value in (*graph.inputs, *graph.outputs):
        if value.shape is None or value.name is None:
            continue
        if value.name.startswith(("past_key_values.", "present.")):
            batch, kv_heads, _, width = value.shape
            value.shape = ir.Shape([batch, kv_heads, "cache_length", width])
        elif one_token and value.name in ("input_ids", "logits"):
            batch, _, *rest = value.shape
            value.shape = ir.Shape([batch, 1, *rest])
