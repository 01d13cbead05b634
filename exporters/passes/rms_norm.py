"""RMSNorm: the products that make up a norm become one SimplifiedLayerNormalization.

Matches, in the form in which torch's `nn.RMSNorm` is traced below opset 23,

    x * Reciprocal(Sqrt(ReduceMean(Pow(x, 2), last axis) + epsilon)) * weight

Declines when
1. the mean is taken over anything but the last axis (the fused operator knows no other),
2. the exponent is not 2 or epsilon is not a constant,
3. the weight is not one number for each column.

Source: RMSNorm, arXiv 1910.07467; SimplifiedLayerNormalization is onnxruntime's name for it.
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import MatchResult, pattern

from atom_edge.exporters.passes.matching import apply_rule, is_last_axis, scalar


class _RmsNorm(pattern.RewriteRuleClassBase):
    def pattern(self, op: Any, x: Any, power: Any, axes: Any, epsilon: Any, weight: Any) -> Any:
        mean = op.ReduceMean(op.Pow(x, power), axes, keepdims=1)
        normal = op.Mul(x, op.Reciprocal(op.Sqrt(op.Add(mean, epsilon))))
        return op.Mul(normal, weight)

    def check(
        self,
        context: Any,
        x: ir.Value,
        power: ir.Value,
        axes: ir.Value,
        epsilon: ir.Value,
        weight: ir.Value,
    ) -> MatchResult:
        result = MatchResult()
        if not is_last_axis(axes, x):
            return result.fail("the mean is not over the last axis", axes)
        if scalar(power) != 2 or scalar(epsilon) is None:
            return result.fail("no constant epsilon, or not a square", [power, epsilon])
        if weight.shape is None or len(weight.shape) != 1:
            return result.fail("the weight is not one number for each column", weight)
        return result

    def rewrite(self, op: Any, x: ir.Value, epsilon: ir.Value, weight: ir.Value, **_: Any) -> Any:
        return op.SimplifiedLayerNormalization(
            x, weight, axis=-1, epsilon=scalar(epsilon), stash_type=1
        )


def fuse_rms_norm(model: ir.Model) -> int:
    """Apply the pass in place; returns the number of fused norms."""
    return apply_rule(_RmsNorm(), model)
