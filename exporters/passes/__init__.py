"""Named graph passes, one a file, and the graphs that they make of a traced one.

A pass is a function that changes a graph in place and returns how often it found what it looks
for; its docstring says what that is, and when it declines. A graph that a pass declines still
computes the same.

    traced --fuse--> portable, fused --for_static_cache--> decode (one token), prefill (any)
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common

from atom_edge.exporters.passes.chosen_logits import choose_logits
from atom_edge.exporters.passes.fixed_shapes import fix_shapes
from atom_edge.exporters.passes.matching import remove_unused, use_microsoft
from atom_edge.exporters.passes.own_value import fuse_own_value
from atom_edge.exporters.passes.packed_products import pack_products
from atom_edge.exporters.passes.residual_norm import fuse_residual_norm
from atom_edge.exporters.passes.rms_norm import fuse_rms_norm
from atom_edge.exporters.passes.rotary import fuse_rotary
from atom_edge.exporters.passes.silu import fuse_silu
from atom_edge.exporters.passes.static_cache import use_static_cache

# In this order: what a pass makes, a later one may look for.
FUSIONS = (
    fuse_rms_norm,
    fuse_residual_norm,
    pack_products,
    fuse_rotary,
    fuse_silu,
    fuse_own_value,
)


def fuse(traced: ir.Model) -> ir.Model:
    """A copy of a traced graph with its operators fused; inputs and outputs are the same."""
    model = traced.clone()
    use_microsoft(model)
    for fusion in FUSIONS:
        fusion(model)
    return model


def for_static_cache(fused: ir.Model, *, one_token: bool) -> ir.Model | None:
    """A copy of a fused graph that writes its cache in place; None if it has no such form.

    Args:
        fused: what `fuse` returned.
        one_token: for one new token of each row, and its logits `[B, 1, V]`; otherwise for any
            number of new tokens, with the logits of the places in `logits_index` `[N, V]`.
    """
    model = fused.clone()
    if not use_static_cache(model, one_token=one_token):
        return None
    if not one_token and not choose_logits(model):
        return None
    return tidy(model)


def tidy(model: ir.Model) -> ir.Model:
    """Fix shapes, share what is computed twice, and leave out what nothing uses."""
    fix_shapes(model)
    common.CommonSubexpressionEliminationPass()(model)
    remove_unused(model)
    for node in model.graph:
        for output in node.outputs:
            if not output.uses() and not output.is_graph_output():
                # An optional output without a name is not computed.
                output.name = ""
    return model
