"""Layers that are alike: a model's first three are traced, and the third is copied for the rest.

Tracing costs more than a second a layer. A stack of layers counts as alike if the modules are the
same but for the values of their parameters, and if the graphs of the second and the third are the
same but for parameters, cache, and the output of the layer before. A model of any other kind is
traced whole.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import onnx_ir as ir
import torch
from onnx_ir.tensor_adapters import TorchTensor
from torch import nn

from atom_edge.torch_decoder import TorchDecoder

TRACED = 3
_SCOPES = "pkg.torch.onnx.name_scopes"
# What a layer knows of its place; a graph that depends on it shows it.
_PLACES = {"layer_idx", "layer_id", "layer_index"}


@dataclass(frozen=True)
class Stack:
    """The layers of a decoder.

    Attributes:
        name: of their list, within the decoder.
        layers: more than `TRACED`, all alike.
    """

    name: str
    layers: nn.ModuleList

    def scope(self, index: int) -> str:
        """Name of a layer within the decoder."""
        return f"{self.name}.{index}"


def alike_layers(decoder: TorchDecoder) -> Stack | None:
    """The decoder's layers if their modules are alike and there are enough to spare tracing."""
    count = len(decoder.cache_shapes) // 2
    stacks = [
        Stack(name, module)
        for name, module in decoder.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == count
    ]
    if len(stacks) != 1 or count <= TRACED or _varies_by_layer(decoder.model.config, count):
        return None
    (stack,) = stacks
    described = [_description(layer) for layer in stack.layers]
    alike = all(one == described[0] for one in described[1:])
    return stack if alike and _have_equal_buffers(stack.layers) else None


def _varies_by_layer(config: Any, count: int) -> bool:
    """Whether a list in the configuration says different things of the layers."""
    lists = (value for value in config.to_dict().values() if isinstance(value, list))
    return any(len(each) == count and any(one != each[0] for one in each) for each in lists)


def _description(layer: nn.Module) -> list[Any]:
    """All that a layer is but for the values of its tensors and its place."""
    plain = (bool, int, float, str, tuple, type(None))
    return [
        (
            name,
            type(module),
            {
                key: value
                for key, value in vars(module).items()
                if isinstance(value, plain) and key not in _PLACES
            },
            [(key, each.shape, each.dtype) for key, each in _tensors(module)],
        )
        for name, module in layer.named_modules()
    ]


