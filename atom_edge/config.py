"""The shape of the model.

`AtomConfig` holds Atom's own names and defaults. It refuses, by name, every feature of the wider
Llama family that `AtomForCausalLM` does not compute, so that no checkpoint is ever run as
something that it is not. Reading the names that other projects use is `atom_edge.checkpoint`'s
part.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PretrainedConfig

from atom_edge.errors import UnsupportedModelError

# Options that change what the model computes, with the values under which they change nothing.
_OFF = (None, False, 0)
_ONE = (None, 1)
_MUST_BE_OFF: Mapping[str, tuple[Any, ...]] = {
    # rotary embedding that is scaled, partial or absent
    "rope_scaling": (None, {}),
    "rope_parameters": (None, {}),
    "rope_scaling_factor": _ONE,
    "rope_condense_ratio": _ONE,
    "rope_adjustments": (None, {}),
    "use_scaled_rope": _OFF,
    "partial_rotary_factor": _ONE,
    "rotary_pct": _ONE,
    "rope_pct": _ONE,
    "rotary_percentage": _ONE,
    "no_rope_layers": (None, []),
    "use_rope": (None, True),
    "alibi": _OFF,
    "use_alibi": _OFF,
    # biases
    "qkv_bias": _OFF,
    "add_qkv_bias": _OFF,
    "attn_bias": _OFF,
    "use_bias": _OFF,
    "bias": _OFF,
    "add_bias_linear": _OFF,
    "lm_head_bias": _OFF,
    # attention that sees less, or is weighted otherwise
    "sliding_window": _OFF,
    "sliding_window_size": _OFF,
    "use_sliding_window": _OFF,
    "attention_window": _OFF,
    "window_size": _OFF,
    "attention_sinks": _OFF,
    "clip_qkv": _OFF,
    "kv_lora_rank": _OFF,
    "attn_logit_softcapping": _OFF,
    "attn_logit_softcap": _OFF,
    "attention_logit_softcapping": _OFF,
    "query_pre_attn_scalar": (None,),
    "attention_scale": (None,),
    "softmax_scale": (None,),
    "scale_attn_by_inverse_layer_idx": _OFF,
    # norms in other places or of another kind
    "use_qk_norm": _OFF,
    "qk_norm": _OFF,
    "qk_layernorm": _OFF,
    "norm_qk": _OFF,
    "post_norm": _OFF,
    "use_post_norm": _OFF,
    "post_attention_norm": _OFF,
    "post_mlp_norm": _OFF,
    "sandwich_norm": _OFF,
    "rmsnorm_add_unit_offset": _OFF,
    # the residual stream
    "parallel_residual": _OFF,
    "use_parallel_residual": _OFF,
    "parallel_attn": _OFF,
    "parallel_block": _OFF,
    "value_residual": _OFF,
    "use_value_residual": _OFF,
    "residual_scale": _ONE,
    "scale_depth": (None,),
    "num_loops": _ONE,
    "n_loops": _ONE,
    "num_kv_shared_layers": _OFF,
    # experts
    "num_experts": (*_OFF, 1),
    "n_experts": (*_OFF, 1),
    "n_expert": (*_OFF, 1),
    "num_local_experts": (*_OFF, 1),
    "n_routed_experts": _OFF,
    # embedding and logits
    "final_logit_softcapping": _OFF,
    "final_logit_softcap": _OFF,
    "logit_softcap": _OFF,
    "logit_softcapping": _OFF,
    "softcap": _OFF,
    "logit_scale": _ONE,
    "embedding_scale": _ONE,
    "scale_emb": _ONE,
    "scale_embedding": _OFF,
    "scale_embeddings": _OFF,
}
# Options that name a kind, with what the name must contain.
_MUST_NAME: Mapping[str, tuple[str, ...]] = {
    "norm_type": ("rms",),
    "norm_class": ("rms",),
    "norm_class_name": ("rms",),
    "normalization": ("rms",),
    "mlp_class_name": ("llama",),
    "mlp_type": ("swiglu", "silu", "gated"),
    "ffn_type": ("swiglu", "silu", "gated"),
    "position_embedding_type": ("rope", "rotary"),
    "pos_embedding_type": ("rope", "rotary"),
    "positional_encoding": ("rope", "rotary"),
    "position_encoding": ("rope", "rotary"),
}
# What may stand beside the default type of rotary embedding.
_UNSCALED_ROPE = {"rope_type", "rope_theta"}
_SILU_NAMES = ("silu", "swish")
# Of each kind of scaled rotary positions: the options that it needs, and those it may have.
_SCALINGS: Mapping[str, tuple[set[str], set[str]]] = {
    "linear": ({"factor"}, {"original_max_position_embeddings"}),
    "llama3": (
        {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"},
        set(),
    ),
    "yarn": (
        {"factor"},
        {
            *("original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow"),
            *("mscale", "mscale_all_dim", "truncate"),
        },
    ),
}


def scaling_problems(scaling: Mapping[str, Any] | None) -> list[str]:
    """What is wrong with the options of scaled rotary positions, a sentence each."""
    if scaling is None:
        return []
    kind = str(scaling.get("kind"))
    if kind not in _SCALINGS:
        return [f"rotary positions of kind {kind!r} (known are {', '.join(_SCALINGS)})"]
    needed, allowed = _SCALINGS[kind]
    given = {name for name, value in scaling.items() if value is not None} - {"kind"}
    problems = [f"{kind} rotary positions without {name}" for name in sorted(needed - given)]
    problems += [
        f"{kind} rotary positions with {name} = {scaling[name]!r}"
        for name in sorted(given)
        if name not in needed | allowed or not _is_option(name, scaling[name])
    ]
    return problems


def _is_option(name: str, value: Any) -> bool:
    if name == "truncate":
        return isinstance(value, bool)
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def refused_options(options: Mapping[str, Any]) -> list[str]:
    """The options, each as `name = value`, that ask for what `AtomForCausalLM` does not compute."""
    return [
        f"{name} = {value!r}"
        for name, value in options.items()
        if not _is_off(name, value) or not _is_named(name, value)
    ]


def _is_off(name: str, value: Any) -> bool:
    if name not in _MUST_BE_OFF:
        return True
    if name in ("rope_scaling", "rope_parameters") and isinstance(value, dict):
        # transformers writes {"rope_type": "default"} for unscaled rotary embeddings.
        return value.get("rope_type", "default") == "default" and set(value) <= _UNSCALED_ROPE
    return any(value is neutral or value == neutral for neutral in _MUST_BE_OFF[name])


def _is_named(name: str, value: Any) -> bool:
    if name == "layer_types":
        return value is None or set(value) <= {"full_attention"}
    wanted = _MUST_NAME.get(name)
    return wanted is None or value is None or any(part in str(value).lower() for part in wanted)


class AtomConfig(PretrainedConfig):
    """Configuration of `AtomForCausalLM`; the defaults are Atom 3.4M's, 3,412,800 parameters.

    Args:
        vocab_size: tokens in the vocabulary.
        hidden_size: width of the residual stream.
        intermediate_size: width of the gated feed-forward layer.
        num_hidden_layers: decoder layers.
        num_attention_heads: query heads of each layer.
        num_key_value_heads: key and value heads of each layer; divides `num_attention_heads`.
        head_dim: width of a head, even; `hidden_size / num_attention_heads` when None.
        max_position_embeddings: the context, in tokens; longer inputs are errors.
        rope_theta: base of the rotary position embedding (Su et al., arXiv 2104.09864).
        rms_norm_eps: epsilon of every RMSNorm (Zhang and Sennrich, arXiv 1910.07467).
        tie_word_embeddings: whether the output projection is the embedding matrix.
        xsa: exclusive self attention (arXiv 2603.09078); False computes a Llama model.
        attention_bias: whether queries, keys and values have biases, as in Qwen2.
        attention_output_bias: whether the attention's output has one.
        mlp_bias: whether the feed-forward layer has biases.
        query_key_norm: an RMSNorm over each query and key head before the rotation, as in Qwen3.
        rotary_dim: how much of each head is rotated, even; all of it when None.
        rotary_scaling: rotary positions of a longer context: `kind` (`linear`, `llama3` or `yarn`)
            and its options under the names that transformers gives them; None for plain ones.
        unrotated_layers: layers without positions, counted from 0, as in SmolLM3.
        embedding_multiplier: factor of the embedding, as in Granite, as the following.
        residual_multiplier: factor of what attention and feed-forward add to the residual stream.
        attention_multiplier: factor of the attention scores; `head_dim ** -0.5` when None.
        logits_scaling: what the logits are divided by.

    Raises:
        UnsupportedModelError: for a shape that does not fit together, and for any option of
            related models that changes the computation and is not part of this model.
    """

    model_type = "atom"
    keys_to_ignore_at_inference = ("past_key_values",)

    def __init__(
        self,
        vocab_size: int = 4096,
        hidden_size: int = 192,
        intermediate_size: int = 480,
        num_hidden_layers: int = 7,
        num_attention_heads: int = 3,
        num_key_value_heads: int = 1,
        head_dim: int | None = None,
        max_position_embeddings: int = 512,
        rope_theta: float = 5000.0,
        rms_norm_eps: float = 1e-6,
        initializer_range: float = 0.02,
        hidden_act: str = "silu",
        tie_word_embeddings: bool = True,
        xsa: bool = True,
        attention_bias: bool = False,
        attention_output_bias: bool = False,
        mlp_bias: bool = False,
        query_key_norm: bool = False,
        rotary_dim: int | None = None,
        rotary_scaling: dict[str, Any] | None = None,
        unrotated_layers: Sequence[int] = (),
        embedding_multiplier: float = 1.0,
        residual_multiplier: float = 1.0,
        attention_multiplier: float | None = None,
        logits_scaling: float = 1.0,
        use_cache: bool = True,
        pad_token_id: int | None = 0,
        bos_token_id: int | None = 1,
        eos_token_id: int | list[int] | None = 2,
        **kwargs: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.intermediate_size = intermediate_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.num_key_value_heads = num_key_value_heads
        self.head_dim = head_dim or hidden_size // num_attention_heads
        self.max_position_embeddings = max_position_embeddings
        self.rope_theta = rope_theta
        self.rms_norm_eps = rms_norm_eps
        self.initializer_range = initializer_range
        self.hidden_act = hidden_act
        self.xsa = xsa
        self.attention_bias = attention_bias
        self.attention_output_bias = attention_output_bias
        self.mlp_bias = mlp_bias
        self.query_key_norm = query_key_norm
        self.rotary_dim = rotary_dim or self.head_dim
        self.rotary_scaling = rotary_scaling
        self.unrotated_layers = sorted(unrotated_layers)
        self.embedding_multiplier = embedding_multiplier
        self.residual_multiplier = residual_multiplier
        self.attention_multiplier = attention_multiplier
        self.logits_scaling = logits_scaling
        self.use_cache = use_cache
        self._refuse_unsupported(kwargs)
        super().__init__(
            tie_word_embeddings=tie_word_embeddings,
            pad_token_id=pad_token_id,
            bos_token_id=bos_token_id,
            eos_token_id=eos_token_id,
            **kwargs,
        )

    def _refuse_unsupported(self, extra: Mapping[str, Any]) -> None:
        problems = refused_options(extra)
        if self.hidden_act not in _SILU_NAMES:
            problems.append(f"hidden_act = {self.hidden_act!r} (only 'silu' is computed)")
        if self.num_attention_heads % self.num_key_value_heads:
            problems.append(
                f"num_attention_heads = {self.num_attention_heads} is not a multiple of "
                f"num_key_value_heads = {self.num_key_value_heads}"
            )
        if self.rotary_dim % 2:
            problems.append(f"rotary_dim = {self.rotary_dim} is odd, and pairs are rotated")
        if self.rotary_dim > self.head_dim:
            problems.append(f"rotary_dim = {self.rotary_dim} is over head_dim = {self.head_dim}")
        problems += scaling_problems(self.rotary_scaling)
        if problems:
            raise UnsupportedModelError(
                "This model configuration asks for what AtomForCausalLM does not compute: "
                + "; ".join(problems)
                + "."
            )
