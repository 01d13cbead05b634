"""The table of what a bundle's graphs are: how each is made, how precise it may be, what runs it.

A form is a way to run the model, of one graph or a few; a bundle for a target has each of the
target's forms that measures well enough. For each precision a form has candidates, fastest first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import onnx_ir as ir

from atom_edge.bundle import Bundle
from atom_edge.checkpoint import Snapshot
from atom_edge.errors import ExportError
from atom_edge.exporters.cuda import cuda_graph
from atom_edge.exporters.engine import Engine
from atom_edge.exporters.native import SCHEMES, Scheme, native_graph
from atom_edge.exporters.passes import for_prefill, fuse, tidy
from atom_edge.exporters.portable import LeftPaddedGraph
from atom_edge.exporters.precision.blocks import quantize
from atom_edge.exporters.precision.stored import store_blocks
from atom_edge.exporters.trace import trace
from atom_edge.manifest import Quantization, Role, Target
from atom_edge.runtimes import native
from atom_edge.runtimes.doctor import runs
from atom_edge.runtimes.engines.cuda import CudaEngine
from atom_edge.runtimes.engines.interface import Device
from atom_edge.runtimes.engines.native import NativeEngine
from atom_edge.runtimes.engines.static import StaticEngine
from atom_edge.runtimes.native import HOW_TO_BUILD
from atom_edge.runtimes.providers import open_graph

MAX_PERPLEXITY_RATIO = 1.008
MAX_KL = 0.004
"""What int8 may lose by default: perplexity over PyTorch's, and mean KL divergence in nats."""
NATIVE_MAX_KL = 0.0015
"""What a scheme of the native graph may lose where a more precise one is left."""


@dataclass(frozen=True)
class Source:
    """What graphs are made from: the PyTorch model and what belongs to it."""

    snapshot: Snapshot

    @cached_property
    def traced(self) -> ir.Model:
        """The model as an ONNX graph in float32, traced when a form first needs it."""
        return trace(self.snapshot.decoder)


@dataclass(frozen=True)
class Candidate:
    """A way to make a form's graphs.

    Attributes:
        scheme: what it does to weights and activations, in words.
        build: the graphs by role; none where the model has no such form.
        max_kl: a limit of its own below that of the export, where a better candidate costs little.
    """

    scheme: str
    build: Callable[[Source], Mapping[Role, ir.Model]]
    max_kl: float = math.inf


@dataclass(frozen=True)
class Form:
    """A way to run the model.

    Attributes:
        label: how tables name it.
        roles: those of its graphs that every bundle with this form has.
        candidates: ways to make its graphs for each precision, fastest first.
        engines: what runs its files (by role) in a context of so many tokens, on so many threads;
            more than one where a session takes different ways through the same graphs.
        required: whether an export is refused where its candidates can be made but none holds.
        needs_library: whether it runs only where the native library was built.
        half: whether its floats are float16.
    """

    label: str
    roles: tuple[Role, ...]
    candidates: Mapping[Quantization, tuple[Candidate, ...]]
    engines: Callable[[Mapping[Role, Path], int, int], Mapping[str, Engine]]
    required: bool = True
    half: bool = False
    needs_library: bool = False

    @property
    def available(self) -> bool:
        """Whether what runs it is installed."""
        return not self.needs_library or native.library() is not None


FLOAT32 = "float32"
_BLOCKS = "8-bit weights in blocks of 32, activations of 8 bits by row and block"
_WIDE = "8-bit weights in blocks of 32, activations of 16 bits by row and block"


def _portable_blocks(source: Source, activation_bits: int) -> Mapping[Role, ir.Model]:
    fused = tidy(fuse(source.traced))
    return {Role.MODEL: quantize(fused, activation_bits=activation_bits)}


def _portable(files: Mapping[Role, Path], _: int, threads: int) -> Mapping[str, Engine]:
    return {"model": LeftPaddedGraph(files[Role.MODEL], threads)}


def _static_graph(source: Source) -> Mapping[Role, ir.Model]:
    graph = for_prefill(source.traced)
    return {} if graph is None else {Role.PREFILL: graph}


def _static(files: Mapping[Role, Path], context: int, threads: int) -> Mapping[str, Engine]:
    session = open_graph(files[Role.PREFILL], threads=threads)
    return {"static": StaticEngine(session, context)}


def _native(files: Mapping[Role, Path], context: int, threads: int) -> Mapping[str, Engine]:
    return {"native": NativeEngine(files[Role.NATIVE].read_bytes(), context, threads)}


