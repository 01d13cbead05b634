"""Rotary positions: the halves' products and sums become one RotaryEmbedding for each layer.

1. With `x` the heads `[B, T, heads * D]` viewed as `[B, heads, T, D]`, and `c`, `s` the rows of
   constant tables `[context, D / 2]` that `position_ids` `[B, T]` names, matches

       first, second = Split(x)
       Concat(first * c - second * s, second * c + first * s)

   and rotates before the view is taken, as onnxruntime's operator wants it.
2. Two rotations by the same angles over neighbouring parts of one Split (queries and keys) become
   one rotation over both.

Declines when
1. the tables are computed, or the halves are interleaved,
2. the number of heads is not static,
3. (rule 2) the two parts are not the first two of a Split, or have other heads sizes.

Source: RoFormer, arXiv 2104.09864; RotaryEmbedding of com.microsoft.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter import MatchResult, pattern

from atom_edge.exporters.passes.matching import (
    MICROSOFT,
    add_initializer,
    apply_rule,
    array,
    remove_unused,
    size,
)


class _Rotary(pattern.RewriteRuleClassBase):
    def __init__(self) -> None:
        # The rows of the tables are shared by all layers: what falls out of use goes at the end.
        super().__init__(remove_nodes=False)

    def pattern(
        self, op: Any, flat: Any, shape: Any, cos: Any, sin: Any, positions: Any, one: Any
    ) -> Any:
        heads = op.Transpose(op.Reshape(flat, shape), perm=[0, 2, 1, 3], _outputs=["heads"])
        first, second = op.Split(heads, axis=3, num_outputs=2, _outputs=2)
        c = op.Unsqueeze(op.GatherND(cos, positions, batch_dims=0), one)
        s = op.Unsqueeze(op.GatherND(sin, positions, batch_dims=0), one)
        turned = op.Sub(op.Mul(first, c), op.Mul(second, s))
        return op.Concat(turned, op.Add(op.Mul(second, c), op.Mul(first, s)), axis=-1)

    def check(  # type: ignore[override]  # it names what it reads, as the base says
        self, context: Any, cos: ir.Value, sin: ir.Value, positions: ir.Value, **matched: Any
    ) -> MatchResult:
        result = MatchResult()
        tables = array(cos), array(sin)
        if any(table is None or table.ndim != 2 for table in tables):
            return result.fail("the tables of angles are not constant", [cos, sin])
        node = positions.producer()
        if node is None or node.op_type != "Unsqueeze":
            return result.fail("the rows are not named by position_ids", positions)
        if size(matched["heads"], 1) is None:
            return result.fail("the number of heads is not static", matched["heads"])
        return result

    def rewrite(
        self,
        op: Any,
        flat: ir.Value,
        shape: ir.Value,
        cos: ir.Value,
        sin: ir.Value,
        positions: ir.Value,
        heads: ir.Value,
        **_: Any,
    ) -> Any:
        node = positions.producer()
        assert node is not None
        rotated = op.RotaryEmbedding(
            flat,
            node.inputs[0],
            cos,
            sin,
            num_heads=size(heads, 1),
            interleaved=0,
            _domain=MICROSOFT,
            _version=1,
        )
        rotated.shape, rotated.type = flat.shape, flat.type
        view = op.Reshape(rotated, shape, allowzero=1)
        before = heads.producer()
        assert before is not None
        assert before.inputs[0] is not None
        view.shape, view.type = before.inputs[0].shape, flat.type
        return op.Transpose(view, perm=[0, 2, 1, 3])


def fuse_rotary(model: ir.Model) -> int:
    """Apply the pass in place; returns the number of fused rotations."""
    fused = apply_rule(_Rotary(), model)
    for split in [node for node in model.graph if node.op_type == "Split"]:
        if _turns_first_two_parts(split):
            _merge(model, split)
    remove_unused(model)
    return fused


def _rotation(part: ir.Value) -> ir.Node | None:
    nodes = [use.node for use in part.uses()]
    return nodes[0] if len(nodes) == 1 and nodes[0].op_type == "RotaryEmbedding" else None


def _turns_first_two_parts(split: ir.Node) -> bool:
    if len(split.outputs) != 3:
        return False
    first, second = _rotation(split.outputs[0]), _rotation(split.outputs[1])
    if first is None or second is None or first.inputs[1:] != second.inputs[1:]:
        return False
    widths = [size(part, 2) for part in split.outputs[:2]]
    heads = [node.attributes.get_int("num_heads", 0) for node in (first, second)]
    return (
        all(width is not None for width in widths) and widths[0] * heads[1] == widths[1] * heads[0]  # type: ignore[operator]
    )


def _merge(model: ir.Model, split: ir.Node) -> None:
    packed, turned, value = split.inputs[0], split.outputs[:2], split.outputs[2]
    rotations = [_rotation(part) for part in turned]
    first = rotations[0]
    assert first is not None
    assert packed is not None
    heads = sum(node.attributes.get_int("num_heads", 0) for node in rotations if node)
    widths = [size(part, 2) for part in turned]
    rest = size(value, 2)
    assert widths[0] is not None
    assert widths[1] is not None
    assert rest is not None

    outer = _split(model, packed, [sum(widths), rest])  # type: ignore[arg-type]
    rotation = ir.node(
        "RotaryEmbedding",
        [outer.outputs[0], *first.inputs[1:]],
        attributes={"num_heads": heads, "interleaved": 0},
        domain=MICROSOFT,
    )
    inner = _split(model, rotation.outputs[0], widths)  # type: ignore[arg-type]
    model.graph.insert_before(split, [outer, rotation, inner])
    replaced = [node.outputs[0] for node in rotations if node]
    for old, new in zip([*replaced, value], [*inner.outputs, outer.outputs[1]], strict=True):
        new.name, new.type, new.shape = old.name, old.type, old.shape
        ir.convenience.replace_all_uses_with(old, new)
    for node in [*rotations, split]:
        if node is not None:
            model.graph.remove(node, safe=True)


def _split(model: ir.Model, value: ir.Value, widths: list[int]) -> ir.Node:
    sizes = add_initializer(
        model, "split." + "_".join(map(str, widths)), np.array(widths, np.int64)
    )
    return ir.node("Split", [value, sizes], attributes={"axis": -1}, num_outputs=len(widths))
