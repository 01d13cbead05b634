"""Int8 quantization: 8-bit weights in blocks, each with its own scale.

Every constant matrix product becomes com.microsoft::MatMulNBits with 8 bits and accuracy level 4:
the kernel quantizes the activations to int8 by row and block as it runs, and prefill loses no more
than decode. Where that loses too much, activations have 16 bits: the part that int8 represents and
the rest are two rows of one product, which are added. An embedding whose matrix is also the output
projection is stored once: the same bytes feed com.microsoft::GatherBlockQuantized.

Source: the operator specifications in onnxruntime's docs/ContribOperators.md.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from atom_edge.errors import ExportError

MICROSOFT = "com.microsoft"
BITS = 8
ZERO_POINT = 1 << (BITS - 1)
LARGEST = ZERO_POINT - 1
ACCURACY_INT8_ACTIVATIONS = 4

Matrix = npt.NDArray[np.float32]


def quantize_blocks(weight: Matrix, block: int) -> tuple[npt.NDArray[np.uint8], Matrix]:
    """Quantize each row of `weight` in blocks, symmetric around the zero point 128.

    Args:
        weight: float32 `[N, K]`.
        block: elements that share a scale, a power of two of at least 16; a last, shorter block
            is filled with zeros.

    Returns:
        bytes `[N, blocks, block]` and scales `[N, blocks]`, with
        `weight ~ (bytes - 128) * scale` to within half a scale.

    Raises:
        ExportError: for weights that are not finite.
    """
    if not np.isfinite(weight).all():
        raise ExportError(
            "A weight matrix holds values that are not finite and cannot be quantized. "
            "Check the checkpoint, or export with --quantize none."
        )
    rows, columns = weight.shape
    blocks = -(-columns // block)
    padded = np.zeros((rows, blocks * block), np.float32)
    padded[:, :columns] = weight
    padded = padded.reshape(rows, blocks, block)
    scales = np.abs(padded).max(axis=2) / LARGEST
    # A block of zeros takes any scale; so does one of values too small to divide by.
    scales[scales < np.finfo(np.float32).tiny] = 1.0
    levels = np.rint(padded / scales[:, :, None]) + ZERO_POINT
    return levels.astype(np.uint8), scales.astype(np.float32)


def dequantize_blocks(
    levels: npt.NDArray[np.uint8], scales: Matrix, columns: int
) -> npt.NDArray[np.float32]:
    """The float32 matrix `[N, columns]` that `levels` and `scales` stand for."""
    values = (levels.astype(np.float32) - ZERO_POINT) * scales[:, :, None]
    return values.reshape(levels.shape[0], -1)[:, :columns]


def quantize(model: ir.Model, block: int = 32, activation_bits: int = BITS) -> ir.Model:
    """Quantize every constant matrix product of `model`, and the embedding, in place.

    Args:
        model: a float32 graph.
        block: elements that share a scale.
        activation_bits: 8; or 16, at twice the arithmetic, for products with whole blocks.

    Returns:
        `model`, whose float matrices are gone.

    Raises:
        ExportError: when there is nothing to quantize.
    """
    graph = model.graph
    stored = _QuantizedMatrices(graph, block)
    products = [node for node in graph if constant_matrix(node) is not None]
    if not products:
        raise ExportError("The graph has no constant matrix product to quantize.")
    for node in products:
        product = _quantize_product(graph, node, stored)
        if activation_bits == 2 * BITS:
            _widen_activations(graph, product, block)
    for node in [node for node in graph if is_embedding(node)]:
        _quantize_embedding(graph, node, stored)
    remove_unused(graph)
    model.opset_imports[MICROSOFT] = 1
    return model


class _QuantizedMatrices:
    """The quantized form of each matrix, made once however many nodes use it."""

    def __init__(self, graph: ir.Graph, block: int) -> None:
        self.graph = graph
        self.block = block
        self._made: dict[ir.Value, tuple[ir.Value, ir.Value]] = {}

    def get(self, source: ir.Value, *, transposed: bool) -> tuple[ir.Value, ir.Value]:
        """Bytes and scales of `source` `[N, K]`, or of its transpose if that is `[K, N]`."""
        if source not in self._made:
            matrix = array_of(source)
            rows = np.ascontiguousarray(matrix.T if transposed else matrix, np.float32)
            levels, scales = quantize_blocks(rows, self.block)
            self._made[source] = (
                add_initializer(self.graph, f"{source.name}_int8", levels),
                add_initializer(self.graph, f"{source.name}_scale", scales),
            )
        return self._made[source]


def array_of(value: ir.Value) -> npt.NDArray[Any]:
    """The elements of an initializer."""
    assert value.const_value is not None
    return value.const_value.numpy()


def _is_matrix(value: ir.Value | None) -> bool:
    return value is not None and value.const_value is not None and len(array_of(value).shape) == 2


def constant_matrix(node: ir.Node) -> tuple[ir.Value, bool] | None:
    """The initializer that `node` multiplies by, and whether that is `[K, N]`."""
    if node.op_type == "Gemm":
        plain = all(node.attributes.get_float(name, 1.0) == 1 for name in ("alpha", "beta"))
        right = node.inputs[1]
        if not plain or node.attributes.get_int("transA", False) or not _is_matrix(right):
            return None
        assert right is not None
        return right, not node.attributes.get_int("transB", False)
    if node.op_type != "MatMul" or node.inputs[1] is None:
        return None
    right = node.inputs[1]
    producer = right.producer()
    if producer is not None and producer.op_type == "Transpose" and _is_matrix(producer.inputs[0]):
        assert producer.inputs[0] is not None
        return producer.inputs[0], False
    return (right, True) if _is_matrix(right) else None


def is_embedding(node: ir.Node) -> bool:
    """Whether `node` looks rows of a constant matrix up by the token ids."""
    if node.op_type != "Gather" or not _is_matrix(node.inputs[0]):
        return False
    index, rows = node.inputs[1], node.outputs[0].shape
    producer = index.producer() if index is not None else None
    # GPT-2 and OPT view the ids anew.
    if producer is not None and producer.op_type == "Reshape" and rows and len(rows) == 3:
        index = producer.inputs[0]
    return index is not None and index.name == "input_ids"


def _quantize_product(graph: ir.Graph, node: ir.Node, stored: _QuantizedMatrices) -> ir.Node:
    found = constant_matrix(node)
    assert found is not None
    source, transposed = found
    columns, rows = array_of(source).shape if transposed else array_of(source).shape[::-1]
    product = ir.node(
        "MatMulNBits",
        [node.inputs[0], *stored.get(source, transposed=transposed)],
        {
            "K": columns,
            "N": rows,
            "bits": BITS,
            "block_size": stored.block,
            "accuracy_level": ACCURACY_INT8_ACTIVATIONS,
        },
        domain=MICROSOFT,
        name=node.name,
    )
    bias = node.inputs[2] if node.op_type == "Gemm" and len(node.inputs) > 2 else None
    if bias is None:
        _replace(graph, node, product)
    else:
        graph.insert_before(node, product)
        _replace(graph, node, ir.node("Add", [product.outputs[0], bias]))
    return product


def _widen_activations(graph: ir.Graph, product: ir.Node, block: int) -> None:
    """Let `product` multiply its input `[..., K]` as int8 represents it, and what that leaves."""
    source, weights = product.inputs[0], product.inputs[1:]
    assert source is not None
    rank = 3 if source.shape is None else len(source.shape)  # a Gemm's input has two dimensions
    kept = [0] * (rank - 1)
    constants: dict[str, npt.NDArray[Any]] = {
        f"blocks_{rank}": np.array([*kept, -1, block], np.int64),
        f"whole_{rank}": np.array([*kept, -1], np.int64),
        "last": np.array([-1], np.int64),
        "level": np.array(1 / LARGEST, np.float32),
        "least": np.array(np.finfo(np.float32).tiny, np.float32),
    }
    shared = {
        name: graph.initializers.get(f"wide_{name}") or add_initializer(graph, f"wide_{name}", it)
        for name, it in constants.items()
    }
    nodes: list[ir.Node] = []

    def then(operator: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        nodes.append(ir.node(operator, inputs, attributes))
        return nodes[-1].outputs[0]

    blocks = then("Reshape", source, shared[f"blocks_{rank}"])
    largest = then("ReduceMax", then("Abs", blocks), shared["last"])
    scale = then("Max", then("Mul", largest, shared["level"]), shared["least"])
    coarse = then("Mul", then("Round", then("Div", blocks, scale)), scale)
    rest = then("Sub", blocks, coarse)
    both = then("Reshape", then("Concat", coarse, rest, axis=0), shared[f"whole_{rank}"])
    wide = ir.node(
        product.op_type,
        [both, *weights],
        dict(product.attributes),
        domain=product.domain,
        name=product.name,
    )
    halves = ir.node("Split", wide.outputs, {"axis": 0, "num_outputs": 2}, num_outputs=2)
    total = ir.node("Add", halves.outputs)
    graph.insert_before(product, [*nodes, wide, halves])
    _replace(graph, product, total)


def _quantize_embedding(graph: ir.Graph, node: ir.Node, stored: _QuantizedMatrices) -> None:
    """Look the rows up in bytes `[V, blocks, block]`: the output projection's, where it is tied."""
    table = node.inputs[0]
    assert table is not None
    width = array_of(table).shape[1]
    levels, scales = stored.get(table, transposed=False)
    column = add_initializer(graph, f"{scales.name}_shape", np.array([0, 0, 1], np.int64))
    row = add_initializer(graph, f"{levels.name}_row", np.array([0, 0, -1], np.int64))
    scale_column = ir.node("Reshape", [scales, column])
    gathered = ir.node(
        "GatherBlockQuantized",
        [levels, node.inputs[1], scale_column.outputs[0]],
        {"bits": BITS, "block_size": stored.block, "gather_axis": 0, "quantize_axis": 2},
        domain=MICROSOFT,
        name=node.name,
    )
    rows = ir.node("Reshape", [gathered.outputs[0], row])
    nodes = [scale_column, gathered, rows]
    if width % stored.block:
        # The zeros that fill the last block are cut off again.
        bounds = [
            add_initializer(graph, f"{levels.name}_{name}", np.array([number], np.int64))
            for name, number in (("start", 0), ("end", width), ("axis", 2))
        ]
        nodes.append(ir.node("Slice", [rows.outputs[0], *bounds]))
    graph.insert_before(node, nodes[:-1])
    _replace(graph, node, nodes[-1])


def _replace(graph: ir.Graph, old: ir.Node, new: ir.Node) -> None:
    new.outputs[0].name = old.outputs[0].name
    ir.convenience.replace_nodes_and_values(graph, old, [old], [new], old.outputs, new.outputs)


def add_initializer(graph: ir.Graph, name: str, array: npt.NDArray[Any]) -> ir.Value:
    """Register `array` as the initializer `name` of `graph`."""
    value = ir.val(name, const_value=ir.tensor(np.ascontiguousarray(array), name=name))
    graph.register_initializer(value)
    return value


def remove_unused(graph: ir.Graph) -> None:
    """Remove nodes and initializers that nothing uses."""
    for node in reversed(list(graph)):
        if not any(output.uses() or output.is_graph_output() for output in node.outputs):
            graph.remove(node, safe=True)
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[name]
