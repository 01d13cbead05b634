"""What a config.json states, whatever names it uses.

The field's configurations call one quantity by many names; the tables below are all that are
read. A statement that contradicts another is an error, and so is an option of a feature that the
model does not compute.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from atom_edge.checkpoint.positions import READ, rotary_scaling, with_inner_options
from atom_edge.config import refused_options
from atom_edge.errors import SnapshotError, UnsupportedModelError

SIZES: Mapping[str, tuple[str, ...]] = {
    "vocab_size": ("padded_vocab_size", "vocab_size", "n_vocab"),
    "hidden_size": ("hidden_size", "n_embd", "dim", "d_model", "embed_dim", "embedding_dim"),
    "intermediate_size": (
        *("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size", "d_ff", "ff_dim"),
        *("mlp_hidden_size", "feed_forward_size", "ffn_size"),
    ),
    "num_hidden_layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    "num_attention_heads": ("num_attention_heads", "n_head", "n_heads", "num_heads"),
    "num_key_value_heads": (
        *("num_key_value_heads", "n_kv_head", "n_kv_heads", "num_kv_heads", "n_query_groups"),
    ),
    "head_dim": ("head_dim", "head_size", "d_head"),
    "max_position_embeddings": (
        *("max_position_embeddings", "n_positions", "block_size", "max_seq_len"),
        *("context_length", "n_ctx", "seq_len", "max_seq_length", "max_sequence_length"),
    ),
}
_NUMBERS: Mapping[str, tuple[str, ...]] = {
    "rms_norm_eps": (
        *("rms_norm_eps", "norm_eps", "layer_norm_epsilon", "layer_norm_eps", "rms_eps"),
        "norm_epsilon",
    ),
    "rope_theta": (
        *("rope_theta", "rope_base", "rotary_base", "rotary_emb_base"),
        *("rope_scaling.rope_theta", "rope_parameters.rope_theta"),
    ),
    "embedding_multiplier": ("embedding_multiplier",),
    "residual_multiplier": ("residual_multiplier",),
    "attention_multiplier": ("attention_multiplier",),
    "logits_scaling": ("logits_scaling",),
}
_FLAGS: Mapping[str, tuple[str, ...]] = {
    "tie_word_embeddings": (
        *("tie_word_embeddings", "tie_embeddings", "weight_tying", "tie_weights"),
        "share_input_output_embeddings",
    ),
    "xsa": (
        *("xsa", "use_xsa", "exclusive_self_attention", "use_exclusive_self_attention"),
        *("xse", "use_xse"),
    ),
    "interleaved": (
        *("rope_interleaved", "rope_interleave", "rotary_interleaved", "interleaved_rope"),
        "use_interleaved_rope",
    ),
}
# What the tensors show; config.json may say it too.
_SHOWN: Mapping[str, tuple[str, ...]] = {
    "attention_bias": ("attention_bias", "qkv_bias", "add_qkv_bias", "attn_bias"),
    "mlp_bias": ("mlp_bias",),
    "bias": ("use_bias", "bias", "add_bias_linear"),
    "query_key_norm": ("query_key_norm", "use_qk_norm", "qk_norm", "qk_layernorm", "norm_qk"),
}
_ACTIVATION = ("hidden_act", "activation_function", "hidden_activation", "activation", "act_fn")
# Several names may be there with different values, of which the first is meant.
_FIRST_COUNTS = ("vocab_size", "max_position_embeddings")
_ATTENTION_TYPES = ("attention_type", "attn_type", "attention_variant")
_OTHER_ATTENTION = "linear|sliding|local|window|sparse|latent|mla|differential|alibi"
_SILU = ("silu", "swish", "swiglu")


def stated(raw: Mapping[str, Any]) -> dict[str, Any]:
    """`AtomConfig`'s fields as far as `raw` states them, and `interleaved` (rotary layout).

    Raises:
        SnapshotError: a value is of the wrong kind, or two names contradict each other.
        UnsupportedModelError: an option of what `AtomForCausalLM` does not compute.
    """
    read = {*READ, *(name for names in _SHOWN.values() for name in names)}
    others = {name: value for name, value in raw.items() if name not in read}
    if problems := refused_options(others):
        raise UnsupportedModelError(
            "config.json asks for what AtomForCausalLM does not compute: " + "; ".join(problems)
        )
    raw = {**with_inner_options(raw), **_attention_type(raw)}
    values: dict[str, Any] = {}
    for table, convert in ((SIZES, _size), (_NUMBERS, _number), (_FLAGS, _flag)):
        for field, names in table.items():
            found = {name: convert(name, raw[name]) for name in names if _says(raw, name)}
            if len(set(found.values())) > 1 and field not in _FIRST_COUNTS:
                both = ", ".join(f"{name} = {value}" for name, value in found.items())
                raise SnapshotError(f"config.json contradicts itself: {both}.")
            if found:
                values[field] = next(iter(found.values()))
    values["rotary_scaling"] = rotary_scaling(raw)
    _refuse_other_activations(raw)
    _refuse_unknown_xsa(raw)
    return values


def _says(raw: Mapping[str, Any], name: str) -> bool:
    # Meta's files write -1 for a vocabulary that the tokenizer decides.
    return raw.get(name) is not None and raw[name] != -1


def _size(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise SnapshotError(f"config.json says {name} = {value!r}, which is no size.")
    return value


def _number(name: str, value: Any) -> float:
    try:
        number = float(value)  # a string too: YAML reads 1e-6 as one
    except (TypeError, ValueError):
        number = 0.0
    if isinstance(value, bool) or not 0 < number < float("inf"):
        raise SnapshotError(f"config.json says {name} = {value!r}, which is no positive number.")
    return number


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise SnapshotError(f"config.json says {name} = {value!r}; true or false is expected.")
    return value


def disagreements(raw: Mapping[str, Any], shown: Mapping[str, bool]) -> list[str]:
    """What config.json says of biases and norms that the tensors do not show, in words.

    Args:
        raw: config.json.
        shown: `attention_bias`, `mlp_bias`, `bias` (any) and `query_key_norm`, by the tensors.
    """
    return [
        f"{name} = {json.dumps(raw[name])} in config.json, and the tensors "
        + ("have them" if shown[field] else "have none")
        for field, names in _SHOWN.items()
        for name in names
        if _says(raw, name) and bool(raw[name]) is not shown[field]
    ]


def _attention_type(raw: Mapping[str, Any]) -> dict[str, Any]:
    """XSA where it is stated as a kind of attention, as in `"attention_type": "gqa_xsa"`."""
    kinds = {name: str(raw[name]).lower() for name in _ATTENTION_TYPES if _says(raw, name)}
    if other := {name: kind for name, kind in kinds.items() if re.search(_OTHER_ATTENTION, kind)}:
        raise UnsupportedModelError(
            "config.json asks for attention that AtomForCausalLM does not compute: "
            + "; ".join(f"{name} = {kind!r}" for name, kind in other.items())
        )
    named = any(re.search("xs[ae]|exclusive", kind) for kind in kinds.values())
    return {"exclusive_self_attention": True} if named else {}


def _refuse_other_activations(raw: Mapping[str, Any]) -> None:
    for name in _ACTIVATION:
        if _says(raw, name) and str(raw[name]).lower() not in _SILU:
            raise UnsupportedModelError(
                f"config.json says {name} = {raw[name]!r}; AtomForCausalLM computes gated SiLU."
            )


def _refuse_unknown_xsa(raw: Mapping[str, Any]) -> None:
    known = {*_FLAGS["xsa"], "xsa_eps", "xsa_epsilon"}
    unknown = [
        f"{name} = {value!r}"
        for name, value in raw.items()
        if re.search("(^|_)xs[ae](_|$)|exclusive", name) and name not in known
    ]
    if unknown:
        raise UnsupportedModelError(
            "config.json has options of exclusive self attention that are not known here: "
            + "; ".join(unknown)
        )
