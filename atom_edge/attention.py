"""Attention as functions of tensors: grouped queries, and XSA.

Shapes: B batch, T new tokens, S tokens in the cache after them, H query heads, K key-value heads, D
head size.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Keeps the direction of a zero value vector defined; far below the square of any real one.
_XSA_MIN_SQUARED_NORM = 1e-20


def exclude_own_value(output: Tensor, value: Tensor) -> Tensor:
    """Exclusive self attention: remove from `output` its part along the token's own value.

    `z = y - (y . v) v / |v|^2` for each query head (arXiv 2603.09078).

    Args:
        output: attention output `[B, T, H, D]`.
        value: the tokens' own values `[B, T, K, D]`; H is a multiple of K.
    """
    batch, tokens, heads, width = output.shape
    kv_heads = value.shape[2]
    grouped = output.view(batch, tokens, kv_heads, heads // kv_heads, width)
    wide = value.float()
    squared_norm = wide.square().sum(-1, keepdim=True).clamp_min(_XSA_MIN_SQUARED_NORM)
    direction = (wide * torch.rsqrt(squared_norm)).to(output.dtype).unsqueeze(3)
    along = (grouped * direction).sum(-1, keepdim=True)
    return (grouped - along * direction).reshape(batch, tokens, heads, width)


def eager_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """Attention as plain products, the form in which the model is traced.

    The query heads that share a key-value head are laid out as rows of one product, so that keys
    and values are never repeated.

    Args:
        module: the layer that calls.
        query: `[B, H, T, D]`.
        key: `[B, K, S, D]`; `value` likewise.
        value: see `key`.
        attention_mask: added to the scores, `[B, 1, T, S]`; None is causal over `S == T`.
        scaling: factor of the scores.
        dropout: must be 0.

    Returns:
        output `[B, T, H, D]` and weights `[B, H, T, S]`.
    """
    batch, heads, tokens, width = query.shape
    kv_heads = key.shape[1]
    groups = heads // kv_heads
    if attention_mask is None:
        hidden = torch.full((tokens, tokens), torch.finfo(query.dtype).min, device=query.device)
        attention_mask = hidden.triu(1)[None, None].to(query.dtype)
    grouped = query.reshape(batch, kv_heads, groups, tokens, width)
    scores = torch.matmul(grouped, key.unsqueeze(2).transpose(-1, -2)) * scaling
    weights = F.softmax(scores + attention_mask.unsqueeze(2), dim=-1, dtype=torch.float32)
    output = torch.matmul(weights.to(value.dtype), value.unsqueeze(2))
    output = output.reshape(batch, heads, tokens, width).transpose(1, 2)
    return output, weights.reshape(batch, heads, tokens, -1)
