"""An ONNX file as a typed value, without the onnx package, which the base install lacks.

The file comes from a stranger, so what `parse_graph` takes is what the exporter writes, and not
all of onnx.proto: one graph of nodes over tensors that are stored in the file itself. Subgraphs,
functions, sparse tensors, strings of tensors, training graphs, devices, and tensors in other files
(which runtimes have followed out of the model's folder: CVE-2022-25882, CVE-2024-27318) are
refused, and so is a field that is given twice, which readers merge in ways of their own.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

from atom_edge.errors import IntegrityError
from atom_edge.onnx_wire import (
    FIXED32,
    FIXED64,
    LENGTH_DELIMITED,
    VARINT,
    Malformed,
    fields,
    packed_varints,
    signed,
)

_ELEMENTS = {
    1: "float32",
    2: "uint8",
    3: "int8",
    4: "uint16",
    5: "int16",
    6: "int32",
    7: "int64",
    9: "bool",
    10: "float16",
    11: "float64",
    12: "uint32",
    13: "uint64",
    16: "bfloat16",
    21: "uint4",
    22: "int4",
}
# Of integers that may be a shape or a limit, the judge wants to see the values.
_MAX_VALUES = 64


class Value(NamedTuple):
    """An input or output: its name, element type, and shape of sizes and names of sizes.

    The shape is None if the file does not say it.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...] | None


class Tensor(NamedTuple):
    """A stored tensor.

    Attributes:
        name: of the value that it is.
        dtype: of its elements.
        shape: of it.
        bytes: what it takes in the file.
        integers: its elements, if they are int32 or int64 and at most 64; else None.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int
    integers: tuple[int, ...] | None = None


class Node(NamedTuple):
    """An operation.

    Attributes:
        operator: "domain.Operator" outside standard ONNX.
        inputs: names of values; empty for one that is left out.
        outputs: likewise.
        tensors: those among its attributes.
    """

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    tensors: tuple[Tensor, ...]


@dataclass(frozen=True)
class Graph:
    """What an ONNX file holds.

    Attributes:
        opsets: version by domain; the domain of standard ONNX is "ai.onnx".
        nodes: in the order of the file.
        inputs: of the graph.
        outputs: of the graph.
        tensors: stored in the file, the largest first.
    """

    opsets: dict[str, int]
    nodes: list[Node]
    inputs: list[Value]
    outputs: list[Value]
    tensors: list[Tensor]

    @property
    def operators(self) -> dict[str, int]:
        """How many nodes there are of each operator, the commonest first."""
        return dict(Counter(node.operator for node in self.nodes).most_common())


def parse_graph(data: bytes, where: str) -> Graph:
    """Parse an ONNX file.

    Args:
        data: its bytes.
        where: its path, for messages.

    Raises:
        IntegrityError: if it is not an ONNX model, or has parts that no graph of a bundle has.
    """
    if not data:
        raise IntegrityError(f"{where} is empty, so it is no ONNX model.")
    try:
        return _model(_Message(data, 0, len(data), "Model"))
    except Malformed as error:
        raise IntegrityError(f"{where} is not a graph that a bundle may have: {error}.") from error


# The fields of onnx.proto that a graph of a bundle may have. A capital is a repeated field:
# i a number, s text or a message, f and d floats of 4 and 8 bytes.
_FIELDS: dict[str, dict[int, str]] = {
    "Model": {1: "i", 2: "s", 3: "s", 4: "s", 5: "i", 6: "s", 7: "s", 8: "S", 14: "S"},
    "OperatorSetId": {1: "s", 2: "i"},
    "Graph": {1: "S", 2: "s", 5: "S", 10: "s", 11: "S", 12: "S", 13: "S", 16: "S"},
    "Node": {1: "S", 2: "S", 3: "s", 4: "s", 5: "S", 6: "s", 7: "s", 9: "S"},
    "Attribute": {
        **{1: "s", 2: "f", 3: "i", 4: "s", 5: "s", 7: "F", 8: "I", 9: "S", 10: "S"},
        **{13: "s", 20: "i"},
    },
    "Tensor": {
        **{1: "I", 2: "i", 4: "F", 5: "I", 7: "I", 8: "s", 9: "s", 10: "D", 11: "I", 12: "s"},
        **{14: "i", 16: "S"},
    },
    "ValueInfo": {1: "s", 2: "s", 3: "s", 4: "S"},
    "Type": {1: "s", 6: "s"},
    "TensorType": {1: "i", 2: "s"},
    "Shape": {1: "S"},
    "Dimension": {1: "i", 2: "s", 3: "s"},
}
_REFUSED = {
    ("Model", 20): "a training graph",
    ("Model", 25): "functions",
    ("Model", 26): "devices",
    ("Graph", 15): "sparse tensors",
    ("Node", 8): "overloads",
    ("Node", 10): "devices",
    ("Attribute", 6): "a subgraph",
    ("Attribute", 11): "subgraphs",
    ("Attribute", 21): "a reference to an attribute of a function",
    ("Attribute", 22): "a sparse tensor",
    ("Attribute", 23): "sparse tensors",
    ("Tensor", 6): "texts",
    ("Tensor", 13): "its data in another file",
    ("Type", 4): "a sequence for its type",
}
_WIRE_TYPES = {
    "i": (VARINT,),
    "s": (LENGTH_DELIMITED,),
    "S": (LENGTH_DELIMITED,),
    "f": (FIXED32,),
    "I": (VARINT, LENGTH_DELIMITED),
    "F": (FIXED32, LENGTH_DELIMITED),
    "D": (FIXED64, LENGTH_DELIMITED),
}


class _Message:
    """A message of onnx.proto in `data[start:end]`, its fields checked and looked up by number."""

    def __init__(self, data: bytes, start: int, end: int, kind: str) -> None:
        self._data = data
        self.size = end - start
        self._found: dict[int, list[tuple[int, int, int]]] = {}
        allowed = _FIELDS[kind]
        for number, wire_type, value, value_end in fields(data, start, end):
            form = allowed.get(number)
            if form is None:
                what = _REFUSED.get((kind, number), f"the field {number}")
                raise Malformed(f"the {kind} at byte {start} has {what}")
            if wire_type not in _WIRE_TYPES[form]:
                raise Malformed(f"field {number} of the {kind} at byte {start} is of another type")
            if number not in self._found:
                self._found[number] = [(wire_type, value, value_end)]
            elif form.isupper():
                self._found[number].append((wire_type, value, value_end))
            else:
                raise Malformed(f"the {kind} at byte {start} has field {number} twice")

    def __contains__(self, number: int) -> bool:
        return number in self._found

    def messages(self, number: int, kind: str) -> list[_Message]:
        found = self._found.get(number, ())
        return [_Message(self._data, start, end, kind) for _, start, end in found]

    def number(self, number: int) -> int:
        return self._found[number][0][1] if number in self._found else 0

    def texts(self, number: int) -> tuple[str, ...]:
        found = self._found.get(number, ())
        try:
            return tuple(self._data[start:end].decode() for _, start, end in found)
        except UnicodeDecodeError as error:
            raise Malformed(f"a name is not UTF-8 ({error.object[:40]!r})") from error

    def text(self, number: int) -> str:
        return self.texts(number)[0] if number in self._found else ""

    def span(self, number: int) -> bytes | None:
        if number not in self._found:
            return None
        _, start, end = self._found[number][0]
        return self._data[start:end]

    def length(self, number: int) -> int:
        """Bytes of a field's content, as far as it is not a bare number."""
        return sum(
            1 if wire_type == VARINT else end - start
            for wire_type, start, end in self._found.get(number, ())
        )

    def numbers(self, number: int) -> list[int]:
        values: list[int] = []
        for wire_type, start, end in self._found.get(number, ()):
            if wire_type == VARINT:
                values.append(start)
            else:
                values += packed_varints(self._data, start, end)
        return values


