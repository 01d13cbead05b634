"""The models of a run: the one that is trained, and the teacher that it learns from."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atom_edge.checkpoint import Snapshot, open_snapshot
from atom_edge.config import AtomConfig
from atom_edge.errors import TrainingError
from atom_edge.modeling import AtomForCausalLM
from atom_edge.training.recipe import Recipe

# What a snapshot to begin from must have in common with the recipe.
_SHAPE = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "head_dim"),
    *("num_attention_heads", "num_key_value_heads", "max_position_embeddings", "xsa"),
)


def trained_model(recipe: Recipe, initial: Path | None) -> AtomForCausalLM:
    """The model of `recipe`, its weights random or those of the snapshot `initial`.

    Raises:
        TrainingError: for a snapshot of another class or shape.
    """
    if initial is None:
        return AtomForCausalLM(AtomConfig(**recipe.model))
    model: AtomForCausalLM = _open_atom(initial).model
    wanted = AtomConfig(**recipe.model).to_dict()
    differing = [name for name in _SHAPE if getattr(model.config, name) != wanted[name]]
    if differing:
        raise TrainingError(
            f"The snapshot {initial} has another shape than the recipe: {', '.join(differing)}."
        )
    return model


def _open_atom(folder: Path) -> Snapshot:
    opened = open_snapshot(folder)
    if not opened.is_atom:
        raise TrainingError(
            f"The snapshot {folder} is a {type(opened.model).__name__}, which is not trained here."
        )
    return opened


@dataclass(frozen=True)
class Teacher:
    """A model whose distributions another one learns.

    Attributes:
        model: float32, in evaluation mode, without gradients, on the CPU.
        fingerprint: of its weights; a run is resumed with the same teacher alone.
    """

    model: AtomForCausalLM
    fingerprint: str


def open_teacher(recipe: Recipe, snapshot: Path | None, tokenizer: Path) -> Teacher | None:
    """Open the teacher that `recipe` asks for; None where it asks for none.

    Args:
        recipe: its `teacher_share` says whether there is a teacher.
        snapshot: folder of the teacher.
        tokenizer: folder of the run's own tokenizer.

    Raises:
        TrainingError: for a teacher that is missing or not asked for, or whose tokens, vocabulary
            or context are not the run's.
    """
    if snapshot is None:
        if recipe.teacher_share:
            raise TrainingError(
                f"The recipe gives a teacher {recipe.teacher_share:g} of the loss. Name its "
                "snapshot with --teacher."
            )
        return None
    if not recipe.teacher_share:
        raise TrainingError(
            "The recipe has no teacher. Set its key teacher_share, or leave --teacher out."
        )
    opened = _open_atom(snapshot)
    if _vocabulary(opened.tokenizer_file) != _vocabulary(tokenizer / "tokenizer.json"):
        raise TrainingError(
            f"The teacher {snapshot} has another tokenizer than the run. A teacher must split text "
            "into the same tokens."
        )
    config, wanted = opened.config, AtomConfig(**recipe.model)
    if config.vocab_size != wanted.vocab_size:
        raise TrainingError(
            f"The teacher {snapshot} has {config.vocab_size} logits and the recipe's model "
            f"{wanted.vocab_size}. Make them equal."
        )
    if config.max_position_embeddings < recipe.context:
        raise TrainingError(
            f"The teacher {snapshot} has a context of {config.max_position_embeddings} tokens, and "
            f"a window of the recipe has {recipe.context}."
        )
    model: AtomForCausalLM = opened.model.requires_grad_(False)
    return Teacher(model, _fingerprint(model))


def _vocabulary(tokenizer_file: Path) -> Any:
    """Tokens and merges of a `tokenizer.json`."""
    return json.loads(tokenizer_file.read_text(encoding="utf-8"))["model"]


def _fingerprint(model: AtomForCausalLM) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
