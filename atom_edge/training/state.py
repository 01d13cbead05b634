"""Checkpoints of a run in progress, and the snapshot of its newest weights.

Each is complete or absent: written aside, flushed to the disk and renamed. The two newest
checkpoints are kept.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from atom_edge.errors import TrainingError
from atom_edge.modeling import AtomForCausalLM
from atom_edge.staging import clear_leftovers, staged_file, staged_folder

_KEPT = 2
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
# A document ends with <|endoftext|>; <|eos|> is for those who tune the model further.
_GENERATION = {"bos_token_id": 1, "eos_token_id": [2, 4], "pad_token_id": 0}


def save_checkpoint(folder: Path, step: int, state: dict[str, Any]) -> None:
    """Write `state` as the checkpoint after `step` steps, and drop the oldest ones."""
    folder.mkdir(parents=True, exist_ok=True)
    with staged_file(folder / f"step-{step:08d}.pt") as file:
        torch.save({"step": step, **state}, file)
    for old in _checkpoints(folder)[:-_KEPT]:
        old.unlink()


def load_newest(folder: Path, device: torch.device) -> dict[str, Any]:
    """Load the newest checkpoint of `folder`, tensors on `device`.

    Raises:
        TrainingError: when there is none.
    """
    checkpoints = _checkpoints(folder)
    if not checkpoints:
        raise TrainingError(f"There is no checkpoint in {folder} to resume from.")
    state: dict[str, Any] = torch.load(checkpoints[-1], map_location=device, weights_only=True)
    return state


def has_checkpoint(folder: Path) -> bool:
    """Whether a run left a checkpoint in `folder`."""
    return bool(_checkpoints(folder))


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*.pt"))


def save_snapshot(model: AtomForCausalLM, tokenizer: Path, destination: Path) -> None:
    """Write `model` as a Hugging Face folder: bf16 safetensors, configuration, tokenizer.

    Args:
        model: left as it is; its parameters are rounded to bfloat16 in the file.
        tokenizer: folder of the tokenizer's files.
        destination: replaced at once; files in it that a snapshot does not have stay.
    """
    clear_leftovers(destination)
    with staged_folder(destination) as staging:
        rounded = AtomForCausalLM(model.config).to(torch.bfloat16)
        rounded.load_state_dict(model.state_dict())
        rounded.save_pretrained(staging)
        (staging / "generation_config.json").write_text(json.dumps(_GENERATION, indent=2) + "\n")
        for name in _TOKENIZER_FILES:
            shutil.copy(tokenizer / name, staging / name)
        for file in destination.iterdir() if destination.exists() else ():
            if file.is_file() and not (staging / file.name).exists():
                shutil.copy2(file, staging / file.name, follow_symlinks=False)
