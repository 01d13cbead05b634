"""XSA as products: the part along the own value is taken off by two matrix products a token.

Matches, as `exclude_own_value` is traced and `fuse_own_value` leaves it, with the G query heads of
each key-value head,

    direction = SimplifiedLayerNormalization(v [..., 1, D])
    y [..., G, D] - ReduceSum(y * direction, last axis) * direction

and computes, for every token and key-value head,

    y - (y direction^T) direction

Fewer nodes for one token; for many, the element-wise form is faster. A token's result has the same
bits however many are computed together.

Declines when G or D is not static, or the sum is not over the last axis.

Source: XSA, arXiv 2603.09078.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter import MatchResult, pattern

from atom_edge.exporters.passes.matching import apply_rule, is_last_axis, size


class _Projection(pattern.RewriteRuleClassBase):
    def pattern(self, op: Any, y: Any, v: Any, weight: Any, axes: Any) -> Any:
        direction = op.SimplifiedLayerNormalization(
            v, weight, _allow_other_attributes=True, _outputs=["direction"]
        )
        along = op.ReduceSum(op.Mul(y, direction), axes, keepdims=1)
        return op.Sub(y, op.Mul(along, direction))

    def check(  # type: ignore[override]  # it names what it reads, as the base says
        self, context: Any, y: ir.Value, v: ir.Value, axes: ir.Value, **_: ir.Value
    ) -> MatchResult:
        result = MatchResult()
        if not is_last_axis(axes, y):
            return result.fail("the sum is not over the last axis", axes)
        if y.shape is None or v.shape is None or len(y.shape) != len(v.shape):
            return result.fail("the shapes are not known", [y, v])
        rank = len(y.shape)
        if any(size(y, axis) is None for axis in (rank - 2, rank - 1)) or size(v, rank - 2) != 1:
            return result.fail("not one direction for some rows", [y, v])
        return result

    def rewrite(
        self, op: Any, y: ir.Value, v: ir.Value, weight: ir.Value, direction: ir.Value, **_: Any
    ) -> Any:
        assert v.shape is not None
        leading, width = v.shape[:-2], v.shape[-1]
        node = direction.producer()
        assert node is not None
        unit = op.SimplifiedLayerNormalization(v, weight, **dict(node.attributes))
        turned = op.Constant(value=ir.tensor(np.array([0] * len(leading) + [width, 1], np.int64)))
        column = op.Reshape(unit, turned)
        unit.shape, unit.type = v.shape, v.type
        column.shape, column.type = ir.Shape([*leading, width, 1]), v.type
        rest = op.Sub(y, op.MatMul(op.MatMul(y, column), unit))
        rest.shape, rest.type = y.shape, y.type
        return rest


def project_off_own_value(model: ir.Model) -> int:
    """Apply the pass in place, after `fuse_own_value`; returns the number of layers."""
    return apply_rule(_Projection(), model)
