"""A graph as we read it, against the onnx package."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from atom_edge.bundle import open_bundle
from atom_edge.errors import IntegrityError
from atom_edge.onnx_graph import Graph, parse_graph

DTYPES = {
    TensorProto.FLOAT: "float32",
    TensorProto.DOUBLE: "float64",
    TensorProto.BFLOAT16: "bfloat16",
    TensorProto.INT32: "int32",
    TensorProto.INT64: "int64",
    TensorProto.UINT8: "uint8",
    TensorProto.INT8: "int8",
}


def read(path: Path) -> Graph:
    return parse_graph(path.read_bytes(), str(path))


@pytest.mark.parametrize("fixture", ["small_bundle", "small_int8_bundle"])
def test_it_is_what_onnx_reads(fixture: str, request: pytest.FixtureRequest) -> None:
    bundle = open_bundle(request.getfixturevalue(fixture))
    for role in bundle.roles:
        graph, model = read(bundle.graph(role)), onnx.load(bundle.graph(role))
        operators = Counter(
            f"{node.domain}.{node.op_type}" if node.domain else node.op_type
            for node in model.graph.node
        )
        assert graph.operators == operators
        assert [(node.inputs, node.outputs) for node in graph.nodes] == [
            (tuple(node.input), tuple(node.output)) for node in model.graph.node
        ]
        for ours, theirs in (
            (graph.inputs, model.graph.input),
            (graph.outputs, model.graph.output),
        ):
            assert [
                (value.name, DTYPES[value.type.tensor_type.elem_type], shape(value))
                for value in theirs
            ] == [(value.name, value.dtype, value.shape) for value in ours]
        assert {(t.name, DTYPES[t.data_type], tuple(t.dims)) for t in model.graph.initializer} == {
            (tensor.name, tensor.dtype, tensor.shape) for tensor in graph.tensors
        }
        sizes = [tensor.bytes for tensor in graph.tensors]
        assert sizes == sorted(sizes, reverse=True)
        names = len(graph.inputs) + len(graph.outputs) + len(graph.tensors)
        rest = 600 * len(graph.nodes) + 100 * names
        assert 0 <= bundle.graph(role).stat().st_size - sum(sizes) < rest
        assert graph.opsets == {
            opset.domain or "ai.onnx": opset.version for opset in model.opset_import
        }


def shape(value: onnx.ValueInfoProto) -> tuple[int | str, ...]:
    return tuple(
        dim.dim_value if dim.HasField("dim_value") else dim.dim_param
        for dim in value.type.tensor_type.shape.dim
    )


@given(dims=st.lists(st.integers(0, 2**40), max_size=6), elements=st.sampled_from([*DTYPES]))
def test_any_shape_is_read(dims: list[int], elements: int, tmp_path_factory) -> None:
    value = helper.make_tensor_value_info("x", elements, dims)
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["x2"])], "g", [value], [])
    file = tmp_path_factory.getbasetemp() / "any_shape.onnx"
    file.write_bytes(helper.make_model(graph).SerializeToString())
    (found,) = read(file).inputs
    assert (found.name, found.dtype, found.shape) == ("x", DTYPES[elements], tuple(dims))


@pytest.mark.parametrize("content", [b"", b"\x08\x07", b"not an onnx file", b"\x3a\xff\x01"])
def test_what_is_no_model_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(IntegrityError, match=r"model\.onnx"):
        read(tmp_path / "model.onnx")


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("kind", ["INT32", "INT64"])
@given(values=st.lists(st.integers(-(2**31), 2**31 - 1), max_size=64))
def test_small_integers_are_read(kind: str, raw: bool, values: list[int]) -> None:
    dtype = getattr(TensorProto, kind)
    array = np.array(values, kind.lower())
    tensor = (
        onnx.numpy_helper.from_array(array, "x")
        if raw
        else helper.make_tensor("x", dtype, array.shape, values)
    )
    data = helper.make_model(helper.make_graph([], "g", [], [], [tensor])).SerializeToString()
    (found,) = parse_graph(data, "x.onnx").tensors
    assert found.integers == tuple(values)


def atom_edge(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "atom_edge.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_inspect_prints_json(small_int8_bundle: Path) -> None:
    result = atom_edge("inspect", small_int8_bundle, "--json")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["manifest"] == json.loads((small_int8_bundle / "manifest.json").read_text())
    assert report["graphs"]["model"]["nodes"] == report["manifest"]["nodes"]["model"]
    assert report["graphs"]["model"]["operators"]["com.microsoft.MatMulNBits"] > 0
    assert report["graphs"]["model"]["inputs"][0]["name"] == "input_ids"


def test_inspect_prints_tables(small_int8_bundle: Path) -> None:
    result = atom_edge("inspect", small_int8_bundle, "--all")
    assert result.returncode == 0, result.stderr
    for part in ("verified", "onnx/model_quantized.onnx", "MatMulNBits", "past_key_values.0.key"):
        assert part in result.stdout
    assert "perplexity ratio, prefill" in result.stdout


def test_inspect_refuses_a_changed_bundle(small_bundle: Path, tmp_path: Path) -> None:
    copy = tmp_path / "bundle"
    copy.mkdir()
    (copy / "manifest.json").write_bytes((small_bundle / "manifest.json").read_bytes())
    result = atom_edge("inspect", copy)
    assert result.returncode == 1
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.stderr
