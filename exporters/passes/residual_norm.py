"""Residual and norm: an Add and the norm of its sum become one SkipSimplifiedLayerNormalization.

Matches `SimplifiedLayerNormalization(a + b)`, whatever else uses the sum; the fused operator gives
both the norm and the sum.

Declines when
1. the two summands have not the same known shape (the operator would broadcast by other rules),
2. the norm is not over the last axis,
3. the sum is a graph output.
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import MatchResult, pattern

from atom_edge.exporters.passes.matching import MICROSOFT, apply_rule


class _ResidualNorm(pattern.RewriteRuleClassBase):
    def pattern(self, op: Any, a: Any, b: Any, weight: Any) -> Any:
        total = op.Add(a, b)
        norm = op.SimplifiedLayerNormalization(
            total, weight, _allow_other_attributes=True, _outputs=["norm"]
        )
        return norm, total

    def check(  # type: ignore[override]  # it names what it reads, as the base says
        self, context: Any, a: ir.Value, b: ir.Value, norm: ir.Value, **_: Any
    ) -> MatchResult:
        result = MatchResult()
        if a.shape is None or b.shape is None or a.shape != b.shape:
            return result.fail("the summands have not the same known shape", [a, b])
        node = norm.producer()
        assert node is not None
        if node.attributes.get_int("axis", -1) not in (-1, len(a.shape) - 1):
            return result.fail("the norm is not over the last axis", norm)
        total = node.inputs[0]
        if total is not None and total.is_graph_output():
            return result.fail("the sum is an output of the graph", total)
        return result

    def rewrite(self, op: Any, a: ir.Value, b: ir.Value, weight: ir.Value, norm: ir.Value) -> Any:
        node = norm.producer()
        assert node is not None
        fused, _, _, total = op.SkipSimplifiedLayerNormalization(
            a,
            b,
            weight,
            epsilon=node.attributes.get_float("epsilon"),
            _domain=MICROSOFT,
            _version=1,
            _outputs=4,
        )
        return fused, total


def fuse_residual_norm(model: ir.Model) -> int:
    """Apply the pass in place, after `fuse_rms_norm`; returns the number of fused pairs."""
    return apply_rule(_ResidualNorm(), model)
