"""The choice of a form's graphs: the fastest candidate that measures well enough."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir as ir
import torch

from atom_edge import __version__
from atom_edge.errors import ValidationError
from atom_edge.exporters.graphs import Form, Source
from atom_edge.exporters.plan import making, validating
from atom_edge.exporters.reference import Reference
from atom_edge.exporters.report import Limits
from atom_edge.exporters.validate import SAMPLES, validate
from atom_edge.manifest import Effort, Figure, Measured, Quantization, Role, Validation

Progress = Callable[[str], None]

# Optimum, onnxruntime-genai and transformers.js look for these names.
PORTABLE_FILES: dict[Quantization, str] = {
    "none": "onnx/model.onnx",
    "int8": "onnx/model_quantized.onnx",
}


@dataclass(frozen=True)
class Tried:
    """A form as it was made one way, and measured.

    Attributes:
        form: what was made.
        scheme: the way.
        files: its graphs by role, paths within the bundle.
        nodes: number of nodes of each graph.
        opset: the highest version of standard ONNX among the graphs.
        measured: each way that a session takes through them.
    """

    form: Form
    scheme: str
    files: Mapping[Role, str]
    nodes: Mapping[Role, int]
    opset: int
    measured: tuple[Measured, ...]

    @property
    def failure(self) -> tuple[str, Figure] | None:
        """The first figure that does not hold, and of which path; None if all hold."""
        return Validation(measured=self.measured).failure


@dataclass(frozen=True)
class Standard:
    """What candidates are measured by.

    Attributes:
        reference: the PyTorch model, and the text.
        quantization: `none` for the same model, `int8` for a close one.
        max_perplexity_ratio: limit of int8's perplexity over PyTorch's.
        max_kl: limit of int8's mean KL divergence, in nats.
        effort: how much text is run.
    """

    reference: Reference
    quantization: Quantization
    max_perplexity_ratio: float
    max_kl: float
    effort: Effort

    def validation(
        self, measured: Sequence[Measured], left_out: Sequence[Measured] = ()
    ) -> Validation:
        """What was measured, with the limits that it was held to."""
        int8 = self.quantization == "int8"
        return Validation(
            effort=self.effort,
            max_perplexity_ratio=self.max_perplexity_ratio if int8 else None,
            max_kl=self.max_kl if int8 else None,
            measured=tuple(measured),
            left_out=tuple(left_out),
        )

    def limits(self, form: Form) -> Limits:
        """What the graphs of `form` must hold."""
        if self.quantization == "int8":
            return Limits(perplexity_ratio=self.max_perplexity_ratio, mean_kl=self.max_kl)
        noise = self.reference.noise
        limits = Limits.of_float16 if form.half else Limits.of_float32
        return limits(noise.error, noise.largest)


def choose(
    form: Form, source: Source, standard: Standard, staging: Path, progress: Progress
) -> list[Tried]:
    """Make and measure the candidates of `form`, fastest first, until one holds.

    Args:
        form: what is to be made.
        source: from what.
        standard: what it must hold.
        staging: the folder of the bundle; the files of the last one stay there if it holds.
        progress: told the name of each step as it begins.

    Returns:
        what was tried, in order; empty where the model has no such form.
    """
    tried: list[Tried] = []
    candidates = form.candidates[standard.quantization]
    for candidate in candidates:
        progress(making(form))
        graphs = candidate.build(source)
        if not graphs:
            continue
        files = {role: _file(role, standard.quantization) for role in graphs}
        paths = {role: staging / file for role, file in files.items()}
        for role, graph in graphs.items():
            save_graph(graph, paths[role])
        nodes = {role: sum(count_operators(graph).values()) for role, graph in graphs.items()}
        opset = max(graph.opset_imports.get("", 0) for graph in graphs.values())
        # The weights are in the files now; nodes and values hold each other, and so them.
        del graphs, graph
        gc.collect()
        context = source.snapshot.config.max_position_embeddings
        held = replace(standard, max_kl=min(standard.max_kl, candidate.max_kl))
        limits = replace(held.limits(form), others_wait=candidate is not candidates[-1])
        measured = measure_form(form, paths, candidate.scheme, context, held, progress, limits)
        tried.append(Tried(form, candidate.scheme, files, nodes, opset, measured))
        if tried[-1].failure is None:
            break
        for path in paths.values():
            path.unlink()
    return tried


def measure_form(
    form: Form,
    files: Mapping[Role, Path],
    scheme: str,
    context_length: int,
    standard: Standard,
    progress: Progress,
    limits: Limits | None = None,
) -> tuple[Measured, ...]:
    """Validate each way that a session takes through a form's `files`, until one fails.

    They are held to `limits`, or to those of the form when None.
    """
    limits = limits or standard.limits(form)
    measured: list[Measured] = []
    engines = form.engines(files, context_length, torch.get_num_threads())
    for name, engine in engines.items():
        figures = validate(
            engine,
            standard.reference,
            limits,
            SAMPLES[standard.effort],
            lambda check: progress(validating(form, check)),
        )
        measured.append(Measured(name, scheme, figures))
        if measured[-1].failure is not None:
            break
    return tuple(measured)


def validation_of(
    standard: Standard, made: Sequence[Tried], left_out: Sequence[Tried] = ()
) -> Validation:
    """What manifests and `--json` say of what was made, and of what did not hold."""
    failed = [path for one in left_out for path in one.measured if path.failure is not None]
    return standard.validation([path for one in made for path in one.measured], failed)


def refusal(
    left_out: Sequence[Tried], made: Sequence[Tried], standard: Standard
) -> ValidationError:
    """The error of an export without a form that it needs; the last of `left_out` is of that."""
    last = left_out[-1]
    assert last.failure is not None
    name, figure = last.failure
    ways = sum(one.form is last.form for one in left_out)
    others = "" if ways == 1 else f" {ways} ways of making it were tried; this one loses least."
    advice = (
        "Accept more loss with --max-perplexity-ratio or --max-kl, or use --quantize none."
        if standard.quantization == "int8"
        else "This is a fault of atom-edge or of onnxruntime; please report it with this message."
    )
    return ValidationError(
        f"The {last.form.label} ('{name}') does not compute what the PyTorch model computes: "
        f"{figure}.{others} No bundle was written. {advice}",
        validation_of(standard, made, left_out),
    )


def count_operators(graph: ir.Model) -> Counter[str]:
    """How many nodes of each operator a graph has."""
    return Counter(node.op_type for node in graph.graph.all_nodes())


def save_graph(graph: ir.Model, file: Path) -> None:
    """Write `graph` as one file, without external data."""
    graph.producer_name = "atom-edge"
    graph.producer_version = __version__
    file.parent.mkdir(parents=True, exist_ok=True)
    ir.save(graph, file)


def _file(role: Role, quantization: Quantization) -> str:
    return PORTABLE_FILES[quantization] if role == Role.MODEL else f"onnx/{role}.onnx"
