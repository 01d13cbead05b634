"""What comes from outside is a typed value, or an error that names its place."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta, Struct

from atom_edge.border import format_json, parse_json, read_file, read_json
from atom_edge.errors import BundleError


class Part(Struct):
    size: Annotated[int, Meta(ge=0)]
    names: list[str] = []


class Whole(Struct):
    parts: dict[str, Part]
    nested: dict[str, dict[str, int]] = {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '{"parts": {"a": {"size": 1}, "b.c": {"size": "2"}}}',
            "x: parts.b.c.size: expected int",
        ),
        ('{"parts": {"a": {"size": 1}, "b": {"size": -2}}}', "x: parts.b.size: expected int >= 0"),
        ('{"parts": {"a": {"size": 1, "names": ["p", 4]}}}', "x: parts.a.names.1: expected str"),
        ('{"parts": {}, "nested": {"p": {"q": 1}, "r": {"s": 1, "t": {}}}}', "x: nested.r.t: exp"),
        ('{"parts": {"": {}}}', "x: parts.: object missing required field size"),
        ("{}", "x: object missing required field parts"),
        ("[]", "x: expected object, got array"),
        ("", "x is not readable JSON: Input data was truncated"),
        ("{", "x is not readable JSON"),
        ('{"parts": NaN}', "x is not readable JSON"),
        ('{"parts": ' + "[" * 100_000, "x"),
        ('{"parts": 1, "unknown": ' + "[" * 900 + "]" * 900 + "}", "x: parts: expected object"),
    ],
)
def test_a_refusal_names_its_place(text: str, message: str) -> None:
    with pytest.raises(BundleError) as caught:
        parse_json(text.encode(), Whole, "x", BundleError)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("data", [b'"\xff"', b'"\\ud800"', b"\0", b"1e999", b"[" * 10**5])
def test_what_is_not_json_is_refused(data: bytes) -> None:
    with pytest.raises(BundleError, match="x"):
        parse_json(data, Any, "x", BundleError)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(st.binary() | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_a_value_or_an_error_of_ours(data: bytes) -> None:
    for kind in (Whole, dict[str, Any], dict[str, list[int]], Any):
        with contextlib.suppress(BundleError):
            parse_json(data, kind, "x", BundleError)


def test_only_regular_files_of_bounded_size_are_read(tmp_path: Path) -> None:
    file = tmp_path / "file.json"
    file.write_bytes(b"12345")
    assert read_file(file, 5, BundleError) == b"12345"
    with pytest.raises(BundleError, match="larger than 4 bytes"):
        read_file(file, 4, BundleError)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder", "/dev/zero"):
        with pytest.raises(BundleError, match=r"not a regular file|cannot be read: Is a directory"):
            read_file(tmp_path / name, 5, BundleError)
    for name in ("missing", "x" * 300, "zero\0byte"):
        with pytest.raises(BundleError, match="cannot be read"):
            read_json(tmp_path / name, Whole, BundleError)


def test_what_is_written_is_utf_8_and_finite() -> None:
    assert format_json({"modèle": Part(3)}).decode() == (
        '{\n  "modèle": {\n    "size": 3,\n    "names": []\n  }\n}\n'
    )
    for number in (float("nan"), float("inf"), -float("inf")):
        with pytest.raises(ValueError, match="not JSON compliant"):
            format_json({"figure": [number]})
