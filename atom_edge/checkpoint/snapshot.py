"""A snapshot, opened: the model ready to run, and all that goes into a bundle with it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from atom_edge.border import JSON_LIMIT, read_file
from atom_edge.checkpoint import files, text
from atom_edge.checkpoint.author import author_settings, has_own_code, match_author
from atom_edge.checkpoint.layout import untranspose
from atom_edge.checkpoint.loading import load
from atom_edge.checkpoint.naming import name_tensors
from atom_edge.checkpoint.shapes import read_config
from atom_edge.config import AtomConfig
from atom_edge.errors import SnapshotError
from atom_edge.hub import Located, locate
from atom_edge.modeling import AtomForCausalLM


@dataclass(frozen=True)
class Snapshot:
    """A Hugging Face model folder, read and checked.

    Attributes:
        path: the folder.
        config: of `model`.
        model: float32, in evaluation mode, on the CPU.
        tokenizer_file: a `tokenizer.json` that says everything about the tokenizer.
        tokenizer_config: `tokenizer_config.json`, with the texts of the special tokens.
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
    tokenizer_config: dict[str, Any]
    generation_config: dict[str, Any]
    chat_template: str | None
    provenance: dict[str, Any]


def open_snapshot(
    path_or_hub_id: str | Path | Located,
    *,
    revision: str | None = None,
    local_files_only: bool = False,
    trust_remote_code: bool = False,
) -> Snapshot:
    """Open a model folder, or download one from the Hugging Face hub.

    Args:
        path_or_hub_id: a folder, else a hub id such as `"org/name"`; or what `locate` found.
        revision: branch, tag or commit of the hub repository.
        local_files_only: take a hub snapshot from the cache and never ask the network.
        trust_remote_code: also run the author's own model code, and compare.

    Raises:
        SnapshotError: it cannot be found, or its parts do not fit together.
        UnsupportedModelError: it needs what `AtomForCausalLM` does not compute.
        WeightsError: tensors are missing, left over or of another shape.
        TokenizerError: it has no usable tokenizer.
    """
    source = path_or_hub_id
    if not isinstance(source, Located):
        source = locate(
            source,
            revision=revision,
            local_files_only=local_files_only,
            with_code=trust_remote_code,
        )
    folder = source.path
    raw = files.read_json(folder / "config.json") or files.read_json(folder / "params.json")
    named = name_tensors(files.read_tensors(folder))
    tensors = untranspose(named)
    compared = trust_remote_code and has_own_code(raw)
    if compared:
        raw = author_settings(folder, raw)
    reading = read_config(raw, named, tensors, tags=_tags(folder), compared=compared)
    tokenizer = text.open_tokenizer(folder, reading.config.vocab_size)

    notes, variant = list(reading.notes), None
    if compared:
        match = match_author(
            folder, tokenizer.file, reading, lambda read: load(read, named, tensors)
        )
        model, variant = match.model, match.variant
        notes.append(
            "logits differ from the author's own code by at most "
            f"{match.difference:.1e} of their standard deviation"
        )
    else:
        model = load(reading, named, tensors)
        if has_own_code(raw):
            notes.append(
                "the author's own model code was not run; --trust-remote-code compares with it"
            )

    ids = text.token_ids(tokenizer, raw, reading.config.vocab_size)
    for name, value in ids.items():
        setattr(model.config, name, value)
    return Snapshot(
        path=folder,
        config=model.config,
        model=model,
        tokenizer_file=tokenizer.file,
        tokenizer_config=tokenizer.config,
        generation_config=text.generation_config(folder, ids),
        chat_template=text.chat_template(folder),
        provenance={
            "repo": source.name,
            "revision": source.revision,
            "sha256": {file.name: files.sha256(file) for file in files.weight_files(folder)},
            "tensor_names": named.school,
            "notes": notes,
            "variant": variant,
        },
    )


def _tags(folder: Path) -> list[str]:
    """The tags in the front matter of the model card; none if there is no card that says them.

    A card is prose: what cannot be read in it is passed over.
    """
    try:
        card = read_file(folder / "README.md", JSON_LIMIT, SnapshotError).decode(errors="replace")
        front = yaml.safe_load(card.split("---\n", 2)[1]) if card.startswith("---\n") else None
    except (SnapshotError, IndexError, yaml.YAMLError, ValueError, RecursionError):
        return []
    tags = front.get("tags") if isinstance(front, dict) else None
    return [tag for tag in tags if isinstance(tag, str)] if isinstance(tags, list) else []
