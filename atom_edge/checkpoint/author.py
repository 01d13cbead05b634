"""The author's own model code, run on request and compared with this package's model.

Names and shapes do not say everything: rotary embedding may be interleaved, a norm's epsilon may be
written in the code, attention may be exclusive or not. Where the logits differ, those readings
are tried, and the one that matches is used; without one, nothing is opened.

This is the only module that runs code from a snapshot.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

from atom_edge.checkpoint.classes import decoder_of
from atom_edge.checkpoint.files import read_tensors
from atom_edge.checkpoint.shapes import Reading
from atom_edge.errors import SnapshotError, WeightsError
from atom_edge.modeling import AtomForCausalLM
from atom_edge.torch_decoder import TorchDecoder

# Differences of logits, in standard deviations of the author's. Two float32 renderings of one
# model differ by 1e-6 to 1e-4, whatever the order of their sums.
TOLERANCE = 1e-3
_EXACT = 1e-4

_TEXT = (
    "The water cycle is the way in which water moves between the sea, the air and the land. "
    "When the train had left the station, she opened the letter and read it a second time. "
    "There are 12 apples in each of 7 baskets, so there are 84 apples; half of them are red. "
    "A good teacher explains why a rule holds before asking anyone to remember it."
)
_AS_READ = "as read"
# 2**-23 is what torch's own RMSNorm takes where no epsilon is given.
_EPSILONS = (1e-5, 1e-6, 1e-8, 2.0**-23)


@dataclass(frozen=True)
class Match:
    """The model that computes what the author's does, how it was read, and how near it is."""

    model: AtomForCausalLM
    variant: str
    difference: float


def has_own_code(raw: Mapping[str, Any]) -> bool:
    """Whether a config.json names model code of its own."""
    return "AutoModelForCausalLM" in (raw.get("auto_map") or {})


def author_settings(folder: Path, raw: Mapping[str, Any]) -> dict[str, Any]:
    """config.json, and the defaults of the author's configuration class where it says nothing.

    Raises:
        SnapshotError: the author's configuration code fails.
    """
    if "AutoConfig" not in raw["auto_map"]:
        return dict(raw)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=True, local_files_only=True)
    except Exception as error:  # foreign code may raise anything
        raise SnapshotError(f"The author's configuration code failed: {error!r}") from error
    common = PretrainedConfig().to_dict()
    return {name: value for name, value in config.to_dict().items() if name not in common} | {**raw}


def match_author(
    folder: Path, tokenizer_file: Path, reading: Reading, load: Callable[[Reading], AtomForCausalLM]
) -> Match:
    """Run the author's model on English text, and find the reading that computes the same.

    Args:
        folder: the snapshot, whose code is trusted.
        tokenizer_file: its tokenizer.
        reading: what config.json and the tensors say.
        load: makes the model of a reading.

    Raises:
        SnapshotError: the author's code fails, or no known reading computes what it does.
    """
    ids = _token_ids(tokenizer_file, reading.config.max_position_embeddings)
    expected, missing = _author_logits(folder, ids)
    variants = dict(_variants(reading))
    tried: dict[str, float] = {}
    for name, variant in variants.items():
        model = load(variant)
        tried[name] = _difference(_logits(model, ids), expected)
        if tried[name] <= _EXACT:
            return Match(model, name, tried[name])
    nearest = min(tried, key=lambda name: tried[name])
    if tried[nearest] > TOLERANCE:
        raise SnapshotError(_refusal(tried, missing))
    return Match(load(variants[nearest]), nearest, tried[nearest])


def open_author_class(folder: Path) -> TorchDecoder:
    """The model of the author's own code, ready to be called.

    Raises:
        SnapshotError: the code fails, or is no decoder that can be called with a cache of tensors.
        WeightsError: it found no weights for some of its parameters.
    """
    try:
        model, missing = _author_model(folder)
        if missing:
            raise WeightsError(f"The author's code found no weights for {', '.join(missing)}.")
        model.config._attn_implementation = "eager"
        return decoder_of(model)
    except SnapshotError:
        raise
    except Exception as error:  # foreign code may raise anything
        raise SnapshotError(f"The author's own model code failed: {error!r}") from error


