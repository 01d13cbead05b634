"""Graphs over a static cache."""

from __future__ import annotations

import onnx_ir as ir

from atom_edge.exporters.passes import for_decode, for_prefill
from atom_edge.exporters.precision.blocks import quantize
from atom_edge.exporters.precision.columns import quantize_dynamic
from atom_edge.manifest import Role

DECODE_BLOCK = 64


def static_graphs(traced: ir.Model, *, int8: bool) -> dict[Role, ir.Model]:
    """The graphs of roles `prefill` and `decode`; none where the passes decline.

    In float32 one graph serves for both. In int8 the products of one token and of many want
    different kernels, and so different weights.

    Args:
        traced: what `trace` returned.
        int8: quantize them.
    """
    prefill = for_prefill(traced)
    if prefill is None:
        return {}
    if not int8:
        return {Role.PREFILL: prefill}
    graphs = {Role.PREFILL: quantize_dynamic(prefill)}
    decode = for_decode(traced)
    if decode is not None:
        graphs[Role.DECODE] = quantize(decode, DECODE_BLOCK)
    return graphs
