"""Half precision: a float32 graph becomes a float16 one, its logits float32 again at the end.

Constants and the cache become float16; attributes, such as an epsilon, stay what they are. Sums
inside an operator are the kernel's affair: onnxruntime's norms and products add up in float32.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from atom_edge.errors import ExportError


def to_half_precision(model: ir.Model) -> ir.Model:
    """Convert `model` in place, and return it.

    Raises:
        ExportError: for a constant that float16 cannot hold.
    """
    graph = model.graph
    for name, value in list(graph.initializers.items()):
        if value.dtype == ir.DataType.FLOAT:
            _convert_constant(graph, name, value)
    half = ir.TensorType(ir.DataType.FLOAT16)
    for value in (*graph.inputs, *(output for node in graph for output in node.outputs)):
        if value.dtype == ir.DataType.FLOAT:
            value.type = half
    _widen_logits(graph)
    return model


def _convert_constant(graph: ir.Graph, name: str, value: ir.Value) -> None:
    assert value.const_value is not None
    contents = value.const_value.numpy()
    largest = np.abs(contents).max(initial=0)
    if not largest <= np.finfo(np.float16).max:  # NaN included
        raise ExportError(
            f"The constant {name} reaches {largest:g}, and float16 ends at 65504. "
            "Export with --target cpu."
        )
    value.const_value = ir.tensor(contents.astype(np.float16), name=name)
    value.type = ir.TensorType(ir.DataType.FLOAT16)


def _widen_logits(graph: ir.Graph) -> None:
    place = next(i for i, value in enumerate(graph.outputs) if value.name == "logits")
    narrow = graph.outputs[place]
    narrow.name = "logits_half"
    cast = ir.node("Cast", [narrow], attributes={"to": ir.DataType.FLOAT})
    wide = cast.outputs[0]
    wide.name, wide.shape = "logits", narrow.shape
    wide.type = ir.TensorType(ir.DataType.FLOAT)
    graph.append(cast)
    graph.outputs[place] = wide
