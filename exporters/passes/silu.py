"""SiLU: `x * Sigmoid(x)` becomes one QuickGelu with alpha 1, which is the same function.

Declines when the factor and the argument of the sigmoid are different values.

Source: onnxruntime's QuickGelu is `x * sigmoid(alpha * x)`.
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import pattern

from atom_edge.exporters.passes.matching import MICROSOFT, apply_rule


class _Silu(pattern.RewriteRuleClassBase):
    def pattern(self, op: Any, x: Any) -> Any:
        return op.Mul(x, op.Sigmoid(x))

    def rewrite(self, op: Any, x: ir.Value) -> Any:
        return op.QuickGelu(x, alpha=1.0, _domain=MICROSOFT, _version=1)


def fuse_silu(model: ir.Model) -> int:
    """Apply the pass in place; returns the number of fused activations."""
    return apply_rule(_Silu(), model)
