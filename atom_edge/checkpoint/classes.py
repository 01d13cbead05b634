"""Models that are run as their own class: transformers' own, or the author's code.

`AtomForCausalLM` computes the Llama family. What it does not compute is loaded by transformers, as
a causal decoder with a cache of keys and values, and called through `TorchDecoder`. Whether that is
the model is not taken from a list: it is compared with the plain model before anything is exported,
in pieces, in a padded batch, and over more text than its windows hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from packaging.version import Version
from torch import Tensor
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM, PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from atom_edge.checkpoint.buffers import is_buffer
from atom_edge.checkpoint.files import read_tensors
from atom_edge.checkpoint.settings import SIZES
from atom_edge.errors import SnapshotError, UnsupportedModelError, WeightsError
from atom_edge.torch_decoder import MASKS, TorchDecoder
from atom_edge.transformers_versions import no_init_weights, quiet_transformers

# Differences of logits in standard deviations; float32 rounding makes 1e-6 to 1e-4.
TOLERANCE = 1e-3
_EXPERTS = (
    *("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts", "n_experts"),
)
_OTHER_INPUTS = ("vision_config", "audio_config", "text_config", "image_token_id")
_WINDOWS = ("sliding_window", "window_size", "attention_window", "sliding_window_size")
# These compute other angles for long texts than for short ones, which no fixed graph does.
_CHANGING_ROTARY = ("dynamic", "longrope", "su")
_TEXT, _PADDING = 48, 3


def is_of_another_class(raw: Mapping[str, Any]) -> bool:
    """Whether transformers has a class of its own for a config.json without code of its own."""
    kind = raw.get("model_type")
    return kind in CONFIG_MAPPING and kind != "atom" and not raw.get("auto_map")


def refuse_other_models(raw: Mapping[str, Any]) -> None:
    """Refuse, by config.json alone, what is no decoder of text that a graph can compute.

    Raises:
        UnsupportedModelError: by the name of what it is.
    """
    kind, has_code = raw.get("model_type"), bool(raw.get("auto_map"))
    problems = [f"{name} = {raw[name]!r}" for name in _EXPERTS if _is_over(raw.get(name), 1)]
    if not has_code and kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        problems.append(f"model_type = {kind!r} is no causal language model of transformers")
    if raw.get("is_encoder_decoder"):
        problems.append("it is an encoder with a decoder (is_encoder_decoder)")
    problems += [f"it reads more than text ({name})" for name in _OTHER_INPUTS if raw.get(name)]
    if raw.get("quantization_config"):
        method = dict(raw["quantization_config"]).get("quant_method")
        problems.append(f"its weights are quantized already ({method}); export the original")
    problems += [
        f"rotary positions of type {kind!r} change with the length of the text"
        for kind in _rotary_kinds(raw)
        if kind in _CHANGING_ROTARY
    ]
    if problems:
        raise UnsupportedModelError(f"The model cannot be exported: {'; '.join(problems)}.")


def _is_over(value: Any, most: int) -> bool:
    return isinstance(value, int) and value > most


def _rotary_kinds(raw: Mapping[str, Any]) -> Iterator[Any]:
    for name in ("rope_scaling", "rope_parameters"):
        options = raw.get(name)
        if isinstance(options, dict):
            for one in (options, *(v for v in options.values() if isinstance(v, dict))):
                yield one.get("rope_type", one.get("type"))


def open_class(folder: Path, raw: Mapping[str, Any]) -> TorchDecoder:
    """The model of a snapshot as transformers' own class, ready to be called.

    Raises:
        UnsupportedModelError: it is no such decoder, or cannot be called so.
        WeightsError: weights are missing, left over or of another shape.
        SnapshotError: transformers cannot load it.
    """
    refuse_other_models(raw)
    name = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[raw["model_type"]]
    with quiet_transformers():
        try:
            config = AutoConfig.from_pretrained(folder, local_files_only=True)
        except Exception as error:  # each class has ways of its own to fail
            raise SnapshotError(
                f"transformers refuses {folder / 'config.json'}: {error}"
            ) from error
        refuse_other_models({**config.to_dict(), **raw})
        _refuse_unread_positions(config, raw)
        tensors = read_tensors(folder)
        _check_size(config, tensors)
        try:
            model, report = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=torch.float32,
                attn_implementation="eager",
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
            )
        except Exception as error:
            raise SnapshotError(f"transformers cannot load {folder} as {name}: {error}") from error
    _check_weights(report, tensors)
    _check_head(model, tensors)
    return decoder_of(model.eval())


def _refuse_unread_positions(config: PretrainedConfig, raw: Mapping[str, Any]) -> None:
    """Refuse what only transformers 5 reads, where another one would compute something else."""
    options = raw.get("rope_parameters")
    if not options or Version(transformers.__version__) >= Version("5"):
        return
    computed = {
        "rope_type": "default",
        "rope_theta": _first(config, "rope_theta", "rotary_emb_base"),
        "partial_rotary_factor": _first(config, "partial_rotary_factor", "rotary_pct"),
    }
    if not isinstance(options, dict) or any(
        value is not None and value != computed.get(name) for name, value in options.items()
    ):
        raise UnsupportedModelError(
            f"config.json says rope_parameters = {options!r}, which transformers "
            f"{transformers.__version__} does not read. Install version 5: "
            "pip install 'transformers>=5,<6'."
        )


def _first(config: PretrainedConfig, *names: str) -> Any:
    return next((getattr(config, name) for name in names if hasattr(config, name)), None)


def _check_size(config: PretrainedConfig, tensors: Mapping[str, Tensor]) -> None:
    """Refuse weights of another size than config.json, before all that it states is made."""
    try:
        with torch.device("meta"), no_init_weights():
            model = AutoModelForCausalLM.from_config(config)
    except Exception:
        return  # loading tells why; or a class reads its own tensors, which have no data yet
    described = sum(parameter.numel() for parameter in model.parameters())
    held = sum(tensor.numel() for tensor in tensors.values())
    if described > 2 * held:  # a tied embedding is held once
        raise WeightsError(
            f"config.json describes a {type(model).__name__} of {described:,} parameters, and the "
            f"weights are {held:,}."
        )


def _check_weights(report: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    left_over = [
        name
        for name in report["unexpected_keys"]
        if name not in tensors or not is_buffer(name, tensors[name])
    ]
    lines = [f"missing: {name}" for name in sorted(report["missing_keys"])]
    lines += [f"left over: {name}" for name in sorted(left_over)]
    lines += [f"of another shape: {entry[0]}" for entry in sorted(report["mismatched_keys"])]
    if lines:
        raise WeightsError(
            "config.json and the weights do not make one model:\n  " + "\n  ".join(lines)
        )


def _check_head(model: Any, tensors: Mapping[str, Tensor]) -> None:
    """Refuse an output projection of the file's own that transformers replaced by the embedding."""
    head = getattr(model.get_output_embeddings(), "weight", None)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        stored = tensors.get(name)
        if parameter is not head or stored is None or stored.shape != head.shape:
            continue
        if not torch.equal(stored.to(head.dtype), head):
            raise WeightsError(
                f"{type(model).__name__} takes the embedding as its output projection "
                f"(tie_word_embeddings), and the weights have a {name} that is not the embedding."
            )


