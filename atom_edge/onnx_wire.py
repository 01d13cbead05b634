"""Finds tensors with external data in an ONNX file, without the onnx package.

An ONNX tensor may name another file that holds its bytes. That name comes from the model, and
runtimes have followed it out of the model's folder (CVE-2022-25882, CVE-2024-27318), so that a
bundle may hold no such tensor. The runtime has no onnx package to ask: this module walks the
protobuf wire format (https://protobuf.dev/programming-guides/encoding) along every path of
onnx.proto by which a TensorProto can be reached, nested graphs and functions included, and skips
everything else.

It judges more strictly than protobuf reads: groups, which ONNX never uses, oversized tags and
nesting beyond protobuf's own limit are refused as malformed.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

from atom_edge.errors import IntegrityError

# Messages of onnx.proto: which field numbers hold a message that can reach a TensorProto.
_MESSAGES: dict[str, dict[int, str]] = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Function": {7: "Node", 11: "Attribute"},
    "Node": {5: "Attribute"},
    "Attribute": {
        5: "Tensor",
        6: "Graph",
        10: "Tensor",
        11: "Graph",
        22: "SparseTensor",
        23: "SparseTensor",
    },
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Tensor": {},
}
_TENSOR_NAME, _TENSOR_EXTERNAL_DATA, _TENSOR_DATA_LOCATION = 8, 13, 14

_VARINT, _FIXED64, _LENGTH_DELIMITED, _FIXED32 = 0, 1, 2, 5
_MAX_DEPTH = 100  # protobuf's own recursion limit

Field = tuple[int, int, int, int]


class Malformed(Exception):
    """A file that is no protobuf message; callers turn it into an `IntegrityError`."""


def external_tensors(path: Path) -> list[str]:
    """Names of the tensors of an ONNX file that keep their data in another file.

    Raises:
        IntegrityError: if the file is not a well-formed protobuf message.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return list(_external_tensors(data, 0, len(data), "Model", depth=0))
    except ValueError as error:  # mmap refuses an empty file
        raise IntegrityError(f"{path} is empty, so that it is no ONNX model.") from error
    except Malformed as error:
        raise IntegrityError(f"{path} is not a well-formed ONNX model: {error}.") from error


def _external_tensors(
    data: mmap.mmap, start: int, end: int, message: str, depth: int
) -> Iterator[str]:
    if depth > _MAX_DEPTH:
        raise Malformed(f"messages nested more than {_MAX_DEPTH} deep at byte {start}")
    if message == "Tensor":
        if _is_external(data, start, end):
            yield _tensor_name(data, start, end)
        return
    children = _MESSAGES[message]
    for number, wire_type, value, value_end in fields(data, start, end):
        if number in children and wire_type == _LENGTH_DELIMITED:
            yield from _external_tensors(data, value, value_end, children[number], depth + 1)


def _is_external(data: mmap.mmap, start: int, end: int) -> bool:
    return any(
        number == _TENSOR_EXTERNAL_DATA or (number == _TENSOR_DATA_LOCATION and value != 0)
        for number, _, value, _ in fields(data, start, end)
    )


def _tensor_name(data: mmap.mmap, start: int, end: int) -> str:
    for number, wire_type, value, value_end in fields(data, start, end):
        if number == _TENSOR_NAME and wire_type == _LENGTH_DELIMITED:
            return data[value:value_end].decode(errors="replace") or "(unnamed)"
    return "(unnamed)"


def fields(data: mmap.mmap, start: int, end: int) -> Iterator[Field]:
    """Yield (number, wire type, value, end) of each field of the message in data[start:end].

    `value` is the number itself for a varint, and the offset of the first byte for all others.
    """
    position = start
    while position < end:
        tag, position = _varint(data, position, end)
        number, wire_type = tag >> 3, tag & 7
        if number == 0 or tag > 0xFFFFFFFF:
            raise Malformed(f"no field has the tag {tag} that stands before byte {position}")
        if wire_type == _VARINT:
            value, position = _varint(data, position, end)
            yield number, wire_type, value, position
            continue
        if wire_type == _LENGTH_DELIMITED:
            length, position = _varint(data, position, end)
        elif wire_type in (_FIXED64, _FIXED32):
            length = 8 if wire_type == _FIXED64 else 4
        else:
            raise Malformed(f"wire type {wire_type} before byte {position}")
        if length > end - position:
            raise Malformed(f"a field of {length} bytes at byte {position} passes its end")
        yield number, wire_type, position, position + length
        position += length


def _varint(data: mmap.mmap, position: int, end: int) -> tuple[int, int]:
    """Read a base-128 number of at most 10 bytes; return it and the position after it."""
    value = 0
    for index in range(10):
        if position >= end:
            raise Malformed(f"it ends inside a number at byte {position}")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, position
    raise Malformed(f"a number of more than 10 bytes before byte {position}")
