"""The export, end to end: snapshot -> trace -> passes -> quantize -> validate -> bundle."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING

from atom_edge import __version__
from atom_edge.bundle import seal, write_bundle
from atom_edge.checkpoint import Snapshot
from atom_edge.errors import ExportError
from atom_edge.exporters.card import model_card
from atom_edge.exporters.choose import Standard, Tried, choose, refusal, validation_of
from atom_edge.exporters.foreign import genai_config
from atom_edge.exporters.graphs import MAX_KL, MAX_PERPLEXITY_RATIO, Source, forms_for
from atom_edge.exporters.plan import WRITE
from atom_edge.exporters.prompts import prompts_of
from atom_edge.exporters.reference import Reference
from atom_edge.exporters.validate import heldout_windows
from atom_edge.judge import judge_graph
from atom_edge.manifest import Effort, Manifest, Quantization, Role, Target
from atom_edge.manifest import Source as Origin
from atom_edge.runtimes.defaults import Defaults, parse_special_ids
from atom_edge.tokenizer import Tokenizer

Progress = Callable[[str], None]

# Bytes of a weight in a graph; in int8 with the scales of blocks of 32.
_BYTES: Mapping[Quantization, float] = {"none": 4, "int8": 1 + 4 / 32}
# Of 2 GiB, the nodes take next to nothing.
_LARGEST_GRAPH = 2**31 - 2**24


@dataclass(frozen=True)
class ExportResult:
    """A finished export.

    Attributes:
        path: the bundle.
        manifest: as it was written.
    """

    path: Path
    manifest: Manifest


def export(
    snapshot: Snapshot,
    destination: Path,
    *,
    quantization: Quantization = "none",
    target: Target = "cpu",
    max_perplexity_ratio: float = MAX_PERPLEXITY_RATIO,
    max_kl: float = MAX_KL,
    effort: Effort = "quick",
    force: bool = False,
    progress: Progress = lambda _: None,
) -> ExportResult:
    """Export `snapshot` to a validated bundle at `destination`.

    Args:
        snapshot: what `open_snapshot` returned.
        destination: the folder to write.
        quantization: `none` for float32, `int8` for 8-bit weights.
        target: beside the portable graph, which runs anywhere, what the bundle has graphs for:
            `cpu`, or `cuda` in float16; or one graph alone: `native`, or `web` for browsers.
        max_perplexity_ratio: limit of int8's perplexity over PyTorch's, in prefill and in decode.
        max_kl: limit of int8's mean KL divergence from PyTorch's predictions, in nats, likewise.
        effort: how much text validation runs.
        force: replace an existing bundle.
        progress: told the name of each step as it begins.

    Raises:
        BundleError: the destination is taken, or the snapshot's generation_config.json says what
            no reply can follow.
        ExportError: the model has no form for the target, is too large for one, or holds weights
            that are not finite.
        ValidationError: a graph is not the PyTorch model within the limits; nothing is written.
    """
    check_size(snapshot, quantization)
    check_weights(snapshot)
    check_generation(snapshot)
    forms = forms_for(snapshot, target, quantization)
    with write_bundle(destination, force=force) as staging:
        source = Source(snapshot)
        standard = Standard(
            open_reference(snapshot),
            quantization,
            max_perplexity_ratio,
            max_kl,
            effort,
        )
        made: list[Tried] = []
        left_out: list[Tried] = []
        for form in forms:
            tried = choose(form, source, standard, staging, progress)
            left_out += [one for one in tried if one.failure is not None]
            if tried and tried[-1].failure is None:
                made.append(tried[-1])
            elif tried and form.required:
                raise refusal(left_out, made, standard)

        progress(WRITE)
        manifest = Manifest(
            created_by=tool_versions(),
            source=Origin(**snapshot.provenance),
            target=target,
            quantization=quantization,
            scheme=made[0].scheme,
            opset=max(one.opset for one in made),
            context_length=snapshot.config.max_position_embeddings,
            graphs={role: file for one in made for role, file in one.files.items()},
            nodes={role: count for one in made for role, count in one.nodes.items()},
            validation=validation_of(standard, made, left_out),
        )
        write_texts(staging, snapshot, manifest)
        for role, name in manifest.graphs.items():
            data = (staging / name).read_bytes()
            judge_graph(data, Role(role), manifest.context_length, name)
        sealed = seal(staging, manifest)
    return ExportResult(destination, sealed)


def check_size(snapshot: Snapshot, quantization: Quantization) -> None:
    """Raise `ExportError` where a graph would pass the 2 GiB of a protobuf message.

    A bundle's graphs are single files, so the tensors of one cannot lie elsewhere.
    """
    weights = sum(parameter.numel() for parameter in snapshot.model.parameters())
    size = weights * _BYTES[quantization]
    if size > _LARGEST_GRAPH:
        smaller = "" if quantization == "int8" else " Export it with --quantize int8."
        raise ExportError(
            f"The model has {weights / 1e9:.2f} billion weights. Its graph would have "
            f"{size / 2**30:.1f} GiB, and an ONNX file has at most 2.{smaller}"
        )


def check_weights(snapshot: Snapshot) -> None:
    """Raise `ExportError` for a weight that is not a finite number."""
    for name, tensor in snapshot.model.named_parameters():
        if not bool(tensor.isfinite().all()):
            raise ExportError(
                f"The weight {name} holds values that are not finite numbers. "
                "Fetch the checkpoint again, or go back to an earlier one."
            )


def check_generation(snapshot: Snapshot) -> None:
    """Raise `BundleError` for a `generation_config.json` or ids that no session would take."""
    stated = snapshot.generation_config
    Defaults.parse(stated, str(snapshot.path / "generation_config.json"))
    parse_special_ids(stated, portable_config(snapshot), str(snapshot.path))


def open_reference(snapshot: Snapshot) -> Reference:
    """The snapshot's model over prompts and windows of held-out text."""
    encode = Tokenizer.from_file(snapshot.tokenizer_file).encode
    windows = heldout_windows(encode, snapshot.config.max_position_embeddings)
    return Reference(snapshot.model, windows, prompts_of(snapshot))


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
    context_length = snapshot.config.max_position_embeddings
    write_tokenizer(staging, snapshot.tokenizer_file, snapshot.tokenizer_config, context_length)
    if snapshot.chat_template is not None:
        (staging / "chat_template.jinja").write_text(snapshot.chat_template, encoding="utf-8")
    _write_json(staging / "config.json", portable_config(snapshot))
    _write_json(staging / "generation_config.json", snapshot.generation_config)
    if Role.MODEL in manifest.graphs:
        _write_json(
            staging / "genai_config.json",
            genai_config(snapshot.config, snapshot.generation_config, manifest.graphs[Role.MODEL]),
        )
    (staging / "README.md").write_text(model_card(manifest), encoding="utf-8")


