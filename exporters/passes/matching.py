"""What the passes share: reading constants and shapes, and applying rules."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript.rewriter import pattern

MICROSOFT = "com.microsoft"


def array(value: ir.Value | None) -> np.ndarray | None:
    """Contents of a constant or initializer; None for anything that is computed."""
    tensor = ir.convenience.get_const_tensor(value) if value is not None else None
    return None if tensor is None else tensor.numpy()


def scalar(value: ir.Value | None) -> float | None:
    """The one number of a constant; None for other values."""
    contents = array(value)
    return contents.item() if contents is not None and contents.size == 1 else None


def size(value: ir.Value | None, axis: int) -> int | None:
    """Static size of an axis; None where it is free or unknown."""
    if value is None or value.shape is None or axis >= len(value.shape):
        return None
    dimension = value.shape[axis]
    return dimension if isinstance(dimension, int) else None


def is_last_axis(axes: ir.Value | None, of: ir.Value | None) -> bool:
    """Whether the constant `axes` names just the last axis of `of`."""
    axis = scalar(axes)
    rank = len(of.shape) if of is not None and of.shape is not None else None
    return axis == -1 or (rank is not None and axis == rank - 1)


def apply_rule(rule: pattern.RewriteRuleClassBase, model: ir.Model) -> int:
    """Apply `rule` until it matches nowhere; what nothing uses any more is removed.

    Returns:
        how often it matched.
    """
    rewrite = pattern.RewriteRule(
        rule.pattern,
        rule.rewrite,
        rule.check,
        name=rule.name,
        remove_nodes=rule.remove_nodes,
        graph_pre_visitor=rule.setup,
        graph_post_visitor=rule.cleanup,
    )
    count = int(pattern.RewriteRuleSet([rewrite]).apply_to_model(model))
    if count:
        remove_unused(model)
    return count


def remove_unused(model: ir.Model) -> None:
    """Remove what no output depends on; constants become initializers, each kept once."""
    common.RemoveUnusedNodesPass()(model)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    common.DeduplicateInitializersPass()(model)


def use_microsoft(model: ir.Model) -> None:
    """Declare the operator set of onnxruntime's own operators."""
    model.graph.opset_imports.setdefault(MICROSOFT, 1)


def add_initializer(model: ir.Model, name: str, contents: np.ndarray) -> ir.Value:
    """A constant of the graph under `name`; one that is already there is returned as it is."""
    existing = model.graph.initializers.get(name)
    if existing is not None:
        return existing
    tensor = ir.tensor(np.ascontiguousarray(contents), name=name)
    value = ir.val(name, const_value=tensor)
    model.graph.register_initializer(value)
    return value