def _tensors(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    return chain(module.named_parameters(recurse=False), module.named_buffers(recurse=False))


def _have_equal_buffers(layers: nn.ModuleList) -> bool:
    first = dict(layers[0].named_buffers())
    return all(
        torch.equal(buffer, first[name])
        for layer in layers
        for name, buffer in layer.named_buffers()
    )


@contextlib.contextmanager
def first_layers(decoder: TorchDecoder, stack: Stack) -> Iterator[None]:
    """Leave the decoder its first `TRACED` layers."""
    rest, shapes = list(stack.layers[TRACED:]), decoder.cache_shapes
    del stack.layers[TRACED:]
    decoder.cache_shapes = shapes[: 2 * TRACED]
    try:
        yield
    finally:
        stack.layers.extend(rest)
        decoder.cache_shapes = shapes


def repeat_layers(model: ir.Model, decoder: nn.Module, stack: Stack) -> bool:
    """Extend the graph of a decoder's first `TRACED` layers to all of them, in place.

    Args:
        model: the graph as it was traced, before any optimization.
        decoder: with all of its layers.
        stack: those.

    Returns:
        whether it could be done; if not, the graph is as before.
    """
    graph, last = model.graph, TRACED - 1
    nodes = _nodes_of(graph, stack, last)
    found = _taken_and_given(_nodes_of(graph, stack, last - 1), nodes, stack)
    if found is None:
        return False
    taken, given = found
    layer = set(nodes)
    after = [(use.node, use.idx) for use in given.uses() if use.node not in layer]
    tensors = dict(chain(decoder.named_parameters(), decoder.named_buffers()))
    end, result = nodes[-1], given
    for index in range(TRACED, len(stack.layers)):
        values = {taken: result}
        for value in _values_of(graph, stack, last):
            name = _renamed(value.name, stack, last, index)
            if value.is_graph_input():
                values[value] = ir.val(name, type=value.type, shape=value.shape)
                graph.inputs.append(values[value])
            else:
                tensor = TorchTensor(tensors[name].detach(), name=name)
                values[value] = ir.val(name, const_value=tensor)
                graph.register_initializer(values[value])
        copies = [_copy(node, values, stack, index) for node in nodes]
        graph.insert_after(end, copies)
        graph.outputs.extend(values[value] for value in _outputs_of(nodes))
        end, result = copies[-1], values[given]
    for node, place in after:
        node.replace_input_with(place, result)
    return True


def _nodes_of(graph: ir.Graph, stack: Stack, index: int) -> list[ir.Node]:
    scope = f"'{stack.scope(index)}'"
    return [node for node in graph if scope in node.metadata_props.get(_SCOPES, "")]


def _values_of(graph: ir.Graph, stack: Stack, index: int) -> list[ir.Value]:
    """Parameters and cache of a layer."""
    return [
        value
        for value in (*graph.inputs, *graph.initializers.values())
        if value.name is not None and _renamed(value.name, stack, index, 0) != value.name
    ]


def _outputs_of(nodes: Iterable[ir.Node]) -> list[ir.Value]:
    return [value for node in nodes for value in node.outputs if value.is_graph_output()]


def _renamed(name: str | None, stack: Stack, index: int, other: int) -> str:
    """The name of the same parameter or cache tensor of another layer."""
    assert name is not None
    names = (stack.scope(index), f"past_key_values.{index}", f"present.{index}")
    for prefix in names:
        if name.startswith(f"{prefix}."):
            return f"{prefix.removesuffix(str(index))}{other}{name.removeprefix(prefix)}"
    return name


def _taken_and_given(
    one: list[ir.Node], next_one: list[ir.Node], stack: Stack
) -> tuple[ir.Value, ir.Value] | None:
    """The value that the last of two layers takes from the one before, and what it gives itself.

    None unless both compute the same, take one value, and give nothing else but their cache.
    """
    members, next_members = set(one), set(next_one)
    counterparts: dict[ir.Value | None, ir.Value] = {}
    taken: set[ir.Value] = set()
    if len(one) != len(next_one):
        return None
    for node, next_node in zip(one, next_one, strict=True):
        if not _are_alike(node, next_node):
            return None
        for value, next_value in zip(node.inputs, next_node.inputs, strict=True):
            if value is next_value or (value is not None and counterparts.get(value) is next_value):
                continue
            if value is None or next_value is None:
                return None
            if next_value.producer() in members and value.producer() not in members:
                taken.add(next_value)
            elif _renamed(value.name, stack, TRACED - 2, TRACED - 1) != next_value.name:
                return None
        counterparts.update(zip(node.outputs, next_node.outputs, strict=True))
    if len(taken) != 1:
        return None
    given = counterparts[value := taken.pop()]
    if _used_outside(one, members | next_members) or _used_outside(next_one, next_members) - {
        given
    }:
        return None
    return value, given


def _used_outside(nodes: Iterable[ir.Node], members: set[ir.Node]) -> set[ir.Value]:
    """Outputs of `nodes` that others than `members` use."""
    return {
        value
        for node in nodes
        for value in node.outputs
        if any(use.node not in members for use in value.uses())
    }


def _are_alike(node: ir.Node, other: ir.Node) -> bool:
    return (
        node.op_identifier() == other.op_identifier()
        and len(node.inputs) == len(other.inputs)
        and len(node.outputs) == len(other.outputs)
        and node.attributes.keys() == other.attributes.keys()
        and all(_are_equal(each, other.attributes[name]) for name, each in node.attributes.items())
    )


def _are_equal(attribute: ir.Attr, other: ir.Attr) -> bool:
    if attribute.type != other.type:
        return False
    if attribute.type == ir.AttributeType.TENSOR:
        one, two = attribute.as_tensor(), other.as_tensor()
        return (one.dtype, one.shape, one.tobytes()) == (two.dtype, two.shape, two.tobytes())
    return bool(attribute.value == other.value)


def _copy(node: ir.Node, values: dict[ir.Value, ir.Value], stack: Stack, index: int) -> ir.Node:
    """A node of the last traced layer, for another one; `values` are those of that layer."""
    copy = ir.Node(
        node.domain,
        node.op_type,
        [None if value is None else values.get(value, value) for value in node.inputs],
        node.attributes.values(),
        overload=node.overload,
        num_outputs=len(node.outputs),
    )
    for value, output in zip(node.outputs, copy.outputs, strict=True):
        name = _renamed(value.name, stack, TRACED - 1, index)
        output.name = f"{name}.{index}" if name == value.name else name
        output.type, output.shape = value.type, value.shape
        values[value] = output
    return copy