def _model(model: _Message) -> Graph:
    graphs = model.messages(7, "Graph")
    if not graphs:
        raise Malformed("it has no graph")
    (graph,) = graphs
    opsets = model.messages(8, "OperatorSetId")
    tensors = [_tensor(message) for message in graph.messages(5, "Tensor")]
    return Graph(
        opsets={opset.text(1) or "ai.onnx": opset.number(2) for opset in opsets},
        nodes=[_node(message) for message in graph.messages(1, "Node")],
        inputs=[_value(message) for message in graph.messages(11, "ValueInfo")],
        outputs=[_value(message) for message in graph.messages(12, "ValueInfo")],
        tensors=sorted(tensors, key=lambda tensor: -tensor.bytes),
    )


def _node(node: _Message) -> Node:
    domain, operator = node.text(7), node.text(4)
    tensors = [
        _tensor(tensor)
        for attribute in node.messages(5, "Attribute")
        for number in (5, 10)
        for tensor in attribute.messages(number, "Tensor")
    ]
    return Node(
        operator if domain in ("", "ai.onnx") else f"{domain}.{operator}",
        node.texts(1),
        node.texts(2),
        tuple(tensors),
    )


def _tensor(message: _Message) -> Tensor:
    name = message.text(8)
    shape = tuple(map(signed, message.numbers(1)))
    dtype = _element(message.number(2))
    if message.number(14):
        raise Malformed(f"the tensor {name!r} has its data in another file")
    if any(size < 0 for size in shape):
        raise Malformed(f"the tensor {name!r} has the shape {list(shape)}")
    # Of every type a byte holds at most two elements.
    stored = sum(message.length(number) for number in (4, 5, 7, 9, 10, 11))
    if prod(shape) > 2 * stored:
        raise Malformed(f"the tensor {name!r} has the shape {list(shape)} and {stored} bytes")
    integers = None
    if dtype in ("int32", "int64") and prod(shape) <= _MAX_VALUES:
        integers = _integers(message, dtype)
    return Tensor(name, dtype, shape, message.size, integers)


def _integers(message: _Message, dtype: str) -> tuple[int, ...]:
    raw = message.span(9)
    if raw is None:
        return tuple(map(signed, message.numbers(5 if dtype == "int32" else 7)))
    width = 4 if dtype == "int32" else 8
    return tuple(
        int.from_bytes(raw[start : start + width], "little", signed=True)
        for start in range(0, len(raw), width)
    )


def _value(message: _Message) -> Value:
    name = message.text(1)
    for kind in message.messages(2, "Type"):
        for tensor in kind.messages(1, "TensorType"):
            dtype = _element(tensor.number(1))
            for shape in tensor.messages(2, "Shape"):
                return Value(name, dtype, tuple(map(_dimension, shape.messages(1, "Dimension"))))
            return Value(name, dtype, None)
    raise Malformed(f"{name!r} is not a tensor")


def _dimension(message: _Message) -> int | str:
    if 1 in message and 2 in message:
        raise Malformed("a dimension has both a size and a name")
    return signed(message.number(1)) if 1 in message else message.text(2) or "?"


def _element(number: int) -> str:
    try:
        return _ELEMENTS[number]
    except KeyError:
        raise Malformed(f"there is no element type {number} in a bundle") from None
