"""XSA of one token: the part along the own value is taken off by two Gemm nodes.

Matches, as `exclude_own_value` is traced and `fuse_own_value` leaves it,

    direction = SimplifiedLayerNormalization(v)
    y - ReduceSum(y * direction, last axis) * direction

and computes, with the G query heads as rows of a matrix `[G, D]`,

    y - (y direction^T) direction

Declines when `y` is more than one matrix: several tokens, sequences or key-value heads each have a
direction of their own.

Source: XSA, arXiv 2603.09078.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter import MatchResult, pattern

from atom_edge.exporters.passes.matching import apply_rule, is_last_axis


class _Projection(pattern.RewriteRuleClassBase):
    def pattern(self, op: Any, y: Any, v: Any, weight: Any, axes: Any) -> Any:
        direction = op.SimplifiedLayerNormalization(
            v, weight, _allow_other_attributes=True, _outputs=["direction"]
        )
        along = op.ReduceSum(op.Mul(y, direction), axes, keepdims=1)
        return op.Sub(y, op.Mul(along, direction))

    def check(  # type: ignore[override]
        self, context: Any, y: ir.Value, v: ir.Value, axes: ir.Value, **_: ir.Value
    ) -> MatchResult:
        result = MatchResult()
        if not is_last_axis(axes, y):
            return result.fail("the sum is not over the last axis", axes)
        rows, direction = _static(y), _static(v)
        if rows is None or direction is None:
            return result.fail("the sizes are not static", [y, v])
        if math.prod(rows[:-2]) != 1 or math.prod(direction[:-1]) != 1:
            return result.fail("more than one direction", [y, v])
        return result

    def rewrite(
        self, op: Any, y: ir.Value, v: ir.Value, weight: ir.Value, direction: ir.Value, **_: Any
    ) -> Any:
        sizes = _static(y)
        assert sizes is not None
        node = direction.producer()
        assert node is not None

        def view(x: ir.Value, *shape: int) -> ir.Value:
            target = op.Constant(value=ir.tensor(np.array(shape, np.int64)))
            viewed: ir.Value = op.Reshape(x, target)
            viewed.shape, viewed.type = ir.Shape(shape), y.type
            return viewed

        rows = view(y, *sizes[-2:])
        unit = op.SimplifiedLayerNormalization(
            view(v, 1, sizes[-1]), weight, **dict(node.attributes)
        )
        along = op.Gemm(rows, unit, transB=1)
        rest = op.Gemm(along, unit, rows, alpha=-1.0)
        rest.shape, rest.type = rows.shape, y.type
        return view(rest, *sizes)


def _static(value: ir.Value) -> list[int] | None:
    sizes = list(value.shape) if value.shape is not None else [None]
    return sizes if all(isinstance(size, int) for size in sizes) else None  # type: ignore[return-value]


def project_off_own_value(model: ir.Model) -> int:
    """Apply the pass in place, after `fuse_own_value`; returns the number of layers."""
    return apply_rule(_Projection(), model)
