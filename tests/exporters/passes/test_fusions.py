"""Each fusion on real traced graphs: it finds every place, and the graph computes the same."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir
import pytest

from atom_edge.exporters.passes import FUSIONS, fuse, tidy
from atom_edge.exporters.passes.own_value import fuse_own_value
from atom_edge.exporters.passes.packed_products import pack_products
from atom_edge.exporters.passes.residual_norm import fuse_residual_norm
from atom_edge.exporters.passes.rms_norm import fuse_rms_norm
from atom_edge.exporters.passes.rotary import fuse_rotary
from atom_edge.exporters.passes.silu import fuse_silu

from .conftest import LAYERS, assert_same_results, operators

FOUND = {
    fuse_rms_norm: {"atom": 2 * LAYERS + 1, "llama": 2 * LAYERS + 1},
    fuse_residual_norm: {"atom": 2 * LAYERS, "llama": 2 * LAYERS},
    pack_products: {"atom": 2 * LAYERS, "llama": 2 * LAYERS},
    fuse_rotary: {"atom": 2 * LAYERS, "llama": 2 * LAYERS},
    fuse_silu: {"atom": LAYERS, "llama": LAYERS},
    fuse_own_value: {"atom": LAYERS, "llama": 0},
}


@pytest.mark.parametrize("fusion", FUSIONS, ids=lambda fusion: fusion.__name__)
def test_finds_every_place_and_computes_the_same(
    fusion: Callable[[ir.Model], int], traced: ir.Model, shape: str
) -> None:
    before = traced.clone()
    for earlier in FUSIONS[: FUSIONS.index(fusion)]:
        earlier(traced)
    assert fusion(traced) == FOUND[fusion][shape]
    assert_same_results(before, traced)
    assert fusion(traced) == 0, "a second time there is nothing left to do"


def test_all_together(traced: ir.Model, shape: str) -> None:
    fused = tidy(fuse(traced))
    assert_same_results(traced, fused)
    assert len(fused.graph) < len(traced.graph) / 1.7
    counts = operators(fused)
    assert counts["RotaryEmbedding"] == LAYERS, "queries and keys turn in one node"
    assert counts["MatMul"] == 6 * LAYERS + 1, "four packed products and two of attention a layer"
    assert counts["Sigmoid"] == counts["Reciprocal"] == counts["GatherND"] == 0


def test_the_traced_graph_is_left_alone(traced: ir.Model) -> None:
    before = operators(traced)
    fuse(traced)
    assert operators(traced) == before
