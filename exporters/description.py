"""A Llama-shaped decoder as the native operator computes it: sizes, options, float32 weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from atom_edge.exporters.packed import Floats
from atom_edge.modeling import AtomForCausalLM
from atom_edge.rotary import inverse_frequencies


@dataclass(frozen=True)
class Linear:
    """A product with float32 weights `[N, K]` and, perhaps, a bias `[N]`."""

    weight: Floats
    bias: Floats | None = None


@dataclass(frozen=True)
class Layer:
    """Weights of one layer. E hidden size, H heads, K key-value heads, D head size, F feed-forward.

    Attributes:
        attention_norm: `[E]`.
        query: `[H * D, E]`.
        key: `[K * D, E]`, and `value` likewise.
        value: see `key`.
        attention_output: `[E, H * D]`.
        feed_forward_norm: `[E]`.
        gate: `[F, E]`, and `up` likewise.
        up: see `gate`.
        down: `[E, F]`.
        query_norm: `[D]`, of each head before it is rotated.
        key_norm: likewise.
        rotated: whether queries and keys are rotated.
    """

    attention_norm: Floats
    query: Linear
    key: Linear
    value: Linear
    attention_output: Linear
    feed_forward_norm: Floats
    gate: Linear
    up: Linear
    down: Linear
    query_norm: Floats | None = None
    key_norm: Floats | None = None
    rotated: bool = True


@dataclass(frozen=True)
class Description:
    """A Llama-shaped decoder in float32, as the operator can compute it.

    Attributes:
        embedding: `[vocabulary, E]`.
        layers: the layers.
        final_norm: `[E]`.
        inverse_frequencies: `[R]`: of each head, the first R values are rotated with the next R.
        heads: query heads; a multiple of `kv_heads`.
        kv_heads: key-value heads.
        head_size: D.
        head: of the logits; None if the embedding serves.
        epsilon: of every norm.
        rotary_scale: factor of cosines and sines.
        attention_scale: factor of the scores; None for D ** -0.5.
        embedding_scale: factor of the embedding.
        residual_scale: factor of what a layer adds.
        logit_scale: factor of the logits.
        exclusive: XSA.
    """

    embedding: Floats
    layers: Sequence[Layer]
    final_norm: Floats
    inverse_frequencies: Floats
    heads: int
    kv_heads: int
    head_size: int
    head: Linear | None = None
    epsilon: float = 1e-6
    rotary_scale: float = 1.0
    attention_scale: float | None = None
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    logit_scale: float = 1.0
    exclusive: bool = False


def describe(model: AtomForCausalLM) -> Description:
    """The operator's view of a PyTorch model."""
    config = model.config
    state = {name: value.detach().float().numpy() for name, value in model.state_dict().items()}

    def linear(name: str) -> Linear:
        return Linear(state[f"{name}.weight"], state.get(f"{name}.bias"))

    def layer(index: int) -> Layer:
        prefix = f"model.layers.{index}"
        attention, feed_forward = f"{prefix}.self_attn", f"{prefix}.mlp"
        return Layer(
            attention_norm=state[f"{prefix}.input_layernorm.weight"],
            query=linear(f"{attention}.q_proj"),
            key=linear(f"{attention}.k_proj"),
            value=linear(f"{attention}.v_proj"),
            attention_output=linear(f"{attention}.o_proj"),
            feed_forward_norm=state[f"{prefix}.post_attention_layernorm.weight"],
            gate=linear(f"{feed_forward}.gate_proj"),
            up=linear(f"{feed_forward}.up_proj"),
            down=linear(f"{feed_forward}.down_proj"),
            query_norm=state.get(f"{attention}.q_norm.weight"),
            key_norm=state.get(f"{attention}.k_norm.weight"),
            rotated=index not in config.unrotated_layers,
        )

    frequencies, rotary_scale = inverse_frequencies(config)
    tied = config.tie_word_embeddings
    return Description(
        embedding=state["model.embed_tokens.weight"],
        layers=[layer(index) for index in range(config.num_hidden_layers)],
        final_norm=state["model.norm.weight"],
        inverse_frequencies=frequencies.numpy(),
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_size=config.head_dim,
        head=None if tied else linear("lm_head"),
        epsilon=config.rms_norm_eps,
        rotary_scale=rotary_scale,
        attention_scale=config.attention_multiplier,
        embedding_scale=config.embedding_multiplier,
        residual_scale=config.residual_multiplier,
        logit_scale=1 / config.logits_scaling,
        exclusive=config.xsa,
    )
