"""Named graph passes, one a file, and the graphs that they make of a traced one.

A pass is a function that changes a graph in place and returns how often it found what it looks
for; its docstring says what that is, and when it declines. A graph that a pass declines still
computes the same.

    traced --fuse--> portable
    traced --for_prefill--> any number of new tokens over a static cache
    traced --for_cuda-----> any number of new tokens over a static cache, in a GPU's operators
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir
from onnx_ir.passes import common

from atom_edge.exporters.passes.chosen_logits import choose_logits
from atom_edge.exporters.passes.fixed_shapes import fix_shapes
from atom_edge.exporters.passes.grouped_query import use_grouped_query_attention
from atom_edge.exporters.passes.matching import MICROSOFT, remove_unused, use_microsoft
from atom_edge.exporters.passes.own_value import fuse_own_value
from atom_edge.exporters.passes.packed_products import pack_products
from atom_edge.exporters.passes.projection import project_off_own_value
from atom_edge.exporters.passes.residual_norm import fuse_residual_norm
from atom_edge.exporters.passes.rms_norm import fuse_rms_norm
from atom_edge.exporters.passes.rotary import fuse_rotary
from atom_edge.exporters.passes.silu import fuse_silu
from atom_edge.exporters.passes.static_cache import use_static_cache

Pass = Callable[[ir.Model], int]

# In this order: what a pass makes, a later one may look for.
FUSIONS = (
    fuse_rms_norm,
    fuse_residual_norm,
    pack_products,
    fuse_rotary,
    fuse_silu,
    fuse_own_value,
)
# Fewer nodes are what a single token gains by. With many rows the arithmetic counts, and the
# fused residual norm and the Split of a packed product are slower than what they replace.
FUSIONS_OF_MANY_ROWS = (fuse_rms_norm, fuse_rotary, fuse_silu, fuse_own_value)


def fuse(traced: ir.Model, fusions: Sequence[Pass] = FUSIONS) -> ir.Model:
    """A copy of a traced graph with its operators fused; inputs and outputs are the same."""
    model = traced.clone()
    use_microsoft(model)
    for fusion in fusions:
        fusion(model)
    return model


def for_prefill(traced: ir.Model) -> ir.Model | None:
    """A copy of a traced graph for any number of new tokens of each row; None if there is none.

    It writes its cache in place and makes the logits `[N, V]` of the places in `logits_index`.
    """
    model = fuse(traced, FUSIONS_OF_MANY_ROWS)
    if not use_static_cache(model) or not choose_logits(model):
        return None
    return tidy(model)


def for_cuda(traced: ir.Model) -> ir.Model | None:
    """A copy of a traced graph whose operators all run on a GPU; None if there is none.

    Any number of new tokens over a static cache, in float32 still; logits as in `for_prefill`.
    """
    model = fuse(traced)
    if not use_grouped_query_attention(model):
        return None
    project_off_own_value(model)
    return tidy(model) if choose_logits(model) else None


def tidy(model: ir.Model) -> ir.Model:
    """Fix shapes, share what is computed twice, and leave out what nothing uses."""
    fix_shapes(model)
    common.CommonSubexpressionEliminationPass()(model)
    remove_unused(model)
    for node in model.graph:
        for output in node.outputs:
            if node.domain == MICROSOFT and not output.uses() and not output.is_graph_output():
                # An optional output without a name is not computed. (Those of Split are not.)
                output.name = ""
    return model
