"""A graph that is not the exporter's is refused before onnxruntime sees it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from atom_edge.bundle import Bundle, open_bundle
from atom_edge.config import AtomConfig
from atom_edge.errors import IntegrityError
from atom_edge.exporters.description import describe
from atom_edge.exporters.native import Scheme, build
from atom_edge.judge import judge_graph
from atom_edge.manifest import Role
from atom_edge.modeling import AtomForCausalLM
from atom_edge.reference import bundle_path

FIXTURES = ("small_bundle", "small_int8_bundle", "small_cuda_bundle")


@pytest.mark.parametrize("fixture", FIXTURES)
def test_what_is_exported_passes(fixture: str, request: pytest.FixtureRequest) -> None:
    bundle = open_bundle(request.getfixturevalue(fixture))
    for role in bundle.roles:
        assert bundle.read_graph(role)


def test_the_reference_passes_in_milliseconds() -> None:
    bundle = open_bundle(bundle_path())
    for role in bundle.roles:
        data = bundle.read_graph(role)
        seconds = []
        for _ in range(5):
            started = time.process_time()
            judge_graph(data, role, bundle.context_length, "graph")
            seconds.append(time.process_time() - started)
        assert min(seconds) < 0.05


def constant(model: onnx.ModelProto, name: str, values: object, dtype: str = "int64") -> str:
    model.graph.initializer.append(numpy_helper.from_array(np.array(values, dtype), name))
    return name


def add(model: onnx.ModelProto, operator: str, inputs: list[str], **more: object) -> None:
    model.graph.node.append(helper.make_node(operator, inputs, [f"made_by_{operator}"], **more))


def body() -> onnx.GraphProto:
    return helper.make_graph([], "body", [], [])


def retype(model: onnx.ModelProto, name: str, kind: int) -> None:
    (value,) = (v for v in (*model.graph.input, *model.graph.output) if v.name == name)
    value.type.tensor_type.elem_type = kind


def resize(model: onnx.ModelProto, name: str, axis: int, size: int | str | None) -> None:
    (value,) = (v for v in (*model.graph.input, *model.graph.output) if v.name == name)
    dims = value.type.tensor_type.shape.dim
    if size is None:
        del dims[axis]
    elif isinstance(size, str):
        dims[axis].dim_param = size
    else:
        dims[axis].dim_value = size


def rename(model: onnx.ModelProto, name: str, other: str) -> None:
    (value,) = (v for v in (*model.graph.input, *model.graph.output) if v.name == name)
    value.name = other


def expand(model: onnx.ModelProto, shape: list[int]) -> None:
    add(model, "Expand", [constant(model, "one", [1.0], "float32"), constant(model, "to", shape)])


def expand_computed(model: onnx.ModelProto) -> None:
    add(model, "Mul", [constant(model, "a", [2**20]), constant(model, "b", [2**20])])
    add(model, "Expand", [constant(model, "one", [1.0], "float32"), "made_by_Mul"])


def make_by_attribute(model: onnx.ModelProto) -> None:
    shape = numpy_helper.from_array(np.array([2**20, 2**20]), "shape")
    add(model, "Constant", [], value=shape)
    add(model, "ConstantOfShape", ["made_by_Constant"])


def many_nodes(model: onnx.ModelProto) -> None:
    model.graph.node.extend([model.graph.node[0]] * 20_001)


def unknown_shape(model: onnx.ModelProto) -> None:
    model.graph.output[0].type.tensor_type.ClearField("shape")


SMALL = {
    "vocab_size": 64,
    "hidden_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
}

Change = Callable[[onnx.ModelProto], object]
FAULTS: dict[str, tuple[Change, str]] = {
    "loop": (lambda m: add(m, "Loop", ["", ""], body=body()), "a subgraph"),
    "scan": (lambda m: add(m, "Scan", [], body=body(), num_scan_inputs=1), "a subgraph"),
    "bare loop": (lambda m: add(m, "Loop", []), "operator 'Loop'"),
    "function": (
        lambda m: m.functions.append(helper.make_function("f", "f", [], [], [], [])),
        "functions",
    ),
    "another domain": (lambda m: add(m, "Add", [], domain="evil"), "operator 'evil.Add'"),
    "native": (lambda m: add(m, "Decoder", [], domain="atom_edge"), "atom_edge.Decoder"),
    "random": (lambda m: add(m, "RandomNormal", [], shape=[1]), "operator 'RandomNormal'"),
    "expand": (lambda m: expand(m, [10**9]), "holds the size|makes a tensor"),
    "expand twice": (lambda m: expand(m, [2**13, 2**13]), "makes a tensor of the shape"),
    "expand by computed": (expand_computed, "computed of constants"),
    "a constant's shape": (make_by_attribute, "makes a tensor"),
    "a range": (
        lambda m: add(
            m, "Range", [constant(m, n, v) for n, v in zip("abc", (0, 10**12, 1), strict=True)]
        ),
        "holds the size 1000000000000",
    ),
    "many nodes": (many_nodes, "20,[0-9]+ nodes, more than 20,000"),
    "float ids": (lambda m: retype(m, "input_ids", TensorProto.FLOAT), "input_ids is float32"),
    "double logits": (lambda m: retype(m, "logits", TensorProto.DOUBLE), "logits is float64"),
    "static batch": (lambda m: resize(m, "input_ids", 0, 1), r"input_ids is int64 \[1, "),
    "static tokens": (lambda m: resize(m, "input_ids", 1, 64), "input_ids is int64"),
    "symbolic heads": (
        lambda m: resize(m, "past_key_values.0.key", 1, "heads"),
        r"past_key_values\.0\.key is float32",
    ),
    "symbolic vocabulary": (lambda m: resize(m, "logits", 2, "vocabulary"), "logits is float32"),
    "vocabulary of none": (lambda m: resize(m, "logits", 2, 0), "logits is float32"),
    "lower rank": (lambda m: resize(m, "attention_mask", 1, None), "attention_mask is int64"),
    "unknown shape": (unknown_shape, "of an unknown shape"),
    "huge heads": (lambda m: resize(m, "past_key_values.0.key", 1, 2**40), "past_key_values"),
    "other heads": (
        lambda m: resize(m, "present.0.key", 1, 7),
        r"past_key_values\.0\.key and present\.0\.key differ",
    ),
    "another input": (
        lambda m: m.graph.input.append(
            helper.make_tensor_value_info("more", TensorProto.INT64, [1])
        ),
        "its inputs are",
    ),
    "missing output": (lambda m: m.graph.output.pop(), "its outputs are"),
    "renamed cache": (
        lambda m: rename(m, "past_key_values.0.key", "past_key_values.9.key"),
        "its inputs are",
    ),
    "no cache": (lambda m: m.graph.ClearField("input"), "no cache among its inputs"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_refused(fault: str, small_bundle: Path) -> None:
    change, message = FAULTS[fault]
    bundle = open_bundle(small_bundle)
    model = onnx.load(bundle.graph())
    change(model)
    with pytest.raises(IntegrityError, match=message):
        judge(model, bundle, Role.MODEL)


def judge(model: onnx.ModelProto, bundle: Bundle, role: Role) -> None:
    judge_graph(model.SerializeToString(), role, bundle.context_length, "graph")


def test_a_graph_of_another_role_is_refused(small_bundle: Path) -> None:
    bundle = open_bundle(small_bundle)
    for role in set(Role) - {Role.MODEL}:
        with pytest.raises(IntegrityError, match=f"role '{role}'"):
            judge(onnx.load(bundle.graph()), bundle, role)


def test_the_native_graph_is_one_node() -> None:
    model = AtomForCausalLM(AtomConfig(**SMALL))
    graph = build(describe(model), Scheme())
    judge_graph(graph.SerializeToString(), Role.NATIVE, 128, "graph")
    graph.graph.node.append(helper.make_node("Identity", ["steps"], ["more"]))
    with pytest.raises(IntegrityError, match=r"not the one node atom_edge\.Decoder"):
        judge_graph(graph.SerializeToString(), Role.NATIVE, 128, "graph")


def test_a_cache_that_no_machine_holds_is_refused(small_bundle: Path) -> None:
    bundle = open_bundle(small_bundle)
    with pytest.raises(IntegrityError, match="the cache of 1,000,000,000,000 tokens"):
        judge_graph(bundle.read_graph(), Role.MODEL, 10**12, "graph")


def test_a_slice_may_end_past_any_end(small_bundle: Path) -> None:
    bundle = open_bundle(small_bundle)
    model = onnx.load(bundle.graph())
    inputs = [constant(model, "data", [1, 2])]
    inputs += [constant(model, name, [value]) for name, value in (("from", 0), ("to", 2**63 - 1))]
    add(model, "Slice", inputs)
    judge(model, bundle, Role.MODEL)