def decoder_of(model: Any) -> TorchDecoder:
    """`model` in the way in which it computes what it computes by itself.

    Raises:
        UnsupportedModelError: it keeps no cache, or in no way.
        WeightsError: a weight is not a finite number.
    """
    config = model.config
    stated = [getattr(config, name, None) for name in SIZES["max_position_embeddings"]]
    context = next((size for size in stated if _is_over(size, _PADDING)), None)
    if context is None:
        raise UnsupportedModelError(
            f"The configuration of {type(model).__name__} states no context: it has no "
            "max_position_embeddings."
        )
    if not _is_over(getattr(config, "max_position_embeddings", None), 0):
        config.max_position_embeddings = context
    found = [getattr(config, name, None) for name in _WINDOWS]
    windows = [size for size in found if isinstance(size, int) and 0 < size < context]
    window = windows[0] if windows else None
    longest = max([_TEXT, *(window + 16 for window in windows)])
    ids = _random_ids(config.vocab_size, min(context - _PADDING, longest))
    for name, parameter in model.named_parameters():
        if not bool(parameter.isfinite().all()):
            raise WeightsError(f"The weight {name} holds values that are not finite numbers.")
    tried: dict[str, str] = {}
    try:
        expected = _plain_logits(model, ids)
        ways = [
            TorchDecoder(model, context_length=context, masks=masks, window=window)
            for masks in (MASKS if window else MASKS[:1])
        ]
    except UnsupportedModelError:
        raise
    except Exception as error:  # a class may fail in any way
        raise UnsupportedModelError(
            f"{type(model).__name__} cannot be exported: called without a mask, it fails with "
            f"{type(error).__name__}: {error}"
        ) from error
    for decoder in ways:
        try:
            why = _difference(decoder, ids, expected)
        except Exception as error:  # likewise a mask
            why = f"{type(error).__name__}: {error}"
        if not why:
            return decoder
        tried[decoder.masks] = why
    raise UnsupportedModelError(
        f"{type(model).__name__} cannot be exported: called with its cache as tensors, it does not "
        "compute what it computes by itself:\n  "
        + "\n  ".join(f"{why} ({masks} mask)" for masks, why in tried.items())
    )


