"""Atom in PyTorch, as a transformers model.

A Llama-shaped causal decoder (RMSNorm, rotary positions, grouped-query attention, gated SiLU) with
one addition, exclusive self attention: what a token's attention output has in common with the
token's own value vector is taken out of it. With its options it is also a Qwen2, Qwen3, SmolLM3 or
Granite. Parameters carry the names of transformers' Llama, norms of queries and keys Qwen3's.

Shapes below: B batch, T new tokens, S tokens in the cache after them, E hidden size.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    Cache,
    DynamicCache,
    GenerationMixin,
    PreTrainedModel,
)
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from atom_edge.attention import eager_attention_forward, exclude_own_value
from atom_edge.config import AtomConfig
from atom_edge.errors import GenerationError
from atom_edge.rotary import has_tables, rotary_rows, rotary_tables, rotate
from atom_edge.transformers_versions import cache_in, causal_mask


class AtomAttention(nn.Module):
    """Grouped-query attention with rotary positions and, if `config.xsa`, XSA."""

    is_causal = True

    def __init__(self, config: AtomConfig, layer_idx: int) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim = config.head_dim
        self.num_key_value_groups = config.num_attention_heads // config.num_key_value_heads
        self.scaling = config.attention_multiplier or config.head_dim**-0.5
        self.rotated = layer_idx not in config.unrotated_layers
        query_width = config.num_attention_heads * config.head_dim
        kv_width = config.num_key_value_heads * config.head_dim
        bias = config.attention_bias
        self.q_proj = nn.Linear(config.hidden_size, query_width, bias=bias)
        self.k_proj = nn.Linear(config.hidden_size, kv_width, bias=bias)
        self.v_proj = nn.Linear(config.hidden_size, kv_width, bias=bias)
        output_bias = config.attention_output_bias
        self.o_proj = nn.Linear(query_width, config.hidden_size, bias=output_bias)
        if config.query_key_norm:
            self.q_norm = nn.RMSNorm(config.head_dim, config.rms_norm_eps)
            self.k_norm = nn.RMSNorm(config.head_dim, config.rms_norm_eps)

    def forward(
        self,
        hidden_states: Tensor,
        rotary: tuple[Tensor, Tensor],
        attention_mask: Tensor | None,
        past_key_values: Cache | None,
        **kwargs: Any,
    ) -> Tensor:
        """Attend from `hidden_states` `[B, T, E]` to the cache and themselves; `[B, T, E]`."""
        shape = (*hidden_states.shape[:-1], -1, self.head_dim)
        query = self.q_proj(hidden_states).view(shape)
        key = self.k_proj(hidden_states).view(shape)
        own_value = self.v_proj(hidden_states).view(shape)
        if self.config.query_key_norm:
            query, key = self.q_norm(query), self.k_norm(key)
        query, key, value = (heads.transpose(1, 2) for heads in (query, key, own_value))
        if self.rotated:
            query, key = rotate(query, *rotary), rotate(key, *rotary)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)

        attend = eager_attention_forward
        if self.config._attn_implementation != "eager":
            attend = ALL_ATTENTION_FUNCTIONS[self.config._attn_implementation]
        output, _ = attend(
            self, query, key, value, attention_mask, dropout=0.0, scaling=self.scaling, **kwargs
        )
        if self.config.xsa:
            output = exclude_own_value(output, own_value)
        return self.o_proj(output.flatten(2))


class AtomMLP(nn.Module):
    """Gated SiLU feed-forward: `down(silu(gate(x)) * up(x))` (Shazeer, arXiv 2002.05202)."""

    def __init__(self, config: AtomConfig) -> None:
        super().__init__()
        hidden, width, bias = config.hidden_size, config.intermediate_size, config.mlp_bias
        self.gate_proj = nn.Linear(hidden, width, bias=bias)
        self.up_proj = nn.Linear(hidden, width, bias=bias)
        self.down_proj = nn.Linear(width, hidden, bias=bias)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Map `[B, T, E]` to `[B, T, E]`."""
        return self.down_proj(F.silu(self.gate_proj(hidden_states)) * self.up_proj(hidden_states))


class AtomDecoderLayer(GradientCheckpointingLayer):
    """Pre-norm attention and feed-forward, each added to the residual stream."""

    def __init__(self, config: AtomConfig, layer_idx: int) -> None:
        super().__init__()
        self.multiplier = config.residual_multiplier
        self.self_attn = AtomAttention(config, layer_idx)
        self.mlp = AtomMLP(config)
        self.input_layernorm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, hidden_states: Tensor, **attention: Any) -> Tensor:
        """Map `[B, T, E]` to `[B, T, E]`; `attention` is passed to `AtomAttention.forward`."""
        attended = self.self_attn(self.input_layernorm(hidden_states), **attention)
        hidden_states = hidden_states + _times(attended, self.multiplier)
        added = self.mlp(self.post_attention_layernorm(hidden_states))
        return hidden_states + _times(added, self.multiplier)


def _times(x: Tensor, multiplier: float) -> Tensor:
    # A product with 1 would stay in the traced graph.
    return x if multiplier == 1 else x * multiplier


