"""Mutators: from something valid to something that a stranger might send."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

_HUGE = "\x00huge"  # stands for a number that Python would not write

ODD_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 7, 0.5, -0.0, 1e-40, 1e300, 2**31, 2**63, -(2**63), 10**18),
    *(10**30, _HUGE, float("nan"), float("inf"), "", " ", "x", "x" * 5000, "\x1b[2J\x07", "[/x]"),
    *("../x", "/etc/passwd", "C:\\x", "a\x00b", "\u202e", "🙂", "\ud800", "none", "3", "{{ 7 }}"),
    *([], {}, [[]], [None], [1, "x"], {"x": 1}, {"": None}, [{}] * 3, list(range(300))),
)


def mutate_json(value: Any, rng: Random, times: int | None = None) -> Any:
    """A copy of a JSON value with a few places changed."""
    root = [copy.deepcopy(value)]
    for _ in range(times or rng.choice((1, 1, 1, 2, 4))):
        places = list(_places(root))[: 1 if rng.random() < 0.02 else None]
        parent, key = rng.choice(_flattened(places, rng))
        _change(parent, key, rng)
    return root[0]


def _places(value: Any) -> list[tuple[Any, Any]]:
    found = []
    stack = [value]
    while stack:
        here = stack.pop()
        keys = list(here) if isinstance(here, dict) else range(min(len(here), 50))
        for key in keys:
            found.append((here, key))
            if isinstance(here[key], dict | list) and len(found) < 20_000:
                stack.append(here[key])
    return found


def _flattened(places: list[tuple[Any, Any]], rng: Random) -> list[tuple[Any, Any]]:
    """Places of small containers as likely as those of large ones, such as a vocabulary."""
    by_parent: dict[int, list[tuple[Any, Any]]] = {}
    for parent, key in places:
        by_parent.setdefault(id(parent), []).append((parent, key))
    return rng.choice(list(by_parent.values()))


def _change(parent: Any, key: Any, rng: Random) -> None:
    value = parent[key]
    action = rng.choice(("odd", "odd", "odd", "drop", "near", "wrap", "add", "rename", "double"))
    if action == "drop" and len(parent) > 1:
        del parent[key]
    elif action == "near" and isinstance(value, int | float) and not isinstance(value, bool):
        parent[key] = rng.choice((value + 1, value - 1, -value, value * 2, value / 3, value * 1000))
    elif action == "near" and isinstance(value, str) and value:
        place = rng.randrange(len(value))
        parent[key] = value[:place] + rng.choice(("", "\x1b", "é", "/", "..")) + value[place + 1 :]
    elif action == "wrap":
        parent[key] = rng.choice(([value], {"value": value}, str(value)[:1000]))
    elif action == "add" and isinstance(parent, dict):
        parent[rng.choice(("x", "", "\x1b]0;x\x07", "y" * 5000))] = rng.choice(ODD_VALUES)
    elif action == "rename" and isinstance(parent, dict):
        parent[rng.choice((f"{key}s", key.upper(), ""))] = parent.pop(key)
    elif action == "double" and isinstance(parent, list):
        parent.extend(copy.deepcopy(parent[:50]))
    else:
        parent[key] = copy.deepcopy(rng.choice(ODD_VALUES))


def json_bytes(value: Any, rng: Random) -> bytes:
    """A JSON value as bytes, now and then damaged."""
    text = json.dumps(value, ensure_ascii=rng.random() < 0.5)
    text = text.replace(json.dumps(_HUGE), "9" * 5000).replace(f'"{_HUGE}"', "9" * 5000)
    data = text.encode("utf-8", "surrogatepass")
    if rng.random() < 0.9:
        return data
    return rng.choice(
        (
            lambda: data[: rng.randrange(len(data) + 1)],
            lambda: b"\xef\xbb\xbf" + data,
            lambda: text.encode("utf-16", "surrogatepass"),
            lambda: data + b"}",
            lambda: b"[" * 100_000,
            lambda: b'{"a":' * 5_000 + b"1" + b"}" * 5_000,
            lambda: mutate_bytes(data, rng),
            lambda: b"",
        )
    )()


def mutate_bytes(data: bytes, rng: Random) -> bytes:
    """A copy with bytes changed, cut out, doubled or put in."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        place = rng.randrange(len(changed) + 1) if rng.random() < 0.5 else rng.randrange(2000)
        place = min(place, len(changed))
        width = rng.choice((1, 1, 4, 100))
        match rng.randrange(4):
            case 0 if place < len(changed):
                changed[place] ^= 1 << rng.randrange(8)
            case 1:
                del changed[place : place + width]
            case 2:
                changed[place:place] = changed[place : place + width]
            case _:
                changed[place:place] = rng.randbytes(width)
    return bytes(changed)


