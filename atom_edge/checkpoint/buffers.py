"""Tensors that older checkpoints store and that the model computes itself.

Only what is on these lists is left out, and a mask only if it is the causal one.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

_ROTARY = re.compile(
    r"(?:.*\.)?(?:inv_freq|cos|sin|cos_cached|sin_cached|cos_cache|sin_cache|rotary_cos|rotary_sin"
    r"|rope_cos|rope_sin|freqs|freqs_cis|freqs_cos|freqs_sin)"
)
_MASK = re.compile(r"(?:.*\.)?(?:bias|mask|causal_mask|tril|attn_mask)")
_FILL = re.compile(r".*\.masked_bias")


def is_buffer(name: str, tensor: Tensor) -> bool:
    """Whether a tensor is a rotary table, a causal mask or a mask's fill value."""
    if _ROTARY.fullmatch(name):
        return True
    if _FILL.fullmatch(name):
        return tensor.numel() == 1
    return bool(_MASK.fullmatch(name)) and _is_causal(tensor)


def _is_causal(tensor: Tensor) -> bool:
    """Whether `[..., T, T]` is zero exactly above, or exactly up to, its diagonal."""
    if tensor.dim() < 2 or tensor.shape[-1] != tensor.shape[-2]:
        return False
    lower = torch.ones_like(tensor, dtype=torch.bool).tril()
    return any(torch.equal(tensor != 0, pattern) for pattern in (lower, ~lower))
