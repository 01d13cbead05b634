"""XSA's direction: the value divided by its length becomes one SimplifiedLayerNormalization.

Matches, as `exclude_own_value` is traced,

    Unsqueeze(v * Reciprocal(Sqrt(Clip(ReduceSum(Pow(v, 2), last axis), epsilon))))

and puts in its place the norm of the unsqueezed value with weight `1 / sqrt(D)`: dividing by the
root of the mean square, and that by `sqrt(D)`, divides by the length. Epsilon, a lower bound of
the squared length, becomes a summand of the mean square; both are far below any real value's and
keep a zero value zero.

Declines when
1. the sum is taken over anything but the last axis, or the last axis has no static size,
2. the exponent is not 2, or epsilon is not a constant below 1e-12 (a larger one would show).

Source: XSA, arXiv 2603.09078.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter import MatchResult, pattern

from atom_edge.exporters.passes.matching import apply_rule, is_last_axis, scalar, size

_LARGEST_EPSILON = 1e-12


class _OwnValue(pattern.RewriteRuleClassBase):
    def pattern(self, op: Any, v: Any, power: Any, axes: Any, epsilon: Any, axis: Any) -> Any:
        squared = op.ReduceSum(op.Pow(v, power), axes, keepdims=1)
        inverse = op.Reciprocal(op.Sqrt(op.Clip(squared, epsilon)))
        return op.Unsqueeze(op.Mul(v, inverse), axis)

    def check(
        self,
        context: Any,
        v: ir.Value,
        power: ir.Value,
        axes: ir.Value,
        epsilon: ir.Value,
        axis: ir.Value,
    ) -> MatchResult:
        result = MatchResult()
        if v.shape is None or not is_last_axis(axes, v) or size(v, len(v.shape) - 1) is None:
            return result.fail("the sum is not over a last axis of static size", axes)
        bound = scalar(epsilon)
        if scalar(power) != 2 or bound is None or bound > _LARGEST_EPSILON:
            return result.fail("not a square, or an epsilon that would show", [power, epsilon])
        before = scalar(axis)
        if before is None or not 0 <= before < len(v.shape):
            return result.fail("the new axis is not before the last", axis)
        return result

    def rewrite(self, op: Any, v: ir.Value, epsilon: ir.Value, axis: ir.Value, **_: Any) -> Any:
        assert v.shape is not None
        width, bound, place = size(v, len(v.shape) - 1), scalar(epsilon), scalar(axis)
        assert width is not None
        assert bound is not None
        assert place is not None
        wider = op.Unsqueeze(v, axis)
        sizes = list(v.shape)
        wider.shape = ir.Shape([*sizes[: int(place)], 1, *sizes[int(place) :]])
        wider.type = v.type
        weight = op.Constant(value=ir.tensor(np.full(width, 1 / math.sqrt(width), np.float32)))
        return op.SimplifiedLayerNormalization(
            wider, weight, axis=-1, epsilon=bound / width, stash_type=1
        )


def fuse_own_value(model: ir.Model) -> int:
    """Apply the pass in place; returns the number of fused directions."""
    return apply_rule(_OwnValue(), model)