class AtomPreTrainedModel(PreTrainedModel):
    """What the Atom models share with transformers: loading, saving, initialisation."""

    config_class = AtomConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ("AtomDecoderLayer",)
    _skip_keys_device_placement = ("past_key_values",)
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _can_compile_fullgraph = True
    _supports_attention_backend = True

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        return True  # transformers searches the source for a line that its versions write otherwise

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.RMSNorm):
            nn.init.ones_(module.weight)
        elif isinstance(module, AtomModel) and has_tables(self.config):
            # transformers 5 makes a model without memory first, and then what is in no file.
            cos, sin = rotary_tables(self.config)
            module.rotary_cos.copy_(cos)
            module.rotary_sin.copy_(sin)


class AtomModel(AtomPreTrainedModel):
    """The decoder without its output projection."""

    def __init__(self, config: AtomConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            AtomDecoderLayer(config, index) for index in range(config.num_hidden_layers)
        )
        self.norm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
        cos, sin = rotary_tables(config) if has_tables(config) else (None, None)
        self.register_buffer("rotary_cos", cos, persistent=False)
        self.register_buffer("rotary_sin", sin, persistent=False)
        self.gradient_checkpointing = False
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        cache_position: Tensor | None = None,
        cache: Cache | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Run the decoder over T new tokens.

        Args:
            input_ids: int64 `[B, T]`.
            attention_mask: 1 for tokens and 0 for padding, `[B, S]`, or a 4-D mask that is added
                to the scores, `[B, 1, T, S]`.
            position_ids: int64 `[B, T]`, each below the context; counted on when None.
            past_key_values: the cache, extended in place.
            inputs_embeds: `[B, T, E]` instead of `input_ids`.
            use_cache: whether to make and return a cache; `config.use_cache` when None.
            cache_position: int64 `[T]`, places of the new tokens in the cache.
            cache: `past_key_values` under the name that transformers 5 gives it.
            kwargs: passed to the attention function.

        Raises:
            GenerationError: when the tokens do not fit into the context.
        """
        past_key_values = cache if past_key_values is None else past_key_values
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        use_cache = self.config.use_cache if use_cache is None else use_cache
        if use_cache and past_key_values is None and not self.training:
            past_key_values = DynamicCache(config=self.config)

        tokens = inputs_embeds.shape[1]
        if cache_position is None:
            past = past_key_values.get_seq_length() if past_key_values is not None else 0
            cache_position = torch.arange(past, past + tokens, device=inputs_embeds.device)
        if position_ids is None:
            position_ids = cache_position.unsqueeze(0)
        self._check_context(tokens)

        # With neither cache nor padding the attention functions are causal by themselves.
        if attention_mask is not None or past_key_values is not None:
            attention_mask = causal_mask(
                config=self.config,
                embeddings=inputs_embeds,
                attention_mask=attention_mask,
                cache_position=cache_position,
                cache=past_key_values,
                position_ids=position_ids,
            )
        if self.rotary_cos is None:
            cos, sin = rotary_rows(self.config, position_ids)
        else:
            cos, sin = self.rotary_cos[position_ids], self.rotary_sin[position_ids]
        rotary = (
            cos.unsqueeze(1).to(inputs_embeds.dtype),
            sin.unsqueeze(1).to(inputs_embeds.dtype),
        )
        hidden_states = _times(inputs_embeds, self.config.embedding_multiplier)
        for layer in self.layers:
            hidden_states = layer(
                hidden_states,
                rotary=rotary,
                attention_mask=attention_mask,
                past_key_values=past_key_values,
                **kwargs,
            )
        # By position: the second field has another name in transformers 5.
        return BaseModelOutputWithPast(self.norm(hidden_states), past_key_values)

    def _check_context(self, tokens: int) -> None:
        context = self.config.max_position_embeddings
        # A tracer sees one length and must not take the answer for a constant.
        traced = torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None
        if not traced and tokens > context:
            raise GenerationError(
                f"{tokens} tokens do not fit into the model's context of {context}. "
                "Shorten the input."
            )


class AtomForCausalLM(AtomPreTrainedModel, GenerationMixin):
    """Atom with its output projection: logits of the next token at every position."""

    # transformers 4 reads the names alone; 5 reads what each of them is tied to.
    _tied_weights_keys: ClassVar = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: AtomConfig) -> None:
        super().__init__(config)
        self.model = AtomModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        cache_position: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        cache: Cache | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits of the next token, float `[B, T, vocab]`.

        Args:
            labels: int64 `[B, T]`, the input shifted by the loss itself; -100 is left out.
            logits_to_keep: only the last so many positions' logits; 0 is all of them.
            input_ids: see `AtomModel.forward`, also for the arguments not named here.
            attention_mask: see `AtomModel.forward`.
            position_ids: see `AtomModel.forward`.
            past_key_values: see `AtomModel.forward`.
            inputs_embeds: see `AtomModel.forward`.
            use_cache: see `AtomModel.forward`.
            cache_position: see `AtomModel.forward`.
            cache: see `AtomModel.forward`.
            kwargs: passed to the loss and to the attention function.
        """
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=cache if past_key_values is None else past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            cache_position=cache_position,
            **kwargs,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, kept])
        if self.config.logits_scaling != 1:
            logits = logits / self.config.logits_scaling
        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits=logits, labels=labels, vocab_size=self.vocab_size, **kwargs
            )
        return CausalLMOutputWithPast(loss, logits, cache_in(outputs))


def register() -> None:
    """Make transformers' Auto classes know `model_type: "atom"`; may be called again."""
    AutoConfig.register("atom", AtomConfig, exist_ok=True)
    AutoModel.register(AtomConfig, AtomModel, exist_ok=True)
    AutoModelForCausalLM.register(AtomConfig, AtomForCausalLM, exist_ok=True)


register()
