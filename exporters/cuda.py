"""The graph for CUDA: one for any number of new tokens, in half precision, over a static cache."""

from __future__ import annotations

import onnx_ir as ir

from atom_edge.errors import ExportError
from atom_edge.exporters.passes import for_cuda
from atom_edge.exporters.precision.blocks import quantize
from atom_edge.exporters.precision.half import to_half_precision


def cuda_graph(traced: ir.Model, *, int8: bool) -> ir.Model:
    """The graph of role `cuda`.

    Beside the logits `[N, V]` of the places in `logits_index` it gives the likeliest token of each,
    int64 `[N]`, so that greedy text needs no logits on the host.

    Args:
        traced: what `trace` returned.
        int8: quantize the weights; they are multiplied in float16.

    Raises:
        ExportError: when the attention is not of the form that the GPU's operator computes.
    """
    graph = for_cuda(traced)
    if graph is None:
        raise ExportError(
            "This model's attention is not what onnxruntime computes in one operator on CUDA: "
            "rotary positions in halves, one cache for keys and values of every layer, and heads "
            "of a multiple of 16. Export with --target cpu."
        )
    graph = to_half_precision(quantize(graph) if int8 else graph)
    _choose_likeliest(graph.graph)
    return graph


def _choose_likeliest(graph: ir.Graph) -> None:
    logits = next(value for value in graph.outputs if value.name == "logits")
    node = ir.node("ArgMax", [logits], attributes={"axis": -1, "keepdims": 0})
    likeliest = node.outputs[0]
    likeliest.name, likeliest.type = "likeliest", ir.TensorType(ir.DataType.INT64)
    assert logits.shape is not None
    likeliest.shape = ir.Shape([logits.shape[0]])
    graph.append(node)
    graph.outputs.append(likeliest)
