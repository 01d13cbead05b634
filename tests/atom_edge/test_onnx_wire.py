"""Tensors in other files are refused wherever they may hide, and so are malformed bytes."""

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
from atom_edge.onnx_graph import parse_graph


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
def test_a_tensor_in_another_file_is_refused_wherever_it_hides(place: str) -> None:
    with pytest.raises(IntegrityError, match=r"m\.onnx is not a graph that a bundle may have"):
        parse_graph(model_with(PLACES[place], external=True), "m.onnx")
    inner = model_with(PLACES[place], external=False)
    if place in ("initializer", "tensor attribute", "tensors attribute"):
        parse_graph(inner, "m.onnx")
        return
    with pytest.raises(IntegrityError, match=r"sparse|subgraph|function|training"):
        parse_graph(inner, "m.onnx")


@pytest.mark.parametrize("field", ["data_location", "external_data"])
def test_either_mark_is_enough(field: str) -> None:
    marked = tensor(external=True, name="")
    marked.ClearField(field)
    model = helper.make_model(subgraph(marked))
    with pytest.raises(IntegrityError, match="its data in another file"):
        parse_graph(model.SerializeToString(), "m.onnx")


def test_a_graph_in_two_parts_is_refused() -> None:
    """Protobuf merges a message that occurs twice; not every reader does."""
    half = model_with(PLACES["initializer"], external=False)
    with pytest.raises(IntegrityError, match="twice"):
        parse_graph(half + half, "m.onnx")


def test_what_onnx_writes_is_found(tmp_path: Path) -> None:
    big = onnx.numpy_helper.from_array(np.full(4096, 0.5, np.float32), "big")
    path = tmp_path / "model.onnx"
    onnx.save(
        helper.make_model(subgraph(big)), path, save_as_external_data=True, location="weights.bin"
    )
    with pytest.raises(IntegrityError, match="its data in another file"):
        parse_graph(path.read_bytes(), str(path))


@pytest.mark.parametrize("shape", [[2**40], [2**20, 2**20], [-1], [17]])
def test_a_shape_that_its_bytes_do_not_fill_is_refused(shape: list[int]) -> None:
    made = tensor(external=False)
    made.ClearField("dims")
    made.dims.extend(shape)
    with pytest.raises(IntegrityError, match="'weights' has the shape"):
        parse_graph(helper.make_model(subgraph(made)).SerializeToString(), "m.onnx")


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
def test_malformed_bytes_are_refused(data: bytes, reason: str) -> None:
    with pytest.raises(IntegrityError, match=reason):
        parse_graph(data, "m.onnx")


@settings(max_examples=300, deadline=None)
@given(
    place=st.sampled_from(["initializer", "tensor attribute", "subgraph"]),
    changes=st.dictionaries(st.integers(0, 10_000), st.integers(0, 255), min_size=1, max_size=3),
)
def test_damage_never_makes_us_read_another_graph_than_protobuf(
    place: str, changes: dict[int, int]
) -> None:
    damaged = bytearray(model_with(PLACES[place], external=place == "subgraph"))
    for position, byte in changes.items():
        damaged[position % len(damaged)] = byte
    model = onnx.ModelProto()
    try:
        ours = parse_graph(bytes(damaged), "m.onnx")
        model.ParseFromString(bytes(damaged))
    except (IntegrityError, DecodeError):
        return
    text = str(model)
    assert "data_location: EXTERNAL" not in text
    assert "external_data {" not in text
    names = {"": "", "ai.onnx": ""}
    assert [node.operator for node in ours.nodes] == [
        names.get(node.domain, f"{node.domain}.") + node.op_type for node in model.graph.node
    ]
    assert sorted((tensor.name, tensor.shape) for tensor in ours.tensors) == sorted(
        (tensor.name, tuple(tensor.dims)) for tensor in model.graph.initializer
    )