def mutate_graph(data: bytes, rng: Random) -> bytes:
    """A graph whose nodes, values, attributes, tensors, inputs or outputs are others."""
    model = onnx.load_from_string(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        rng.choice(_GRAPH_CHANGES)(model, rng)
    return model.SerializeToString()


def _drop_node(model: onnx.ModelProto, rng: Random) -> None:
    if model.graph.node:
        del model.graph.node[rng.randrange(len(model.graph.node))]


def _swap_nodes(model: onnx.ModelProto, rng: Random) -> None:
    nodes = list(model.graph.node)
    rng.shuffle(nodes)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _rewire(model: onnx.ModelProto, rng: Random) -> None:
    nodes = [node for node in model.graph.node if node.input]
    if nodes:
        node, other = rng.choice(nodes), rng.choice(nodes)
        node.input[rng.randrange(len(node.input))] = rng.choice((*other.input, *other.output, ""))


def _other_operator(model: onnx.ModelProto, rng: Random) -> None:
    if model.graph.node:
        node = rng.choice(model.graph.node)
        node.op_type = rng.choice(
            ("Add", "Loop", "If", "Scan", "Expand", "Identity", "RandomNormal", "Xyz", "Range")
        )
        node.domain = rng.choice(("", "", "com.microsoft", "atom_edge", "evil"))


def _attribute(model: onnx.ModelProto, rng: Random) -> None:
    nodes = [node for node in model.graph.node if node.attribute]
    if nodes:
        attribute = rng.choice(rng.choice(nodes).attribute)
        attribute.i = rng.choice((-1, 0, 1, 3, 2**31, 2**62))
        attribute.f = rng.choice((0.0, -1.0, 1e30, float("nan")))
        if rng.random() < 0.2:
            attribute.type = rng.choice((1, 2, 3, 4, 7))


def _tensor(model: onnx.ModelProto, rng: Random) -> None:
    if not model.graph.initializer:
        return
    tensor = rng.choice(model.graph.initializer)
    match rng.randrange(5):
        case 0:
            tensor.dims.append(rng.choice((0, 1, 2, -1, 2**40)))
        case 1 if tensor.dims:
            tensor.dims[0] = rng.choice((0, 1, 2**31, tensor.dims[0] + 1))
        case 2:
            tensor.data_type = rng.choice((1, 2, 3, 6, 7, 8, 9, 10, 11, 16, 99))
        case 3:
            tensor.raw_data = tensor.raw_data[: rng.randrange(len(tensor.raw_data) + 1)]
        case _:
            tensor.external_data.add(key="location", value="/etc/passwd")


def _integers(model: onnx.ModelProto, rng: Random) -> None:
    small = [
        tensor
        for tensor in model.graph.initializer
        if tensor.data_type == TensorProto.INT64 and np.prod(tensor.dims) <= 8
    ]
    if small:
        tensor = rng.choice(small)
        values = numpy_helper.to_array(tensor).copy()
        values[...] = rng.choice((0, 1, -1, 10**6, 10**9, 2**40, -(2**40), 2**63 - 1))
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def _boundary(model: onnx.ModelProto, rng: Random) -> None:
    values = rng.choice((model.graph.input, model.graph.output))
    if not values:
        return
    value = rng.choice(values)
    dims = value.type.tensor_type.shape.dim
    match rng.randrange(6):
        case 0 if dims:
            rng.choice(dims).dim_value = rng.choice((0, 1, 2, 7, -1, 2**40))
        case 1 if dims:
            rng.choice(dims).dim_param = rng.choice(("", "batch_size", "new"))
        case 2 if dims:
            del dims[rng.randrange(len(dims))]
        case 3:
            value.type.tensor_type.elem_type = rng.choice((1, 2, 6, 7, 8, 10, 11))
        case 4:
            value.name = rng.choice(("x", "", f"{value.name}x", "past_key_values.9.key"))
        case _:
            values.remove(value)


def _hostile(model: onnx.ModelProto, rng: Random) -> None:
    graph = model.graph
    one = numpy_helper.from_array(np.ones(1, np.float32), "fuzz_one")
    huge = numpy_helper.from_array(np.array([rng.choice((10**9, 10**5))] * 2), "fuzz_huge")
    graph.initializer.extend((one, huge))
    body = helper.make_graph([], "body", [], [])
    nodes = (
        helper.make_node("Expand", ["fuzz_one", "fuzz_huge"], ["fuzz_made"]),
        helper.make_node("Tile", ["fuzz_one", "fuzz_huge"], ["fuzz_made"]),
        helper.make_node("ConstantOfShape", ["fuzz_huge"], ["fuzz_made"]),
        helper.make_node("Loop", ["fuzz_huge", ""], ["fuzz_made"], body=body),
        helper.make_node("If", ["fuzz_one"], ["fuzz_made"], then_branch=body, else_branch=body),
        helper.make_node("Bomb", ["fuzz_one"], ["fuzz_made"], domain="bomb"),
    )
    graph.node.insert(rng.choice((0, len(graph.node))), rng.choice(nodes))
    if rng.random() < 0.5 and graph.output:
        graph.output.append(helper.make_tensor_value_info("fuzz_made", TensorProto.FLOAT, None))
    if rng.random() < 0.3:
        inner = [helper.make_node("Add", ["x", "x"], ["y"])]
        opsets = [helper.make_opsetid("", 20)]
        model.functions.append(helper.make_function("bomb", "Bomb", ["x"], ["y"], inner, opsets))


_GRAPH_CHANGES: tuple[Callable[[onnx.ModelProto, Random], None], ...] = (
    *(_drop_node, _swap_nodes, _rewire, _rewire, _other_operator, _attribute, _attribute),
    *(_tensor, _integers, _boundary, _boundary, _hostile),
)


def mutate_text(text: str, rng: Random) -> bytes:
    """A text file, perhaps no longer UTF-8 or of the form that it had."""
    data = text.encode()
    match rng.randrange(6):
        case 0:
            return text.encode("utf-16")
        case 1:
            return (
                b"---\n" + rng.choice((b"- a\n", b"a: b: c\n", b"\ta: 1\n", b"[")) + b"---\n" + data
            )
        case 2:
            return data + "\xe9\xff".encode("latin-1")
        case 3:
            lines = data.splitlines(keepends=True)
            rng.shuffle(lines)
            return b"".join(lines)
        case _:
            return mutate_bytes(data, rng)
