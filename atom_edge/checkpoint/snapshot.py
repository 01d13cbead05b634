"""A snapshot, opened: the model ready to run, and all that goes into a bundle with it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atom_edge.checkpoint import files, gguf, text
from atom_edge.checkpoint.author import (
    author_settings,
    has_own_code,
    match_author,
    open_author_class,
)
from atom_edge.checkpoint.card import read_card
from atom_edge.checkpoint.classes import is_of_another_class, open_class
from atom_edge.checkpoint.layout import untranspose
from atom_edge.checkpoint.loading import load
from atom_edge.checkpoint.naming import name_tensors
from atom_edge.checkpoint.shapes import LLAMA_TYPES, read_config
from atom_edge.errors import SnapshotError, UnsupportedModelError
from atom_edge.hub import Located, locate
from atom_edge.modeling import AtomForCausalLM
from atom_edge.torch_decoder import TorchDecoder


@dataclass(frozen=True)
class Snapshot:
    """A Hugging Face model folder, read and checked.

    Attributes:
        path: the folder.
        stated: config.json.
        decoder: the model, float32, in evaluation mode, on the CPU.
        tokenizer_file: a `tokenizer.json` that says everything about the tokenizer.
        tokenizer_config: `tokenizer_config.json`, with the texts of the special tokens.
        generation_config: end-of-sequence ids and sampling defaults.
        chat_template: a Jinja template, None for a base model.
        provenance: what a bundle's manifest says of its source; see `manifest.Source`. `repo` is
            the hub id, or the name of the folder or file, `revision` a commit or None.
    """

    path: Path
    stated: dict[str, Any]
    decoder: TorchDecoder
    tokenizer_file: Path
    tokenizer_config: dict[str, Any]
    generation_config: dict[str, Any]
    chat_template: str | None
    provenance: dict[str, Any]

    @property
    def model(self) -> Any:
        """An `AtomForCausalLM`, or a model of another class that is run as it is."""
        return self.decoder.model

    @property
    def config(self) -> Any:
        """The model's configuration: an `AtomConfig`, or its class's own."""
        return self.decoder.model.config

    @property
    def is_atom(self) -> bool:
        """Whether the model is an `AtomForCausalLM`."""
        return isinstance(self.decoder.model, AtomForCausalLM)


@dataclass(frozen=True)
class _Opened:
    """A model, its tokenizer, and how its tensors were read; see `Snapshot.provenance`."""

    decoder: TorchDecoder
    tokenizer: text.SnapshotTokenizer
    tensor_names: str
    notes: list[str]
    variant: str | None = None


def open_snapshot(
    path_or_hub_id: str | Path | Located,
    *,
    revision: str | None = None,
    local_files_only: bool = False,
    trust_remote_code: bool = False,
) -> Snapshot:
    """Open a model folder, or download one from the Hugging Face hub.

    Args:
        path_or_hub_id: a folder or a GGUF file, else a hub id such as `"org/name"`; or what
            `locate` found.
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
    is_gguf = source.path.is_file()
    folder = gguf.unpack(source.path) if is_gguf else source.path
    card = read_card(source.path.parent if is_gguf else folder)
    raw = files.read_json(folder / "config.json") or files.read_json(folder / "params.json")
    opened = _open(folder, raw, trust_remote_code)
    weights = [source.path] if is_gguf else files.weight_files(folder)
    config = opened.decoder.model.config
    ids = text.token_ids(opened.tokenizer, raw, config.vocab_size)
    for name, value in ids.items():
        setattr(config, name, value)
    return Snapshot(
        path=folder,
        stated=raw,
        decoder=opened.decoder,
        tokenizer_file=opened.tokenizer.file,
        tokenizer_config=opened.tokenizer.config,
        generation_config=text.generation_config(folder, ids),
        chat_template=text.chat_template(folder),
        provenance={
            "repo": source.name,
            "revision": source.revision,
            "sha256": {file.name: files.sha256(file) for file in weights},
            "tensor_names": opened.tensor_names,
            "notes": opened.notes,
            "variant": opened.variant,
            "license": card.license,
            "license_name": card.license_name,
            "license_link": card.license_link,
            "base_model": (source.name,) if source.revision else card.base_model,
        },
    )


def _open(folder: Path, raw: dict[str, Any], trusted: bool) -> _Opened:
    """The model as `AtomForCausalLM` where that computes it, else as its own class."""
    if is_of_another_class(raw) and raw["model_type"] not in LLAMA_TYPES:
        return _open_as_own_class(folder, open_class(folder, raw))
    compared = trusted and has_own_code(raw)
    try:
        return _open_as_atom(folder, raw, compared)
    except SnapshotError as error:
        is_known = isinstance(error, UnsupportedModelError) and is_of_another_class(raw)
        if not compared and not is_known:
            raise
        try:
            decoder = open_author_class(folder) if compared else open_class(folder, raw)
        except SnapshotError as second:
            kind = UnsupportedModelError if is_known else SnapshotError
            raise kind(f"{error}\nNor can it be exported as its own class: {second}") from second
        return _open_as_own_class(folder, decoder, str(error).splitlines()[0])


def _open_as_own_class(folder: Path, decoder: TorchDecoder, reason: str | None = None) -> _Opened:
    tokenizer = text.open_tokenizer(folder, decoder.model.config.vocab_size)
    name = type(decoder.model).__name__
    notes = [f"run as its own class, {name}" + (f": {reason}" if reason else "")]
    return _Opened(decoder, tokenizer, name, notes)


def _open_as_atom(folder: Path, raw: dict[str, Any], compared: bool) -> _Opened:
    named = name_tensors(files.read_tensors(folder))
    tensors = untranspose(named)
    if compared:
        raw = author_settings(folder, raw)
    reading = read_config(raw, named, tensors, tags=read_card(folder).tags, compared=compared)
    tokenizer = text.open_tokenizer(folder, reading.config.vocab_size)
    notes = list(reading.notes)
    if compared:
        match = match_author(
            folder, tokenizer.file, reading, lambda read: load(read, named, tensors)
        )
        notes.append(
            "logits differ from the author's own code by at most "
            f"{match.difference:.1e} of their standard deviation"
        )
        return _Opened(TorchDecoder(match.model), tokenizer, named.school, notes, match.variant)
    if has_own_code(raw):
        notes.append(
            "the author's own model code was not run; --trust-remote-code compares with it"
        )
    return _Opened(TorchDecoder(load(reading, named, tensors)), tokenizer, named.school, notes)
