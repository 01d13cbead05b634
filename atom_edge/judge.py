"""Whether a graph may be run: judged on its bytes, before onnxruntime sees them.

A graph of a bundle is straight-line arithmetic over a model's weights. It is of the operators that
the exporter writes, takes and gives what an engine binds, and asks for no more memory than its own
size and the context account for.
"""

from __future__ import annotations

from math import prod

from atom_edge.errors import IntegrityError
from atom_edge.manifest import MAX_CONTEXT, Role
from atom_edge.onnx_graph import Graph, Node, Tensor, Value, parse_graph

MAX_NODES = 20_000
"""Nodes of a graph: a few hundred layers have fewer."""
MAX_MADE = 2**24
"""Elements of a tensor that a graph makes of constants alone, and the largest size in it."""
MAX_CACHE = 2**40
"""Bytes of one sequence's cache over the whole context."""
NATIVE_OPERATOR = "atom_edge.Decoder"
"""The one node of a native graph."""

_STANDARD = (
    "Abs Add And ArgMax Attention Cast Ceil Clip Concat Constant ConstantOfShape Cos CumSum Div",
    "DequantizeLinear DynamicQuantizeLinear Equal Erf Exp Expand Flatten Floor Gather",
    "GatherElements GatherND Gelu Gemm Greater GreaterOrEqual Identity LayerNormalization Less",
    "LessOrEqual Log MatMul MatMulInteger Max Min Mod Mul Neg Not Or Pow QuantizeLinear",
    "RMSNormalization Range Reciprocal ReduceMax ReduceMean ReduceMin ReduceSum Relu Reshape Round",
    "RotaryEmbedding ScatterElements ScatterND Shape Sigmoid SimplifiedLayerNormalization Sin",
    "Slice Softmax Softplus Split Sqrt Squeeze Sub Swish Tanh TensorScatter Transpose Trilu",
    "Unsqueeze Where",
)
_MICROSOFT = (
    "GatherBlockQuantized GroupQueryAttention MatMulIntegerToFloat MatMulNBits QuickGelu",
    "RotaryEmbedding SkipSimplifiedLayerNormalization",
)
_OPERATORS = {
    *(name for line in _STANDARD for name in line.split()),
    *(f"com.microsoft.{name}" for line in _MICROSOFT for name in line.split()),
}
# What asks for memory by an input, and which.
_MAKERS = {"ConstantOfShape": 0, "Expand": 1}

# A free size is what the caller chooses; a fixed one is any that is the same at the same name.
_FREE, _FIXED = "free", "fixed"
Pattern = tuple[str, tuple[int | str, ...]]
_IDS: Pattern = ("int64", (_FREE, _FREE))
_ROW: Pattern = ("int64", (_FREE,))
_ONE: Pattern = ("int64", (1,))
_STATIC: dict[str, Pattern] = {"input_ids": _IDS, "past_length": _ROW, "logits_index": _ROW}
_CHOSEN: dict[str, Pattern] = {"logits": ("float32", (_FREE, _FIXED))}

_INPUTS: dict[Role, dict[str, Pattern]] = {
    Role.MODEL: {"input_ids": _IDS, "attention_mask": _IDS, "position_ids": _IDS},
    Role.PREFILL: _STATIC,
    Role.CUDA: {
        "input_ids": _IDS,
        "seqlens_k": ("int32", (_FREE,)),
        "total_sequence_length": ("int32", ()),
        "logits_index": _ROW,
    },
    Role.NATIVE: {
        "input_ids": _IDS,
        "counts": _ROW,
        "past_lengths": _ROW,
        "logit_rows": _ROW,
        "pages": _IDS,
        "cache": ("float32", (_FREE, _FIXED, 2, _FIXED, _FIXED)),
        "steps": _ONE,
        "end_ids": _ROW,
        "sampling": ("float64", (_FREE, 5)),
        "seeds": ("int64", (_FREE, 2)),
        "history": _IDS,
        "alternatives": _ONE,
    },
}
_OUTPUTS: dict[Role, dict[str, Pattern]] = {
    Role.MODEL: {"logits": ("float32", (_FREE, _FREE, _FIXED))},
    Role.PREFILL: _CHOSEN,
    Role.CUDA: {**_CHOSEN, "likeliest": _ROW},
    Role.NATIVE: {
        **_CHOSEN,
        "cache_out": ("float32", (_FREE, _FIXED, 2, _FIXED, _FIXED)),
        "tokens": _IDS,
        "top_tokens": ("int64", (_FREE, _FREE, _FREE)),
        "log_probabilities": ("float64", (_FREE, _FREE, _FREE)),
    },
}
# The cache's tensors, where they are inputs and outputs of their own for each layer.
_CACHES: dict[Role, Pattern] = {
    Role.MODEL: ("float32", (_FREE, _FIXED, _FREE, _FIXED)),
    Role.PREFILL: ("float32", (_FREE, _FIXED, _FREE, _FIXED)),
    Role.CUDA: ("float16", (_FREE, _FIXED, _FREE, _FIXED)),
}


