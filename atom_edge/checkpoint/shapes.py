"""The configuration of a snapshot: what its config.json states, checked against its tensors.

What both say must agree. What config.json leaves out is read from the shapes where they tell it;
the rest (norm epsilon, rotary base, context, XSA) has a default only where the architecture is
known, and every such choice is noted.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import CONFIG_MAPPING

from atom_edge.checkpoint.naming import NamedTensors
from atom_edge.checkpoint.positions import (
    refuse_narrow_windows,
    rotary_dim,
    unrotated_layers,
    with_inner_options,
)
from atom_edge.checkpoint.settings import disagreements, stated
from atom_edge.config import AtomConfig
from atom_edge.errors import SnapshotError, UnsupportedModelError, WeightsError

# The types of transformers that compute what this package's model computes without XSA.
LLAMA_TYPES = ("llama", "mistral", "qwen2", "qwen3", "smollm3", "granite", "phi3")
# Types with code of their own whose tensors would be read in the wrong order without a sign of it.
_OTHER_ORDERS = {
    "internlm2": "its wqkv holds q, k and v of one key-value head after another. Bring the "
    "snapshot into Llama's form first, with its authors' convert2llama.py"
}
_MEASURED = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")
_UNMEASURED = ("max_position_embeddings", "rope_theta", "rms_norm_eps", "xsa")
_MULTIPLIERS = (
    *("embedding_multiplier", "residual_multiplier", "attention_multiplier", "logits_scaling"),
)


@dataclass(frozen=True)
class Reading:
    """A configuration, how the tensors are to be read, and what was chosen unstated.

    Attributes:
        config: of the model.
        interleaved: whether rotary embedding turns neighbouring rows of a head together.
        gate_last: whether the tensors named as gate and up mean up and gate.
        notes: the choices that nothing in the snapshot states.
        measured: the tensors that sizes were read from: each may be the one that is wrong.
    """

    config: AtomConfig
    interleaved: bool
    gate_last: bool = False
    notes: tuple[str, ...] = ()
    measured: tuple[str, ...] = ()


@dataclass(frozen=True)
class Measure:
    """A size, and the tensor that shows it."""

    value: int
    seen_in: str


def read_config(
    raw: Mapping[str, Any],
    named: NamedTensors,
    tensors: Mapping[str, Tensor],
    *,
    tags: Collection[str],
    compared: bool = False,
) -> Reading:
    """The configuration that `raw` and the tensors make together.

    Args:
        raw: config.json.
        named: the tensors' names in the file.
        tensors: the tensors, `[out, in]`, fused ones still fused.
        tags: of the model card.
        compared: whether the result is to be compared with the author's code, which then decides
            XSA and the norm epsilon where nothing states them.

    Raises:
        SnapshotError: raw contradicts the shapes or itself, or leaves out what they do not tell.
        UnsupportedModelError: an architecture or an option that is not computed.
        WeightsError: the shapes contradict each other.
    """
    says = stated(raw)
    measured = _measure(named, tensors)
    _agree(raw, says, measured)
    sizes = {name: measure.value for name, measure in measured.items()}
    notes: list[str] = []

    architecture = _architecture(raw, sizes)
    for name, value in _defaults(architecture, tags, says).items():
        if name not in says:
            says[name] = value
            notes.append(f"{name} = {value}: not in config.json, the default of {architecture}")
    if compared:
        says = {"xsa": False, "rms_norm_eps": 1e-6} | says
    heads = _heads(says, sizes, measured)
    missing = [name for name in _UNMEASURED if name not in says]
    if missing:
        raise SnapshotError(
            f"Neither config.json nor the shapes of the tensors say {', '.join(missing)}. "
            "Add them to config.json, or let the author's own code say them (--trust-remote-code)."
        )
    interleaved = says.get("interleaved")
    if interleaved is None:
        interleaved = named.school == "Meta"
        if interleaved:
            notes.append("rotary embedding interleaved, as Meta's tensor names imply")
    refuse_narrow_windows(_with_window(raw, architecture), says["max_position_embeddings"])
    shape: dict[str, Any] = {name: sizes[name] for name in _MEASURED} | heads
    shape |= _parts(raw, tensors)
    config = AtomConfig(
        **shape,
        **{name: says[name] for name in (*_UNMEASURED, *_MULTIPLIERS) if name in says},
        rotary_dim=rotary_dim(with_inner_options(raw), heads["head_dim"]),
        rotary_scaling=says["rotary_scaling"],
        unrotated_layers=unrotated_layers(raw, sizes["num_hidden_layers"]),
        tie_word_embeddings=_tied(says, tensors),
    )
    return Reading(
        config,
        interleaved,
        notes=tuple(notes),
        measured=tuple(dict.fromkeys(measure.seen_in for measure in measured.values())),
    )


def _parts(raw: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, bool]:
    """Which biases and norms the model has, by its tensors."""
    roles = {".".join(name.split(".")[3:]) for name in tensors if ".layers." in name}
    parts = {
        "attention_bias": any(
            f"self_attn.{role}_proj.bias" in roles for role in ("q", "k", "v", "qkv", "kv")
        ),
        "attention_output_bias": "self_attn.o_proj.bias" in roles,
        "mlp_bias": "mlp.down_proj.bias" in roles,
        "query_key_norm": "self_attn.q_norm.weight" in roles,
    }
    any_bias = any(value for name, value in parts.items() if name.endswith("_bias"))
    if wrong := disagreements(raw, parts | {"bias": any_bias}):
        raise WeightsError(
            "config.json and the weights contradict each other:\n  " + "\n  ".join(wrong)
        )
    return parts


def _with_window(raw: Mapping[str, Any], architecture: str) -> Mapping[str, Any]:
    """`raw` with the sliding window that its type has where it states none."""
    if architecture not in LLAMA_TYPES or "sliding_window" in raw:
        return raw
    return {"sliding_window": CONFIG_MAPPING[architecture]().to_dict().get("sliding_window"), **raw}


def _measure(named: NamedTensors, tensors: Mapping[str, Tensor]) -> dict[str, Measure]:
    """What shapes show; `query_width` is heads times head size, `kv_width` its k and v analogue."""
    layer = "model.layers.0."
    attention = layer + "self_attn."

    def axis(name: str, index: int) -> Measure:
        found = f"{named.origin[name]} {list(named.tensors[name].shape)}"
        return Measure(tensors[name].shape[index], found)

    query = axis(attention + "o_proj.weight", 1)
    if attention + "k_proj.weight" in tensors:
        kv = axis(attention + "k_proj.weight", 0)
    elif attention + "kv_proj.weight" in tensors:
        both = axis(attention + "kv_proj.weight", 0)
        kv = Measure(both.value // 2, both.seen_in)
    else:
        fused = axis(attention + "qkv_proj.weight", 0)
        kv = Measure((fused.value - query.value) // 2, f"{fused.seen_in} and {query.seen_in}")
    return {
        "vocab_size": axis("model.embed_tokens.weight", 0),
        "hidden_size": axis("model.embed_tokens.weight", 1),
        "intermediate_size": axis(layer + "mlp.down_proj.weight", 1),
        "num_hidden_layers": Measure(named.num_layers, f"layers 0 to {named.num_layers - 1}"),
        "query_width": query,
        "kv_width": kv,
    }


def _agree(
    raw: Mapping[str, Any], says: Mapping[str, Any], measured: Mapping[str, Measure]
) -> None:
    wrong = [
        f"{name} = {says[name]} in config.json, {measure.value} in the tensors ({measure.seen_in})"
        for name, measure in measured.items()
        if name in says and says[name] != measure.value
    ]
    # `hidden_dim` is the model's width in some projects and the feed-forward's in others.
    widths = [measured["hidden_size"].value, measured["intermediate_size"].value]
    if raw.get("hidden_dim", widths[0]) not in widths:
        wrong.append(f"hidden_dim = {raw['hidden_dim']} in config.json, {widths} in the tensors")
    if wrong:
        raise WeightsError(
            "config.json and the weights contradict each other:\n  " + "\n  ".join(wrong)
        )


def _heads(
    says: Mapping[str, Any], sizes: Mapping[str, int], measured: Mapping[str, Measure]
) -> dict[str, int]:
    """Heads, key-value heads and head size: one of the three must be stated."""
    query, kv = sizes["query_width"], sizes["kv_width"]
    if "head_dim" in says:
        width = says["head_dim"]
    elif "num_attention_heads" in says:
        width = query // says["num_attention_heads"]
    elif "num_key_value_heads" in says:
        width = kv // says["num_key_value_heads"]
    else:
        raise SnapshotError(
            "Neither config.json nor the shapes of the tensors say how many attention heads there "
            "are. Add num_attention_heads or head_dim to config.json."
        )
    heads = {
        "num_attention_heads": says.get("num_attention_heads", query // max(width, 1)),
        "num_key_value_heads": says.get("num_key_value_heads", kv // max(width, 1)),
    }
    wrong = [
        f"{name} = {heads[name]} of size {width} need a width of {heads[name] * width}, "
        f"and the tensors have {measured[seen].value} ({measured[seen].seen_in})"
        for name, seen in (
            ("num_attention_heads", "query_width"),
            ("num_key_value_heads", "kv_width"),
        )
        if not heads[name] or heads[name] * width != measured[seen].value
    ]
    if wrong:
        raise WeightsError(
            "config.json and the weights contradict each other:\n  " + "\n  ".join(wrong)
        )
    return {**heads, "head_dim": width}


def _architecture(raw: Mapping[str, Any], sizes: Mapping[str, int]) -> str:
    """One of the types that are computed like Llama, `atom`, or `unknown`.

    Raises:
        UnsupportedModelError: a type that computes something else, or has its tensors otherwise.
    """
    kind, own_code = str(raw.get("model_type", "")), "auto_map" in raw
    if kind in _OTHER_ORDERS:
        raise UnsupportedModelError(f"model_type = '{kind}': {_OTHER_ORDERS[kind]}.")
    if kind in LLAMA_TYPES and not own_code:
        return kind
    atom = AtomConfig()
    shape = {
        "query_width": atom.num_attention_heads * atom.head_dim,
        "kv_width": atom.num_key_value_heads * atom.head_dim,
    }
    same = all(shape.get(name, getattr(atom, name, None)) == size for name, size in sizes.items())
    return "atom" if same or kind.startswith("atom") else "unknown"


def _defaults(architecture: str, tags: Collection[str], says: Mapping[str, Any]) -> dict[str, Any]:
    """What an architecture has where its config.json leaves it out."""
    if architecture in LLAMA_TYPES:
        llama = CONFIG_MAPPING[architecture]().to_dict()
        # transformers 5 keeps the base among the rotary parameters.
        llama = {**(llama.get("rope_parameters") or {}), **llama, "xsa": False}
        return {name: llama[name] for name in (*_UNMEASURED, *_MULTIPLIERS) if name in llama}
    if architecture == "atom":
        heads = {"head_dim", "num_attention_heads", "num_key_value_heads"}
        names = _UNMEASURED if heads & set(says) else (*_UNMEASURED, "head_dim")
        return {name: getattr(AtomConfig(), name) for name in names}
    return {"xsa": True} if {"xsa", "xse"} & set(tags) else {}


def _tied(says: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> bool:
    """Whether the output projection is the embedding: none of its own, or the same numbers."""
    head, embedding = tensors.get("lm_head.weight"), tensors["model.embed_tokens.weight"]
    tied = head is None or torch.equal(head, embedding)
    stated_tied = says.get("tie_word_embeddings", tied)
    if head is None and not stated_tied:
        raise WeightsError(
            "config.json says tie_word_embeddings = false, and the weights have no lm_head.weight."
        )
    if stated_tied and not tied:
        raise WeightsError(
            "config.json says tie_word_embeddings = true, and the weights have a lm_head.weight "
            "that is not the embedding."
        )
    return tied
