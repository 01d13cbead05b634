"""The shape of the model.

`AtomConfig` holds Atom's own names and defaults. It refuses, by name, every feature of the wider
Llama family that `AtomForCausalLM` does not compute, so that no checkpoint is ever run as
something that it is not. Reading the names that other projects use is `atom_edge.checkpoint`'s
part.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import PretrainedConfig

from atom_edge.errors import UnsupportedModelError

# Options that change what the model computes, with the values under which they change nothing.
_MUST_BE_OFF: Mapping[str, tuple[Any, ...]] = {
    "rope_scaling": (None, {}),
    "partial_rotary_factor": (None, 1, 1.0),
    "attention_bias": (None, False),
    "qkv_bias": (None, False),
    "mlp_bias": (None, False),
    "use_bias": (None, False),
    "bias": (None, False),
    "sliding_window": (None, False, 0),
    "use_qk_norm": (None, False),
    "qk_norm": (None, False),
    "qk_layernorm": (None, False),
    "num_experts": (None, 0, 1),
    "num_local_experts": (None, 0, 1),
    "n_routed_experts": (None, 0),
    "attn_logit_softcapping": (None, 0, 0.0),
    "final_logit_softcapping": (None, 0, 0.0),
    "logit_scale": (None, 1, 1.0),
    "logits_scaling": (None, 1, 1.0),
    "embedding_multiplier": (None, 1, 1.0),
    "residual_multiplier": (None, 1, 1.0),
    "query_pre_attn_scalar": (None,),
    "attention_multiplier": (None,),
    "no_rope_layers": (None, []),
    "alibi": (None, False),
}
_SILU_NAMES = ("silu", "swish")


def refused_options(options: Mapping[str, Any]) -> list[str]:
    """The options, each as `name = value`, that ask for what `AtomForCausalLM` does not compute."""
    return [
        f"{name} = {options[name]!r}"
        for name, neutral in _MUST_BE_OFF.items()
        if name in options and not _is_off(options[name], neutral)
    ]


def _is_off(value: Any, neutral: tuple[Any, ...]) -> bool:
    if isinstance(value, dict):
        # transformers writes {"rope_type": "default"} for unscaled rotary embeddings.
        kind = value.get("rope_type", value.get("type", "default"))
        return value in neutral or kind == "default"
    return any(value is item or value == item for item in neutral)


class AtomConfig(PretrainedConfig):  # type: ignore[misc]
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
        if self.head_dim % 2:
            problems.append(f"head_dim = {self.head_dim} is odd, which rotary embedding excludes")
        if problems:
            raise UnsupportedModelError(
                "This model configuration asks for what AtomForCausalLM does not compute: "
                + "; ".join(problems)
                + ". Only plain Llama-shaped decoders, with or without XSA, can be opened."
            )