def judge_graph(data: bytes, role: Role, context_length: int, where: str) -> None:
    """Refuse a graph that is not one of the exporter's kind.

    Args:
        data: the ONNX file's bytes.
        role: what it is for.
        context_length: tokens of a sequence at most.
        where: the file's path, for messages.

    Raises:
        IntegrityError: with what is wrong in it.
    """
    graph = parse_graph(data, where)
    for fault in (
        _fault_of_nodes(graph, role),
        _fault_of_values(graph, role, context_length),
        _fault_of_sizes(graph),
    ):
        if fault is not None:
            raise IntegrityError(
                f"{where} is not run as the graph of role '{role}': {fault}. A bundle holds what "
                "this release of atom-edge exports; export the model again."
            )


def _fault_of_nodes(graph: Graph, role: Role) -> str | None:
    if role == Role.NATIVE:
        if [node.operator for node in graph.nodes] != [NATIVE_OPERATOR]:
            return f"it is not the one node {NATIVE_OPERATOR}"
        return None
    if len(graph.nodes) > MAX_NODES:
        return f"it has {len(graph.nodes):,} nodes, more than {MAX_NODES:,}"
    strange = sorted(set(graph.operators) - _OPERATORS)
    return f"it has the operator {strange[0]!r}" if strange else None


def _fault_of_values(graph: Graph, role: Role, context_length: int) -> str | None:
    caches = [value for value in graph.inputs if value.name.startswith("past_key_values.")]
    layers = len(caches) // 2
    names = [f"{layer}.{part}" for layer in range(layers) for part in ("key", "value")]
    inputs, outputs = dict(_INPUTS[role]), dict(_OUTPUTS[role])
    if role in _CACHES:
        if not layers:
            return "it has no cache among its inputs"
        inputs |= {f"past_key_values.{name}": _CACHES[role] for name in names}
        outputs |= {f"present.{name}": _CACHES[role] for name in names}
    fault = _mismatch("input", graph.inputs, inputs) or _mismatch("output", graph.outputs, outputs)
    if fault is not None:
        return fault
    found = {value.name: value for value in (*graph.inputs, *graph.outputs)}
    pairs = [(f"past_key_values.{name}", f"present.{name}") for name in names]
    for given, returned in pairs if role in _CACHES else [("cache", "cache_out")]:
        if _fixed(found[given]) != _fixed(found[returned]):
            return f"{given} and {returned} differ in shape"
    row = sum(prod(_fixed(found[given])) for given, _ in pairs)
    if row * context_length * 4 > MAX_CACHE:
        return (
            f"the cache of {context_length:,} tokens would take {row * context_length * 4:,} bytes"
        )
    return None


def _mismatch(kind: str, values: list[Value], expected: dict[str, Pattern]) -> str | None:
    """What is wrong about the graph's inputs or outputs; None if they are as expected."""
    names = [value.name for value in values]
    if sorted(names) != sorted(expected):
        return f"its {kind}s are {', '.join(sorted(names)[:20])}, and not {', '.join(expected)}"
    for value in values:
        dtype, pattern = expected[value.name]
        if value.dtype != dtype or not _fits(value.shape, pattern):
            shape = "of an unknown shape" if value.shape is None else list(value.shape)
            return (
                f"its {kind} {value.name} is {value.dtype} {shape}, and not {dtype} "
                f"[{', '.join(map(str, pattern))}]"
            )
    return None


def _fits(shape: tuple[int | str, ...] | None, pattern: tuple[int | str, ...]) -> bool:
    if shape is None or len(shape) != len(pattern):
        return False
    return all(
        isinstance(size, str)
        if expected == _FREE
        else isinstance(size, int) and 0 < size <= MAX_CONTEXT
        if expected == _FIXED
        else size == expected
        for size, expected in zip(shape, pattern, strict=True)
    )


def _fixed(value: Value) -> tuple[int, ...]:
    return tuple(size for size in value.shape or () if isinstance(size, int))


def _fault_of_sizes(graph: Graph) -> str | None:
    """Memory that the graph would ask for by numbers that are written into it."""
    stored = {tensor.name: tensor for tensor in graph.tensors}
    constant = set(stored)
    limits: set[str] = set()  # what bounds a slice may lie far beyond the end
    for node in graph.nodes:
        for tensor in node.tensors:
            stored |= dict.fromkeys(node.outputs, tensor)
        if all(name in constant for name in node.inputs if name):
            constant.update(node.outputs)
        if node.operator == "Slice":
            limits.update(node.inputs[1:])
        fault = _fault_of_maker(node, stored, constant)
        if fault is not None:
            return fault
    for name, tensor in stored.items():
        large = [size for size in tensor.integers or () if abs(size) > MAX_MADE]
        if large and name not in limits:
            return f"its constant {name!r} holds the size {large[0]}"
    return None


def _fault_of_maker(node: Node, stored: dict[str, Tensor], constant: set[str]) -> str | None:
    place = _MAKERS.get(node.operator)
    if place is None or place >= len(node.inputs) or node.inputs[place] not in constant:
        return None
    tensor = stored.get(node.inputs[place])
    if tensor is None or tensor.integers is None:
        return f"an operator {node.operator} has a size that is computed of constants"
    if prod(map(abs, tensor.integers)) > MAX_MADE:
        return f"an operator {node.operator} makes a tensor of the shape {list(tensor.integers)}"
    return None
