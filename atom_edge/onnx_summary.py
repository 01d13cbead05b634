"""What is in an ONNX file, without the onnx package: operators, inputs and outputs, sizes.

Reads the same wire format as `onnx_wire`, which says more about it.
"""

from __future__ import annotations

import mmap
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from atom_edge.errors import IntegrityError
from atom_edge.onnx_wire import Malformed, fields

# Field numbers of onnx.proto.
_MODEL_GRAPH, _MODEL_OPSET = 7, 8
_OPSET_DOMAIN, _OPSET_VERSION = 1, 2
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_INPUT, _GRAPH_OUTPUT = 1, 5, 11, 12
_NODE_OPERATOR, _NODE_DOMAIN = 4, 7
_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_NAME = 1, 2, 8
_VALUE_NAME, _VALUE_TYPE = 1, 2
_TYPE_TENSOR, _TENSOR_TYPE_ELEMENT, _TENSOR_TYPE_SHAPE = 1, 1, 2
_SHAPE_DIM, _DIM_VALUE, _DIM_NAME = 1, 1, 2

_ELEMENTS = {
    1: "float32",
    2: "uint8",
    3: "int8",
    6: "int32",
    7: "int64",
    9: "bool",
    10: "float16",
    16: "bfloat16",
}


@dataclass(frozen=True)
class Value:
    """An input or output: its name, element type, and shape of sizes and names of sizes."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class Tensor:
    """A stored tensor: its name, element type, shape, and the bytes it takes in the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int


@dataclass(frozen=True)
class GraphSummary:
    """An ONNX file at a glance.

    Attributes:
        opsets: version by domain; the domain of standard ONNX is "ai.onnx".
        operators: nodes by operator, "domain.Operator" outside standard ONNX, the commonest first.
        inputs: of the graph.
        outputs: of the graph.
        tensors: stored in the file, the largest first.
    """

    opsets: dict[str, int]
    operators: dict[str, int]
    inputs: list[Value]
    outputs: list[Value]
    tensors: list[Tensor]

    @property
    def nodes(self) -> int:
        """How many nodes the graph has."""
        return sum(self.operators.values())


class _Message:
    """A protobuf message in `data[start:end]`, each field looked up by its number."""

    def __init__(self, data: mmap.mmap, start: int, end: int) -> None:
        self._data = data
        self.size = end - start
        self._fields = list(fields(data, start, end))

    def messages(self, number: int) -> Iterator[_Message]:
        for found, _, start, end in self._fields:
            if found == number:
                yield _Message(self._data, start, end)

    def number(self, number: int) -> int:
        return next((value for found, _, value, _ in self._fields if found == number), 0)

    def has(self, number: int) -> bool:
        return any(found == number for found, *_ in self._fields)

    def text(self, number: int) -> str:
        for found, _, start, end in self._fields:
            if found == number:
                return self._data[start:end].decode(errors="replace")
        return ""

    def numbers(self, number: int) -> tuple[int, ...]:
        """A repeated number, packed into one field or not."""
        values = []
        for found, wire_type, start, end in self._fields:
            if found == number:
                values += [start] if wire_type == 0 else _packed(self._data[start:end])
        return tuple(values)


def _packed(data: bytes) -> list[int]:
    values, value, shift = [], 0, 0
    for byte in data:
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            values.append(value)
            value = shift = 0
    return values


def summarize(path: Path) -> GraphSummary:
    """Read the summary of an ONNX file; of its top-level graph, which is all that Atom's have.

    Raises:
        IntegrityError: if the file is not a well-formed ONNX model.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            model = _Message(data, 0, len(data))
            graph = next(model.messages(_MODEL_GRAPH), None)
            if graph is None:
                raise IntegrityError(f"{path} is an ONNX model without a graph.")
            return _summarize(model, graph)
    except ValueError as error:  # mmap refuses an empty file
        raise IntegrityError(f"{path} is empty, so that it is no ONNX model.") from error
    except Malformed as error:
        raise IntegrityError(f"{path} is not a well-formed ONNX model: {error}.") from error


def _summarize(model: _Message, graph: _Message) -> GraphSummary:
    operators = Counter(_operator(node) for node in graph.messages(_GRAPH_NODE))
    tensors = [_tensor(message) for message in graph.messages(_GRAPH_INITIALIZER)]
    return GraphSummary(
        opsets={
            opset.text(_OPSET_DOMAIN) or "ai.onnx": opset.number(_OPSET_VERSION)
            for opset in model.messages(_MODEL_OPSET)
        },
        operators=dict(operators.most_common()),
        inputs=[_value(message) for message in graph.messages(_GRAPH_INPUT)],
        outputs=[_value(message) for message in graph.messages(_GRAPH_OUTPUT)],
        tensors=sorted(tensors, key=lambda tensor: -tensor.bytes),
    )


def _operator(node: _Message) -> str:
    domain = node.text(_NODE_DOMAIN)
    operator = node.text(_NODE_OPERATOR)
    return operator if domain in ("", "ai.onnx") else f"{domain}.{operator}"


def _tensor(message: _Message) -> Tensor:
    return Tensor(
        message.text(_TENSOR_NAME),
        _element(message.number(_TENSOR_TYPE)),
        message.numbers(_TENSOR_DIMS),
        message.size,
    )


def _value(message: _Message) -> Value:
    for kind in message.messages(_VALUE_TYPE):
        for tensor in kind.messages(_TYPE_TENSOR):
            dims = [
                dim
                for shape in tensor.messages(_TENSOR_TYPE_SHAPE)
                for dim in shape.messages(_SHAPE_DIM)
            ]
            return Value(
                message.text(_VALUE_NAME),
                _element(tensor.number(_TENSOR_TYPE_ELEMENT)),
                tuple(
                    dim.number(_DIM_VALUE) if dim.has(_DIM_VALUE) else dim.text(_DIM_NAME) or "?"
                    for dim in dims
                ),
            )
    return Value(message.text(_VALUE_NAME), "?", ())


def _element(number: int) -> str:
    return _ELEMENTS.get(number, f"type {number}")
