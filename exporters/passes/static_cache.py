"""Static cache: keys and values are written into buffers of fixed length, and read where they are.

The portable graph returns a cache that is one step longer, which copies all of it every step. Here
past and present are the same length, so that a caller who binds both to one buffer has them
written in place: TensorScatter for the copy, Attention for the products and the softmax. The query
heads that share a key-value head are laid out as rows of one head, so that keys and values are
read once for all of them.

Matches the attention of every layer (`cached_attention`), with G query heads for each of the K
key-value heads, and changes the inputs of the graph: `attention_mask` and `position_ids` give way
to

    past_length   int64 [B], tokens of each row that are in the cache already

Row b's new tokens are at positions `past_length[b] + t` and see the cache up to their own place:
the graph's own mask, for rows that are not padded on the left. Rows of different length are padded
on the right; what a padding token writes is overwritten by the next real one.

Declines when any layer's cache is not attended to in that form; the graph is then left as it was,
since half a static cache is none.

Source: Attention and TensorScatter of ONNX opset 24.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from atom_edge.exporters.passes.cached_attention import (
    CACHE_AXIS,
    CachedAttention,
    heads_of,
    name_cache_length,
)
from atom_edge.exporters.passes.matching import (
    add_initializer,
    apply_rule,
    remove_unused,
    scalar,
    size,
)

OPSET = 24


class _StaticAttention(CachedAttention):
    def __init__(self, places: _Places) -> None:
        super().__init__()
        self.places = places

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
        kv_heads, groups, width = heads_of(queries)
        past_length = self.places.past_length
        keys = op.TensorScatter(past_key, key, past_length, axis=CACHE_AXIS)
        values = op.TensorScatter(past_value, value, past_length, axis=CACHE_AXIS)

        def view(x: ir.Value, *sizes: int) -> ir.Value:
            shape = op.Constant(value=ir.tensor(np.array(sizes, np.int64)))
            viewed: ir.Value = op.Reshape(x, shape, allowzero=0)
            return viewed

        if kv_heads > 1:
            flat = op.Transpose(view(flat, 0, 0, kv_heads, groups, width), perm=[0, 2, 1, 3, 4])
        rows = view(flat, 0, kv_heads, -1, width)
        attended = op.Attention(rows, keys, values, self.places.mask, scale=scalar(scale))
        if kv_heads > 1:
            attended = op.Transpose(
                view(attended, 0, kv_heads, -1, groups, width), perm=[0, 2, 1, 3, 4]
            )
            return view(attended, 0, 0, kv_heads * groups, width), keys, values
        attended.shape = ir.Shape([queries.shape[0], 1, None, width])  # type: ignore[index]
        attended.type = queries.type
        return view(attended, 0, -1, groups, width), keys, values


class _Places:
    """Where the new tokens are: nodes at the head of the graph that all layers share.

    Attributes:
        past_length: the input, int64 `[B]`.
        positions: int64 `[B, T]`.
        mask: float32 `[B, 1, T * G, S]`, 0 or the lowest float.
    """

    def __init__(self, model: ir.Model, groups: int) -> None:
        self.model = model
        self.nodes: list[ir.Node] = []
        self.past_length = ir.Value(
            name="past_length",
            shape=ir.Shape(["batch_size"]),
            type=ir.TensorType(ir.DataType.INT64),
        )
        inputs = {value.name: value for value in model.graph.inputs}
        first = self._node("Unsqueeze", self.past_length, self._constant("axis_1", [1]))
        tokens = self._axis_range(inputs["input_ids"], 1)
        self.positions = self._node("Add", first, tokens)
        self.positions.shape = ir.Shape(["batch_size", "sequence_length"])
        self.positions.type = ir.TensorType(ir.DataType.INT64)
        self.mask = self._causal_mask(inputs["past_key_values.0.key"], groups)

    def _causal_mask(self, cache: ir.Value, groups: int) -> ir.Value:
        column = self._node("Unsqueeze", self.positions, self._constant("axis_2", [2]))
        seen = self._node("LessOrEqual", self._axis_range(cache, CACHE_AXIS), column)
        lowest = float(np.finfo(np.float32).min)
        mask = self._node(
            "Where", seen, self._constant("seen", 0.0), self._constant("hidden", lowest)
        )
        # Each token's mask is the same for its G query heads.
        one_head = self._node("Unsqueeze", mask, self._constant("axis_2", [2]))
        repeated = self._node("Expand", one_head, self._constant("groups", [1, 1, groups, 1]))
        return self._node("Reshape", repeated, self._constant("rows", [0, 1, -1, 0]))

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


# Inputs of a traced graph that `past_length` says as well.
_REPLACED = ("attention_mask", "position_ids")


def use_static_cache(model: ir.Model) -> int:
    """Apply the pass in place, after `fuse_rotary`.

    Returns:
        the number of layers; 0 if the pass declined.
    """
    graph = model.graph
    groups = _query_groups(graph)
    if groups is None or all(value.name != "position_ids" for value in graph.inputs):
        return 0
    layers = sum(value.name.endswith(".key") for value in graph.inputs if value.name)
    if _convert(model.clone(), groups) != layers:
        return 0
    _convert(model, groups)
    model.opset_imports[""] = OPSET
    graph.opset_imports[""] = OPSET
    return layers


def _convert(model: ir.Model, groups: int) -> int:
    graph = model.graph
    _ask_tokens_for_the_batch(graph)
    places = _Places(model, groups)
    graph.insert_before(graph[0], places.nodes)
    layers = apply_rule(_StaticAttention(places), model)
    graph.inputs.append(places.past_length)
    for value in graph.inputs:
        if value.name == "position_ids":
            ir.convenience.replace_all_uses_with(value, places.positions)
    remove_unused(model)
    replaced = [value for value in graph.inputs if value.name in _REPLACED]
    if any(value.uses() for value in replaced):
        return 0
    for value in replaced:
        graph.inputs.remove(value)
    name_cache_length(graph)
    return layers


def _ask_tokens_for_the_batch(graph: ir.Graph) -> None:
    """Take the batch size from `input_ids` where the tracer took it from an input that goes."""
    ids = next(value for value in graph.inputs if value.name == "input_ids")
    for value in graph.inputs:
        for node, index in value.uses() if value.name in _REPLACED else ():
            ends = node.attributes.get_int("start", 0), node.attributes.get_int("end", None)
            if node.op_type == "Shape" and ends == (0, 1):
                node.replace_input_with(index, ids)


def _query_groups(graph: ir.Graph) -> int | None:
    """Query heads of each key-value head, from the grouped queries of the first attention."""
    for node in graph:
        if node.op_type == "Softmax" and node.outputs[0].shape is not None:
            return size(node.outputs[0], 2) if len(node.outputs[0].shape) == 5 else None
    return None
