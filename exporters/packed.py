"""Weights as the native operator reads them: int8 in panels of sixteen outputs, scales beside them.

N outputs, K inputs, both padded with zeros to multiples of 16; S segments of the inputs that share
a scale. Integers lie as `[N / 16, K / 4, 16, 4]`, scales as `[N / 16, S, 16]`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PANEL = 16
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Packed:
    """A quantized matrix.

    Attributes:
        weights: int8 `[N / 16, K / 4, 16, 4]`.
        scales: the upper halves of float32, uint16 `[N / 16, S, 16]`: bfloat16.
    """

    weights: NDArray[np.int8]
    scales: NDArray[np.uint16]


def pad(array: Floats, *axes: int) -> Floats:
    """Zeros behind the axes, up to multiples of 16."""
    widths = [(0, -size % PANEL if axis in axes else 0) for axis, size in enumerate(array.shape)]
    return np.pad(array, widths)


def pack(matrix: Floats, segment: int) -> Packed:
    """Quantize float32 `[N, K]` symmetrically and pack it.

    Args:
        matrix: N and K are multiples of 16.
        segment: inputs that share a scale; 0 for all of a row. The last segment may be shorter.
    """
    outputs, inputs = matrix.shape
    segment = segment or inputs
    segments = -(-inputs // segment)
    blocks = np.pad(matrix, ((0, 0), (0, segments * segment - inputs)))
    blocks = blocks.reshape(outputs, segments, segment)
    scales = _bfloat16_above(np.abs(blocks).max(axis=2) / np.float32(127))
    divisors = np.where(scales > 0, scales, np.float32(1))[..., None]
    # A scale of few bits is rounded up: no weight leaves the range, and -128 never occurs.
    integers = np.clip(np.rint(blocks / divisors), -127, 127).astype(np.int8)
    integers = integers.reshape(outputs, -1)[:, :inputs]
    panels = integers.reshape(-1, PANEL, inputs // 4, 4).transpose(0, 2, 1, 3)
    halves = (scales.view(np.uint32) >> 16).astype(np.uint16)
    return Packed(
        np.ascontiguousarray(panels),
        np.ascontiguousarray(halves.reshape(-1, PANEL, segments).transpose(0, 2, 1)),
    )


def _bfloat16_above(values: Floats) -> Floats:
    """The least bfloat16 that is not below each value, which is not negative, as float32."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + np.uint32(0xFFFF)) & np.uint32(0xFFFF0000)).view(np.float32)
