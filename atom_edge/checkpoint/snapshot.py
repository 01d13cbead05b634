"""A snapshot, opened: the model ready to run, and all that goes into a bundle with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCard
from torch import Tensor
from transformers.modeling_utils import no_init_weights

from atom_edge.checkpoint import files, layout, text
from atom_edge.checkpoint.naming import NamedTensors, name_tensors
from atom_edge.checkpoint.shapes import Reading, read_config
from atom_edge.config import AtomConfig
from atom_edge.errors import WeightsError
from atom_edge.modeling import AtomForCausalLM

_FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


@dataclass(frozen=True)
class Snapshot:
    """A Hugging Face model folder, read and checked.

    Attributes:
        path: the folder.
        config: of `model`.
        model: float32, in evaluation mode, on the CPU.
        tokenizer_file: a `tokenizer.json`.
        generation_config: end-of-sequence ids and sampling defaults.
        chat_template: a Jinja template, None for a base model.
        provenance: `repo` (hub id or folder name), `revision` (a commit or None), `sha256` (of
            each weight file), `tensor_names` (the naming school), `notes` (what was chosen where
            the snapshot does not say it) and `variant` (the reading that matches the author's own
            code, None if that was not run).
    """

    path: Path
    config: AtomConfig
    model: AtomForCausalLM
    tokenizer_file: Path
    generation_config: dict[str, Any]
    chat_template: str | None
    provenance: dict[str, Any]


def open_snapshot(
    path_or_hub_id: str | Path,
    *,
    revision: str | None = None,
    local_files_only: bool = False,
    trust_remote_code: bool = False,
) -> Snapshot:
    """Open a model folder, or download one from the Hugging Face hub.

    Args:
        path_or_hub_id: a folder, else a hub id such as `"org/name"`.
        revision: branch, tag or commit of the hub repository.
        local_files_only: take a hub snapshot from the cache and never ask the network.
        trust_remote_code: also run the author's own model code, and compare.

    Raises:
        SnapshotError: it cannot be found, or its parts do not fit together.
        UnsupportedModelError: it needs what `AtomForCausalLM` does not compute.
        WeightsError: tensors are missing, left over or of another shape.
        TokenizerError: it has no usable tokenizer.
    """
    source = files.locate(
        path_or_hub_id,
        revision=revision,
        local_files_only=local_files_only,
        with_code=trust_remote_code,
    )
    folder = source.path
    raw = files.read_json(folder / "config.json") or files.read_json(folder / "params.json")
    named = name_tensors(files.read_tensors(folder))
    tensors = layout.untranspose(named)
    reading = read_config(raw, named, tensors, tags=_tags(folder))
    model = _build(reading, named, tensors)

    tokenizer = text.tokenizer_file(folder, model.config.vocab_size)
    ids = text.token_ids(folder, tokenizer, raw)
    for name, value in ids.items():
        setattr(model.config, name, value)
    return Snapshot(
        path=folder,
        config=model.config,
        model=model,
        tokenizer_file=tokenizer,
        generation_config=text.generation_config(folder, ids),
        chat_template=text.chat_template(folder),
        provenance={
            "repo": source.name,
            "revision": source.revision,
            "sha256": {file.name: files.sha256(file) for file in files.weight_files(folder)},
            "tensor_names": named.school,
            "notes": reading.notes,
            "variant": None,
        },
    )


def _tags(folder: Path) -> list[str]:
    """The tags in the front matter of the model card, none if there is no card."""
    card = folder / "README.md"
    if not card.is_file():
        return []
    return list(ModelCard.load(card, ignore_metadata_errors=True).data.tags or [])


def _build(reading: Reading, named: NamedTensors, tensors: Mapping[str, Tensor]) -> AtomForCausalLM:
    weights = layout.separate(tensors, reading.config)
    if reading.interleaved:
        weights = layout.halve_rotary(weights, reading.config)
    if reading.config.tie_word_embeddings:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    with no_init_weights():
        model = AtomForCausalLM(reading.config)
    _check_shapes(weights, named, model)
    model.load_state_dict(weights, strict=True)
    model.eval()
    return model


def _check_shapes(
    weights: Mapping[str, Tensor], named: NamedTensors, model: AtomForCausalLM
) -> None:
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    wrong = [
        f"{named.origin.get(name, name)} {list(found.get(name, ()))}, expected "
        f"{list(expected.get(name, ()))}"
        for name in sorted(found.keys() | expected.keys())
        if found.get(name) != expected.get(name)
    ]
    wrong += [
        f"{named.origin.get(name, name)} is {tensor.dtype}, expected floating point weights"
        for name, tensor in weights.items()
        if tensor.dtype not in _FLOATS
    ]
    if wrong:
        raise WeightsError("The tensors do not fit the configuration:\n  " + "\n  ".join(wrong))
