"""Chosen logits: the output projection runs only for the positions that a caller names.

The projection to the vocabulary is a fifth of the weights, and prefill needs its result at one
position of each row. Matches a `logits` output `[B, T, V]` that a MatMul makes; adds the input

    logits_index   int64 [N], places b * T + t

and makes the output `[N, V]`, in the order of the index.

Declines when `logits` is made by anything else than a MatMul, or the width of the hidden states is
not static.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from atom_edge.exporters.passes.matching import add_initializer, size


def choose_logits(model: ir.Model) -> int:
    """Apply the pass in place; returns 1, or 0 if it declined."""
    graph = model.graph
    logits = next((value for value in graph.outputs if value.name == "logits"), None)
    product = logits.producer() if logits is not None else None
    if logits is None or product is None or product.op_type != "MatMul":
        return 0
    hidden = product.inputs[0]
    width = size(hidden, 2)
    if hidden is None or width is None:
        return 0
    index = ir.Value(
        name="logits_index", shape=ir.Shape(["chosen"]), type=ir.TensorType(ir.DataType.INT64)
    )
    graph.inputs.append(index)
    shape = add_initializer(model, "rows_of_hidden", np.array([-1, width], np.int64))
    rows = ir.node("Reshape", [hidden, shape], attributes={"allowzero": 0})
    chosen = ir.node("Gather", [rows.outputs[0], index], attributes={"axis": 0})
    graph.insert_before(product, [rows, chosen])
    product.replace_input_with(0, chosen.outputs[0])
    logits.shape = ir.Shape(["chosen", size(logits, 2)])
    return 1
