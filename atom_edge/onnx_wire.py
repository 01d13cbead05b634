"""Protobuf's wire format, read without the protobuf package.

https://protobuf.dev/programming-guides/encoding. It judges more strictly than protobuf reads:
groups, which ONNX never uses, and oversized tags are refused as malformed.
"""

from __future__ import annotations

VARINT, FIXED64, LENGTH_DELIMITED, FIXED32 = 0, 1, 2, 5

Field = tuple[int, int, int, int]


class Malformed(Exception):
    """Bytes that are not a message as it is expected; callers say of which file."""


def fields(data: bytes, start: int, end: int) -> list[Field]:
    """(number, wire type, value, end) of each field of the message in data[start:end].

    `value` is the number itself for a varint, and the offset of the first byte for all others.

    Raises:
        Malformed: if it is no message.
    """
    found = []
    position = start
    while position < end:
        tag = data[position]
        position += 1
        if tag > 0x7F:
            tag, position = _varint(data, position - 1, end)
        number, wire_type = tag >> 3, tag & 7
        if number == 0 or tag > 0xFFFFFFFF:
            raise Malformed(f"no field has the tag {tag} that stands before byte {position}")
        if wire_type == VARINT:
            value, position = _varint(data, position, end)
            found.append((number, wire_type, value, position))
            continue
        if wire_type == LENGTH_DELIMITED:
            length, position = _varint(data, position, end)
        elif wire_type in (FIXED64, FIXED32):
            length = 8 if wire_type == FIXED64 else 4
        else:
            raise Malformed(f"wire type {wire_type} before byte {position}")
        if length > end - position:
            raise Malformed(f"a field of {length} bytes at byte {position} passes its end")
        found.append((number, wire_type, position, position + length))
        position += length
    return found


def packed_varints(data: bytes, start: int, end: int) -> list[int]:
    """The numbers of a packed repeated field.

    Raises:
        Malformed: if the last one is cut off.
    """
    values = []
    while start < end:
        value, start = _varint(data, start, end)
        values.append(value)
    return values


def signed(value: int) -> int:
    """An int64 that a varint holds as its two's complement."""
    value &= 2**64 - 1
    return value - 2**64 if value >= 2**63 else value


def _varint(data: bytes, position: int, end: int) -> tuple[int, int]:
    """Read a base-128 number of at most 10 bytes; return it and the position after it."""
    if position < end and data[position] < 0x80:
        return data[position], position + 1
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