def write_tokenizer(
    staging: Path, file: Path, config: Mapping[str, Any], context_length: int
) -> None:
    """Write a tokenizer for classes of transformers, and for runtimes that go by their names."""
    # A class brings special tokens of its own for roles that are not stated.
    roles = ("bos_token", "eos_token", "unk_token", "pad_token")
    stated = {**dict.fromkeys(roles), **config, "model_max_length": context_length}
    if not _is_sentencepiece(file):
        # The one class that reads tokenizer.json as it stands: from version 5 on, transformers'
        # named ones put a normalizer and splitter of their own in place of the file's.
        stated["tokenizer_class"] = "PreTrainedTokenizerFast"
    _write_json(staging / "tokenizer_config.json", stated)
    (staging / "tokenizer.json").write_bytes(file.read_bytes())


def portable_config(snapshot: Snapshot) -> dict[str, Any]:
    """`config.json` as foreign runtimes read it.

    That of the snapshot where transformers knows the type; else a Llama's, with what Atom adds kept
    beside it.
    """
    config = snapshot.config
    kind = snapshot.stated.get("model_type")
    if (kind in CONFIG_MAPPING and kind != "atom") or not snapshot.is_atom:
        ids = ("pad_token_id", "bos_token_id", "eos_token_id")
        # The bundle has no code of the author's.
        kept = {
            name: value
            for name, value in snapshot.stated.items()
            if name != "auto_map" and _is_json(value)
        }
        return {**kept, **{name: getattr(config, name) for name in ids}}
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


def _is_json(value: Any) -> bool:
    """Whether JSON can say it: Python also writes and reads numbers that are not finite."""
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        return False
    return True


def _is_sentencepiece(tokenizer_file: Path) -> bool:
    """Whether a class of its own must read it: foreign runtimes go by the class, not the file."""
    model = json.loads(tokenizer_file.read_text(encoding="utf-8"))["model"]
    return bool(model.get("byte_fallback"))


def _write_json(file: Path, value: dict[str, Any]) -> None:
    file.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
