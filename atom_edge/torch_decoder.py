"""A causal language model of transformers as a function of tensors: the one way it is called.

What is traced, compared and evaluated is this module, whatever class the model has. With B batch, T
new tokens, P tokens in the cache, S = P + T, K key-value heads, D head size, V vocabulary; K and D
may differ from layer to layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from atom_edge.errors import UnsupportedModelError
from atom_edge.transformers_versions import cache_argument, cache_in

Masks = Literal["full", "window", "by kind"]
"""What a model wants as its attention mask: the causal one, the causal one within its sliding
window, or both under the names of transformers' kinds of layers."""

MASKS: tuple[Masks, ...] = get_args(Masks)
_LOWEST = torch.finfo(torch.float32).min


class TensorCache(DynamicCache):
    """transformers' cache over tensors that are given: it appends, and knows no more than shapes.

    Args:
        past: key and value of each layer in turn, `[B, K, P, D]`.
    """

    def __init__(self, past: Sequence[Tensor]) -> None:
        super().__init__()
        self.past = past
        self.present = list(past)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens before the new ones."""
        return self.past[2 * layer_idx].shape[2]

    def get_max_cache_shape(self, *_: object) -> int:
        """No maximum, as transformers writes it."""
        return -1

    def get_mask_sizes(self, new: Any, layer_idx: int = 0) -> tuple[int, int]:
        """Length of a mask over past and `new` tokens (a number, or their places); its offset."""
        tokens = new if isinstance(new, int) else new.shape[0]
        return self.get_seq_length(layer_idx) + tokens, 0

    @property
    def is_sliding(self) -> list[bool]:
        """Every layer keeps all of its tokens."""
        return [False] * len(self)

    @property
    def is_compileable(self) -> bool:
        """Its length is not fixed."""
        return False

    def __len__(self) -> int:
        return len(self.past) // 2

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: object, **__: object
    ) -> tuple[Tensor, Tensor]:
        """Append to a layer; its key and value `[B, K, S, D]`."""
        places = slice(2 * layer_idx, 2 * layer_idx + 2)
        past_key, past_value = self.past[places]
        key = torch.cat((past_key, key_states), dim=2)
        value = torch.cat((past_value, value_states), dim=2)
        self.present[places] = [key, value]
        return key, value


class TorchDecoder(nn.Module):
    """A causal language model as a function of tokens and cache.

    Args:
        model: in evaluation mode.
        context_length: tokens that it takes at most; its `max_position_embeddings` when None.
        masks: what it wants as attention mask.
        window: of its sliding attention: the tokens that one sees, itself included.

    Raises:
        UnsupportedModelError: if it keeps no cache of keys and values.
    """

    model: Any  # a class of transformers, none of which has types

    def __init__(
        self,
        model: nn.Module,
        *,
        context_length: int | None = None,
        masks: Masks = "full",
        window: int | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.context_length: int = context_length or self.model.config.max_position_embeddings
        self.masks = masks
        self.window = window
        self.cache_shapes = cache_shapes(model)
        self._cache_argument = cache_argument(model)
        self.eval()

    def empty_cache(self, batch: int, tokens: int = 0) -> list[Tensor]:
        """A cache of no tokens, or of `tokens` random ones, for a batch of so many sequences."""
        return [torch.randn(batch, heads, tokens, width) for heads, width in self.cache_shapes]

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        past: Sequence[Tensor],
    ) -> tuple[Tensor, ...]:
        """Run the model over new tokens.

        Args:
            input_ids: int64 `[B, T]`.
            attention_mask: int64 `[B, S]`, 1 for a token, 0 for padding.
            position_ids: int64 `[B, T]`.
            past: the cache: key and value of each layer in turn, float `[B, K, P, D]`.

        Returns:
            logits `[B, T, V]`, then the cache `[B, K, S, D]`.
        """
        batch, tokens = input_ids.shape
        # State the equal sizes up front: the tracer need not prove them at every operator.
        for other in (attention_mask, position_ids, *past):
            torch._check(other.shape[0] == batch)
        torch._check(position_ids.shape[1] == tokens)
        for other in past:
            torch._check(other.shape[2] == past[0].shape[2])
        torch._check(past[0].shape[2] + tokens == attention_mask.shape[1])
        cache = TensorCache(past)
        output = self.model(
            input_ids=input_ids,
            attention_mask=self._masks(attention_mask, position_ids),
            position_ids=position_ids,
            use_cache=True,
            **{self._cache_argument: cache},
        )
        return (output.logits, *cache.present)

    def _masks(self, attention_mask: Tensor, position_ids: Tensor) -> Tensor | dict[str, Tensor]:
        full = causal_bias(attention_mask, position_ids.shape[1])
        if self.masks == "full" or self.window is None:
            return full
        # By position and not by place: padding may lie between two tokens.
        places = attention_mask.cumsum(1) - 1
        distance = position_ids[:, :, None] - places[:, None, :]
        windowed = torch.where((distance < self.window)[:, None], full, _LOWEST)
        if self.masks == "window":
            return windowed
        return {"full_attention": full, "sliding_attention": windowed}


@torch.no_grad()
def cache_shapes(model: nn.Module) -> list[tuple[int, int]]:
    """K and D of each tensor of a model's cache: key and value of each layer in turn.

    Raises:
        UnsupportedModelError: if it keeps none.
    """
    output = model(input_ids=torch.zeros(1, 1, dtype=torch.long), use_cache=True, return_dict=True)
    layers = getattr(cache_in(output), "layers", None) or [None]
    parts = [getattr(layer, part, None) for layer in layers for part in ("keys", "values")]
    if not all(isinstance(part, Tensor) and part.dim() == 4 for part in parts):
        raise UnsupportedModelError(
            f"{type(model).__name__} keeps no cache of keys and values for each layer, and so "
            "cannot be exported."
        )
    return [(part.shape[1], part.shape[3]) for part in parts if part is not None]


def causal_bias(attention_mask: Tensor, tokens: int) -> Tensor:
    """What is added to the scores: 0 where a new token may look, the lowest float elsewhere.

    Args:
        attention_mask: int64 `[B, S]`.
        tokens: T, the new ones; they are the last of S.

    Returns:
        float32 `[B, 1, T, S]`.
    """
    total = attention_mask.shape[1]
    columns = torch.arange(total, device=attention_mask.device)
    rows = torch.arange(tokens, device=attention_mask.device) + (total - tokens)
    visible = columns[None, :] <= rows[:, None]
    visible = visible[None, None] & (attention_mask[:, None, None, :] != 0)
    return torch.where(visible, 0.0, _LOWEST)