def _native_candidate(scheme: Scheme) -> Candidate:
    # Each scheme costs a few percent of speed: less than half the loss is worth it.
    last = scheme == SCHEMES[-1]
    return Candidate(
        str(scheme),
        lambda source: {Role.NATIVE: native_graph(source.snapshot.model, scheme)},
        max_kl=math.inf if last else NATIVE_MAX_KL,
    )


def _cuda(files: Mapping[Role, Path], context: int, _: int) -> Mapping[str, Engine]:
    device: Device = "cuda" if runs("CUDAExecutionProvider") else "cpu"
    return {"cuda": CudaEngine(files[Role.CUDA], device, context)}


PORTABLE = Form(
    "portable graph",
    (Role.MODEL,),
    {
        # In float32 it stays within standard ONNX, for runtimes of any make.
        "none": (Candidate(FLOAT32, lambda source: {Role.MODEL: source.traced}),),
        "int8": (
            Candidate(_BLOCKS, partial(_portable_blocks, activation_bits=8)),
            Candidate(_WIDE, partial(_portable_blocks, activation_bits=16)),
        ),
    },
    _portable,
)
# Int8 operators are many times slower in WebAssembly than those of float32, and not all are there.
WEB = replace(
    PORTABLE,
    label="web graph",
    candidates={
        "none": (Candidate(FLOAT32, lambda source: {Role.MODEL: tidy(fuse(source.traced))}),),
        "int8": (
            Candidate(
                "8-bit weights in blocks of 32, multiplied in float32",
                lambda source: {Role.MODEL: store_blocks(tidy(fuse(source.traced)))},
            ),
        ),
    },
)
STATIC = Form(
    "static cache",
    (Role.PREFILL,),
    {
        "none": (Candidate(FLOAT32, _static_graph),),
        # The native operator is several times as fast.
        "int8": (),
    },
    _static,
    required=False,
)
NATIVE = Form(
    "native operator",
    (Role.NATIVE,),
    # In float32 the stock operators are as fast.
    {"none": (), "int8": tuple(map(_native_candidate, SCHEMES))},
    _native,
    needs_library=True,
)
CUDA = Form(
    "CUDA",
    (Role.CUDA,),
    {
        "none": (
            Candidate("float16", lambda source: {Role.CUDA: cuda_graph(source.traced, int8=False)}),
        ),
        "int8": (
            Candidate(
                "8-bit weights in blocks of 32, multiplied in float16",
                lambda source: {Role.CUDA: cuda_graph(source.traced, int8=True)},
            ),
        ),
    },
    _cuda,
    half=True,
)
FORMS: Mapping[Target, tuple[Form, ...]] = {
    "cpu": (PORTABLE, NATIVE, STATIC),
    "native": (NATIVE,),
    "cuda": (PORTABLE, CUDA),
    "web": (WEB,),
}
FORMS_OF_OTHER_CLASSES: Mapping[Target, tuple[Form, ...]] = {
    "cpu": (PORTABLE,),
    "web": (WEB,),
}
"""Of models that are not `AtomForCausalLM`: the other forms rest on its attention."""
ALL_FORMS = (PORTABLE, NATIVE, STATIC, CUDA)
"""What bundles are read by: a web graph is run as the portable one is."""


def forms_for(snapshot: Snapshot, target: Target, quantization: Quantization) -> list[Form]:
    """The forms of a target that a snapshot's model has and that can be made here.

    Raises:
        ExportError: if there are none.
    """
    if snapshot.is_atom:
        return forms_of(target, quantization)
    if target not in FORMS_OF_OTHER_CLASSES:
        raise ExportError(
            f"There is no graph for the target {target!r} of {type(snapshot.model).__name__}, only "
            "of models of Llama's shape. Export with --target cpu."
        )
    return list(FORMS_OF_OTHER_CLASSES[target])


def forms_of(target: Target, quantization: Quantization) -> list[Form]:
    """The forms of a target that can be made here of a model of Llama's shape.

    Raises:
        ExportError: if there are none.
    """
    forms = [form for form in FORMS[target] if form.candidates[quantization]]
    if not forms:
        raise ExportError(
            f"There are no graphs for the target {target!r} with the quantization "
            f"{quantization!r}; choose int8, or the target cpu."
        )
    available = [form for form in forms if form.available]
    if not available:
        raise ExportError(f"What runs the target {target!r} was not built. {HOW_TO_BUILD}")
    return available


def forms_in(bundle: Bundle) -> list[Form]:
    """The forms that a bundle has graphs for, and that run here."""
    return [
        form
        for form in ALL_FORMS
        if form.candidates[bundle.manifest.quantization]
        and form.available
        and all(role in bundle.roles for role in form.roles)
    ]