def _random_ids(vocab_size: int, count: int) -> Tensor:
    """Token ids `[1, count]`."""
    return torch.randint(0, vocab_size, (1, count), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def _plain_logits(model: Any, ids: Tensor) -> Tensor:
    """Logits `[T, V]` of a model that is called without a cache."""
    with quiet_transformers():  # it would advise to give a mask
        output = model(input_ids=ids, use_cache=False, return_dict=True)
    logits: Tensor = output.logits[0]
    return logits


def _difference(decoder: TorchDecoder, ids: Tensor, expected: Tensor) -> str:
    """How a decoder's logits of `ids` `[1, T]` differ from those expected; empty if they do not."""
    half = ids.shape[1] // 2
    ways: dict[str, Callable[[], Tensor]] = {
        "at once": lambda: _run(decoder, ids, [ids.shape[1]]),
        "in pieces": lambda: _run(decoder, ids, [half, 1, ids.shape[1] - half - 1]),
        "after padding": lambda: _run(decoder, ids, [half, ids.shape[1] - half], padding=_PADDING),
    }
    for name, run in ways.items():
        difference = float((run() - expected).abs().max() / expected.std())
        if not difference <= TOLERANCE:
            return f"{name}, logits differ by {difference:.2g} standard deviations"
    return ""


@torch.no_grad()
def _run(decoder: TorchDecoder, ids: Tensor, pieces: list[int], padding: int = 0) -> Tensor:
    """Logits `[T, V]` of `ids` in pieces; behind padding, beside a sequence without it."""
    pad = ids[:, :1].repeat(1, padding)
    batch = torch.cat((pad, ids), 1).repeat(2, 1)
    mask = torch.ones_like(batch)
    mask[0, :padding] = 0
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    cache, logits, start = decoder.empty_cache(2), [], 0
    for count in [pieces[0] + padding, *pieces[1:]]:
        new = slice(start, start + count)
        output, *cache = decoder(batch[:, new], mask[:, : new.stop], positions[:, new], cache)
        logits.append(output[0])
        start += count
    return torch.cat(logits)[padding:]