def _token_ids(tokenizer_file: Path, context: int) -> Tensor:
    """The text, or as much of it as fits into the context, as int64 `[1, T]`."""
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    return torch.tensor([tokenizer.encode(_TEXT, add_special_tokens=False).ids[:context]])


def _author_logits(folder: Path, ids: Tensor) -> tuple[Tensor, list[str]]:
    """The author's logits `[T, vocab]`, and the parameters that the code found in no file."""
    try:
        model, missing = _author_model(folder)
        return _logits(model, ids), missing
    except Exception as error:  # foreign code may raise anything
        raise SnapshotError(f"The author's own model code failed: {error!r}") from error


def _author_model(folder: Path) -> tuple[Any, list[str]]:
    """The author's model in float32, and the parameters that are in no file.

    It is made as its code makes it and then filled. `from_pretrained` of transformers 5 makes it
    without memory first, and then neither ties the weights of code written for transformers 4 nor
    computes its tables.
    """
    config = AutoConfig.from_pretrained(folder, trust_remote_code=True, local_files_only=True)
    model = AutoModelForCausalLM.from_config(config, trust_remote_code=True, dtype=torch.float32)
    missing = set(model.load_state_dict(read_tensors(folder), strict=False).missing_keys)
    # transformers 4 ties where config.json does not say otherwise.
    if "lm_head.weight" in missing and getattr(config, "tie_word_embeddings", True):
        model.lm_head.weight = model.get_input_embeddings().weight
        missing.remove("lm_head.weight")
    return model.eval(), sorted(missing)


def _logits(model: nn.Module, ids: Tensor) -> Tensor:
    """Logits float32 `[T, vocab]`, or `[1, vocab]` from a model that gives only the last ones."""
    with torch.no_grad():
        output = model(ids)
    logits = output if isinstance(output, Tensor) else output[0]
    return logits.float().reshape(-1, logits.shape[-1])


def _difference(ours: Tensor, expected: Tensor) -> float:
    """The largest difference, in standard deviations of `expected`; infinite if not comparable."""
    if ours.shape[-1] != expected.shape[-1]:
        return math.inf
    difference = float((ours[-len(expected) :] - expected).abs().max() / expected.std())
    return math.inf if math.isnan(difference) else difference


def _variants(reading: Reading) -> Iterator[tuple[str, Reading]]:
    """All readings with their names, those with the fewest changes first."""
    stated = reading.config
    choices: list[list[tuple[str, dict[str, Any]]]] = [
        [
            ("", {}),
            (
                "half-split rotary" if reading.interleaved else "interleaved rotary",
                {"interleaved": not reading.interleaved},
            ),
        ],
        [("", {}), ("XSA off" if stated.xsa else "XSA on", {"xsa": not stated.xsa})],
        [("", {})]
        + [
            (f"norm epsilon {epsilon:.3g}", {"rms_norm_eps": epsilon})
            for epsilon in _EPSILONS
            if epsilon != stated.rms_norm_eps
        ],
        [("", {}), ("gate and up exchanged", {"gate_last": not reading.gate_last})],
    ]
    combined = sorted(
        itertools.product(*choices), key=lambda chosen: sum(1 for name, _ in chosen if name)
    )
    for chosen in combined:
        changes = {key: value for _, change in chosen for key, value in change.items()}
        config = copy.deepcopy(stated)
        for key in changes.keys() & {"xsa", "rms_norm_eps"}:
            setattr(config, key, changes.pop(key))
        names = [name for name, _ in chosen if name]
        yield ", ".join(names) or _AS_READ, replace(reading, config=config, **changes)


def _refusal(tried: Mapping[str, float], missing: list[str]) -> str:
    listed = sorted(tried.items(), key=lambda item: item[1])
    unset = f"\nThe author's code found no weights for {', '.join(missing)}." if missing else ""
    return (
        "The author's own code computes other logits than this package's model in every known "
        f"reading of the weights (allowed are {TOLERANCE} standard deviations):\n  "
        + "\n  ".join(f"{difference:.2g}  {name}" for name, difference in listed)
        + unset
    )
