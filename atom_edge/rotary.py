"""Rotary positions: the angles, plain or scaled to a longer context, and the rotation.

R is the number of pairs of a head that are rotated: the first R values of its rotated part with the
next R, in the half-split layout of Llama. What is behind them is left as it is.

Sources: RoFormer, arXiv 2104.09864, equation 34; position interpolation, arXiv 2306.15595
("linear"); YaRN, arXiv 2309.00071 ("yarn"); Llama 3.1's reference code ("llama3").
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from atom_edge.config import AtomConfig

Options = Mapping[str, Any]

# Bytes of tables that a graph may hold: those of 131,072 positions of 32 pairs would be 33 MB in
# every graph.
_LARGEST_TABLES = 4 * 2**20


def has_tables(config: AtomConfig) -> bool:
    """Whether the model keeps a table of all positions, and does not compute what it needs."""
    return 2 * 4 * config.max_position_embeddings * config.rotary_dim // 2 <= _LARGEST_TABLES


def rotary_tables(config: AtomConfig) -> tuple[Tensor, Tensor]:
    """Cosine and sine of every position's rotary angles, each float32 `[context, R]`."""
    return rotary_rows(config, torch.arange(config.max_position_embeddings))


def rotary_rows(config: AtomConfig, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the angles at integer `positions` `[...]`, each float32 `[..., R]`."""
    frequencies, factor = inverse_frequencies(config)
    angles = positions.unsqueeze(-1).float() * frequencies.to(positions.device)
    cos, sin = angles.cos(), angles.sin()
    return (cos, sin) if factor == 1 else (cos * factor, sin * factor)


def inverse_frequencies(config: AtomConfig) -> tuple[Tensor, float]:
    """What a position adds to each pair's angle, float32 `[R]`; the factor of cosine and sine."""
    exponents = torch.arange(0, config.rotary_dim, 2, dtype=torch.float32) / config.rotary_dim
    frequencies = 1.0 / (config.rope_theta**exponents)
    if config.rotary_scaling is None:
        return frequencies, 1.0
    return _SCALINGS[config.rotary_scaling["kind"]](frequencies, config)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the heads of `x` `[B, heads, T, D]` by `cos` and `sin` `[B, 1, T, R]`."""
    rotated = 2 * cos.shape[-1]
    if rotated < x.shape[-1]:
        turned, rest = x[..., :rotated], x[..., rotated:]
        return torch.cat((rotate(turned, cos, sin), rest), dim=-1)
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def _linear(frequencies: Tensor, config: AtomConfig) -> tuple[Tensor, float]:
    assert config.rotary_scaling is not None
    return frequencies / config.rotary_scaling["factor"], 1.0


def _llama3(frequencies: Tensor, config: AtomConfig) -> tuple[Tensor, float]:
    """Low frequencies are divided by the factor, high ones kept, those between interpolated."""
    options = config.rotary_scaling
    assert options is not None
    low, high = options["low_freq_factor"], options["high_freq_factor"]
    turns = options["original_max_position_embeddings"] * frequencies / (2 * math.pi)
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    return (1 - kept) * frequencies / options["factor"] + kept * frequencies, 1.0


def _yarn(frequencies: Tensor, config: AtomConfig) -> tuple[Tensor, float]:
    """Pairs that turn often within the original context are kept, others divided by the factor."""
    options = config.rotary_scaling
    assert options is not None
    factor = options["factor"]
    original = options.get("original_max_position_embeddings") or config.max_position_embeddings
    width, base = config.rotary_dim, config.rope_theta

    def pair_that_turns(times: float) -> float:
        return width * math.log(original / (times * 2 * math.pi)) / (2 * math.log(base))

    first = pair_that_turns(options.get("beta_fast") or 32)
    last = pair_that_turns(options.get("beta_slow") or 1)
    if options.get("truncate", True):
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, width - 1)
    pairs = torch.arange(width // 2, dtype=torch.float32)
    # The source avoids a division by zero so.
    divided = ((pairs - first) / (last - first if last != first else 0.001)).clamp(0, 1)
    scaled = divided * frequencies / factor + (1 - divided) * frequencies
    return scaled, _yarn_factor(options)


def _yarn_factor(options: Options) -> float:
    stated = options.get("attention_factor")
    if stated is not None:
        return float(stated)

    def temperature(multiplier: float) -> float:
        factor = options["factor"]
        return 1.0 if factor <= 1 else 0.1 * multiplier * math.log(factor) + 1.0

    over, under = options.get("mscale"), options.get("mscale_all_dim")
    return temperature(over) / temperature(under) if over and under else temperature(1)


_SCALINGS: Mapping[str, Callable[[Tensor, AtomConfig], tuple[Tensor, float]]] = {
    "linear": _linear,
    "llama3": _llama3,
    "yarn": _yarn,
}
