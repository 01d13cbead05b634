"""External data is found wherever onnx.proto can hold a tensor, and malformed bytes are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from atom_edge.errors import IntegrityError
from atom_edge.onnx_wire import external_tensors


def tensor(external: bool, name: str = "weights") -> TensorProto:
    made = helper.make_tensor(name, TensorProto.FLOAT, [2], [1.0, 2.0])
    if external:
        made.ClearField("float_data")
        made.data_location = TensorProto.EXTERNAL
        made.external_data.add(key="location", value="../../etc/passwd")
    return made


def model_with(place: Callable[[onnx.ModelProto, TensorProto], None], external: bool) -> bytes:
    model = helper.make_model(helper.make_graph([], "main", [], []))
    place(model, tensor(external))
    return model.SerializeToString()


def node_with(**attributes: object) -> onnx.NodeProto:
    return helper.make_node("Anything", ["a"], ["b"], **attributes)


def subgraph(inner: TensorProto) -> onnx.GraphProto:
    return helper.make_graph([], "inner", [], [], initializer=[inner])


def sparse(values: TensorProto) -> onnx.SparseTensorProto:
    indices = helper.make_tensor("indices", TensorProto.INT64, [2], [0, 1])
    return helper.make_sparse_tensor(values, indices, [4])


def in_function(model: onnx.ModelProto, inner: TensorProto) -> None:
    function = helper.make_function(
        "local", "f", [], ["b"], [node_with(value=inner)], [helper.make_opsetid("", 20)]
    )
    model.functions.append(function)


PLACES: dict[str, Callable[[onnx.ModelProto, TensorProto], None]] = {
    "initializer": lambda m, t: m.graph.initializer.append(t),
    "sparse initializer": lambda m, t: m.graph.sparse_initializer.append(sparse(t)),
    "tensor attribute": lambda m, t: m.graph.node.append(node_with(value=t)),
    "tensors attribute": lambda m, t: m.graph.node.append(node_with(values=[t, t])),
    "sparse attribute": lambda m, t: m.graph.node.append(node_with(sparse_value=sparse(t))),
    "sparse attributes": lambda m, t: m.graph.node.append(node_with(values=[sparse(t)])),
    "subgraph": lambda m, t: m.graph.node.append(node_with(then_branch=subgraph(t))),
    "subgraphs": lambda m, t: m.graph.node.append(node_with(branches=[subgraph(t)])),
    "subgraph of a subgraph": lambda m, t: m.graph.node.append(
        node_with(body=helper.make_graph([node_with(then_branch=subgraph(t))], "outer", [], []))
    ),
    "function": in_function,
    "training": lambda m, t: m.training_info.add().algorithm.initializer.append(t),
    "training initialization": lambda m, t: m.training_info.add().initialization.CopyFrom(
        subgraph(t)
    ),
}


@pytest.mark.parametrize("place", PLACES)
def test_external_tensors_are_found_everywhere(place: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(model_with(PLACES[place], external=True))
    assert "weights" in external_tensors(path)
    path.write_bytes(model_with(PLACES[place], external=False))
    assert external_tensors(path) == []


@pytest.mark.parametrize("field", ["data_location", "external_data"])
def test_either_mark_is_enough(field: str, tmp_path: Path) -> None:
    marked = tensor(external=True, name="")
    marked.ClearField(field)
    model = helper.make_model(subgraph(marked))
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    assert external_tensors(path) == ["(unnamed)"]


def test_a_graph_in_two_parts_is_read_whole(tmp_path: Path) -> None:
    """Protobuf merges a message that occurs twice."""
    path = tmp_path / "model.onnx"
    external = model_with(PLACES["initializer"], external=True)
    path.write_bytes(external + model_with(PLACES["initializer"], external=False))
    assert external_tensors(path) == ["weights"]


def test_what_onnx_writes_is_found(tmp_path: Path) -> None:
    big = onnx.numpy_helper.from_array(np.full(4096, 0.5, np.float32), "big")
    path = tmp_path / "model.onnx"
    onnx.save(
        helper.make_model(subgraph(big)), path, save_as_external_data=True, location="weights.bin"
    )
    assert external_tensors(path) == ["big"]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is empty"),
        (b"\x3a", "ends inside a number"),
        (b"\x3a\x05\x00", "passes its end"),
        (b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "passes its end"),
        (b"\x08" + b"\xff" * 11, "more than 10 bytes"),
        (b"\x3b\x3c", "wire type 3"),
        (b"\x3f", "wire type 7"),
        (b"\x00\x00", "tag 0"),
        (b"\xff\xff\xff\xff\xff\x01", "tag"),
        (b"\x39\x00", "passes its end"),
    ],
)
def test_malformed_bytes_are_refused(data: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match=reason):
        external_tensors(path)


def test_bottomless_nesting_is_refused(tmp_path: Path) -> None:
    def field(number: int, content: bytes) -> bytes:
        size, length = len(content), b""
        while size > 0x7F:
            length, size = length + bytes([size & 0x7F | 0x80]), size >> 7
        return bytes([number << 3 | 2]) + length + bytes([size]) + content

    graph = b""
    for _ in range(60):
        graph = field(1, field(5, field(6, graph)))
    path = tmp_path / "model.onnx"
    path.write_bytes(field(7, graph))
    with pytest.raises(IntegrityError, match="nested"):
        external_tensors(path)


@settings(max_examples=300, deadline=None)
@given(changes=st.dictionaries(st.integers(0, 10_000), st.integers(0, 255), min_size=1, max_size=3))
def test_damage_never_hides_a_tensor_from_us_alone(
    tmp_path_factory: pytest.TempPathFactory, changes: dict[int, int]
) -> None:
    damaged = bytearray(model_with(PLACES["subgraph of a subgraph"], external=True))
    for place, byte in changes.items():
        damaged[place % len(damaged)] = byte
    path = tmp_path_factory.getbasetemp() / "damaged.onnx"
    path.write_bytes(damaged)
    try:
        found = external_tensors(path)
    except IntegrityError:
        return
    assert found or not read_as_external(bytes(damaged))


def read_as_external(data: bytes) -> bool:
    """Whether protobuf reads the bytes, and reads a tensor with external data in them."""
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError:
        return False
    text = str(model)
    return "data_location: EXTERNAL" in text or "external_data {" in text
