"""The export, end to end: snapshot -> trace -> passes -> quantize -> validate -> bundle."""

from __future__ import annotations

import importlib.metadata
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from atom_edge import __version__
from atom_edge.bundle import seal, write_bundle
from atom_edge.checkpoint import Snapshot
from atom_edge.config import AtomConfig
from atom_edge.exporters.card import model_card
from atom_edge.exporters.cuda import cuda_graph
from atom_edge.exporters.foreign import genai_config
from atom_edge.exporters.passes import fuse, tidy
from atom_edge.exporters.quantize import quantize
from atom_edge.exporters.report import Limits, Report, summary
from atom_edge.exporters.static import static_graphs
from atom_edge.exporters.trace import trace
from atom_edge.exporters.validate import validate_graphs
from atom_edge.manifest import Manifest, Quantization, Role, Source, Target

Progress = Callable[[str], None]

# Optimum, onnxruntime-genai and transformers.js look for these names.
GRAPH_FILES: dict[Quantization, str] = {
    "none": "onnx/model.onnx",
    "int8": "onnx/model_quantized.onnx",
}
SCHEMES: dict[Quantization, str] = {
    "none": "float32",
    "int8": "8-bit weights in blocks of 32, activations quantized by row and block in the kernel",
}


@dataclass(frozen=True)
class ExportResult:
    """A finished export.

    Attributes:
        path: the bundle.
        manifest: as it was written.
        reports: the validation of each path, as `validate_graphs` names them.
    """

    path: Path
    manifest: Manifest
    reports: dict[str, Report]


def export(
    snapshot: Snapshot,
    destination: Path,
    *,
    quantization: Quantization = "none",
    target: Target = "cpu",
    max_perplexity_ratio: float = 1.01,
    force: bool = False,
    progress: Progress = lambda _: None,
) -> ExportResult:
    """Export `snapshot` to a validated bundle at `destination`.

    Args:
        snapshot: what `open_snapshot` returned.
        destination: the folder to write.
        quantization: `none` for float32, `int8` for 8-bit weights.
        target: beside the portable graph, which runs anywhere, what the bundle has graphs for:
            `cpu`, or `cuda` in float16.
        max_perplexity_ratio: how much int8 may lose, in prefill and in decode.
        force: replace an existing bundle.
        progress: told the name of each step as it begins.

    Raises:
        BundleError: the destination is taken.
        ExportError: the model has no form for the target.
        ValidationError: the graph is not the PyTorch model within the limits; nothing is written.
    """
    with write_bundle(destination, force=force) as staging:
        progress("trace")
        traced = trace(snapshot.model)
        progress("fuse")
        int8 = quantization == "int8"
        if int8:
            progress("quantize")
        # In float32 the portable graph stays within standard ONNX, for runtimes of any make.
        graphs = {"model": quantize(tidy(fuse(traced))) if int8 else traced}
        if target == "cuda":
            graphs["cuda"] = cuda_graph(traced, int8=int8)
        else:
            graphs |= static_graphs(traced, int8=int8)
        files = {role: f"onnx/{role}.onnx" for role in graphs}
        files["model"] = GRAPH_FILES[quantization]
        for role, graph in graphs.items():
            save_graph(graph, staging / files[role])

        reports = validate_graphs(
            {role: staging / file for role, file in files.items()},
            snapshot,
            Limits.for_quantization(quantization, max_perplexity_ratio),
            progress,
        )
        for report in reports.values():
            report.check()

        progress("write")
        manifest = Manifest(
            created_by=tool_versions(),
            source=Source(**snapshot.provenance),
            target=target,
            quantization=quantization,
            scheme=SCHEMES[quantization],
            opset=max(graph.opset_imports[""] for graph in graphs.values()),
            context_length=snapshot.config.max_position_embeddings,
            graphs=files,
            nodes={
                "traced": sum(count_operators(traced).values()),
                **{role: sum(count_operators(graph).values()) for role, graph in graphs.items()},
            },
            validation=summary(reports),
        )
        write_texts(staging, snapshot, manifest)
        sealed = seal(staging, manifest)
    return ExportResult(destination, sealed, reports)


def save_graph(graph: ir.Model, file: Path) -> None:
    """Write `graph` as one file, without external data."""
    graph.producer_name = "atom-edge"
    graph.producer_version = __version__
    file.parent.mkdir(parents=True, exist_ok=True)
    ir.save(graph, file)


def count_operators(graph: ir.Model) -> Counter[str]:
    """How many nodes of each operator `graph` has."""
    return Counter(node.op_type for node in graph.graph.all_nodes())


def tool_versions() -> dict[str, str]:
    """The versions of what makes a graph what it is."""
    tools = ("torch", "transformers", "onnx", "onnx-ir", "onnxscript", "onnxruntime")
    versions = {"atom-edge": __version__}
    for tool in tools:
        try:
            versions[tool] = importlib.metadata.version(tool)
        except importlib.metadata.PackageNotFoundError:
            continue  # onnxruntime goes by other names where it has other providers
    return versions


def write_texts(staging: Path, snapshot: Snapshot, manifest: Manifest) -> None:
    """Write everything of a bundle that is not a graph: tokenizer, configuration, model card."""
    tokenizer_config = _read_if_there(snapshot.path / "tokenizer_config.json")
    tokenizer_config["tokenizer_class"] = "GPT2TokenizerFast"
    tokenizer_config["model_max_length"] = snapshot.config.max_position_embeddings
    _write_json(staging / "tokenizer_config.json", tokenizer_config)
    (staging / "tokenizer.json").write_bytes(snapshot.tokenizer_file.read_bytes())
    if snapshot.chat_template is not None:
        (staging / "chat_template.jinja").write_text(snapshot.chat_template, encoding="utf-8")
    _write_json(staging / "config.json", portable_config(snapshot.config))
    _write_json(staging / "generation_config.json", snapshot.generation_config)
    _write_json(
        staging / "genai_config.json",
        genai_config(snapshot.config, snapshot.generation_config, manifest.graphs[Role.MODEL]),
    )
    (staging / "README.md").write_text(model_card(manifest), encoding="utf-8")


def portable_config(config: AtomConfig) -> dict[str, Any]:
    """`config.json` as foreign runtimes read it: a Llama's, with what Atom adds kept beside it."""
    names = (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "max_position_embeddings",
        "rope_theta",
        "rms_norm_eps",
        "hidden_act",
        "tie_word_embeddings",
        "pad_token_id",
        "bos_token_id",
        "eos_token_id",
        "xsa",
    )
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        **{name: getattr(config, name) for name in names},
        "use_cache": True,
    }


def _read_if_there(file: Path) -> dict[str, Any]:
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}


def _write_json(file: Path, value: dict[str, Any]) -> None:
    file.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
