"""Graphs over a static cache, and a way to validate them as the portable one is."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from atom_edge.exporters.passes import for_check, for_decode, for_prefill
from atom_edge.exporters.quantize import quantize
from atom_edge.exporters.quantize_dynamic import quantize_dynamic
from atom_edge.runtimes.engines.cuda import CudaEngine
from atom_edge.runtimes.engines.interface import Cache, Device, Tensors
from atom_edge.runtimes.engines.static import StaticEngine
from atom_edge.runtimes.providers import open_graph

DECODE_BLOCK = 64


def static_graphs(traced: ir.Model, *, int8: bool) -> dict[str, ir.Model]:
    """The graphs of roles `prefill`, `decode` and `check`; none where the passes decline.

    In float32 one graph serves for all. In int8 the products of one token and of many want
    different kernels, and so different weights; `check` runs a few tokens with those of one.

    Args:
        traced: what `trace` returned.
        int8: quantize them.
    """
    prefill = for_prefill(traced)
    if prefill is None:
        return {}
    if not int8:
        return {"prefill": prefill}
    graphs = {"prefill": quantize_dynamic(prefill)}
    decode, check = for_decode(traced), for_check(traced)
    if decode is not None and check is not None:
        graphs["decode"] = quantize(decode, DECODE_BLOCK)
        graphs["check"] = quantize(check, DECODE_BLOCK)
    return graphs


class StaticGraph:
    """Graphs over a static cache with the calls of a `PortableGraph`: what validation runs.

    Sequences that are padded on the left are moved to the left of a static cache, and back.

    Args:
        new_cache: makes an empty cache for a number of sequences.
    """

    def __init__(self, new_cache: Callable[[int], Cache]) -> None:
        self._new_cache = new_cache

    @classmethod
    def on_cpu(
        cls, prefill: Path, decode: Path | None, context_length: int, threads: int | None = None
    ) -> StaticGraph:
        """The graphs of roles `prefill` and `decode`; without the latter, the first for all."""
        engine = StaticEngine(
            partial(open_graph, prefill, threads=threads),
            None if decode is None else partial(open_graph, decode, threads=threads),
            context_length,
        )
        return cls(engine.new_cache)

    @classmethod
    def of_cuda(cls, file: Path, device: Device, context_length: int) -> StaticGraph:
        """The graph of role `cuda`, on a GPU or on the CPU."""
        return cls(CudaEngine(file, device, context_length).new_cache)

    def run(
        self,
        ids: npt.NDArray[np.int64],
        mask: npt.NDArray[np.int64] | None = None,
        past: Tensors | None = None,
    ) -> tuple[npt.NDArray[np.float32], Tensors]:
        """Feed new tokens; arguments and results are those of `PortableGraph.run`."""
        batch, tokens = ids.shape
        before = 0 if past is None else past[0].shape[2]
        total = before + tokens
        if mask is None:
            mask = np.ones((batch, total), np.int64)
        held, new = mask[:, :before].sum(axis=1), mask[:, before:].sum(axis=1)
        cache = self._new_cache(batch)
        if past is not None:
            cache.write([_to_left(part, before - held) for part in past], held)
        if batch == tokens == 1:
            logits = cache.step(ids[:, 0]).copy()[:, None]
        else:
            places = np.arange(batch * tokens)
            moved = _to_left(ids[:, None, :, None], tokens - new)[:, 0, :, 0]
            flat = cache.append(moved, new, places).reshape(batch, 1, tokens, -1)
            logits = _to_left(flat, new - tokens)[:, 0]
        return logits, [_to_left(part, held + new - total) for part in cache.read(total)]


def _to_left(array: npt.NDArray[np.generic], steps: npt.NDArray[np.int64]) -> npt.NDArray:  # type: ignore[type-arg]
    """`array` `[B, K, S, D]` with each sequence turned `steps[b]` places to the left."""
    return np.stack(
        [np.roll(part, -int(step), axis=1) for part, step in zip(array, steps, strict=True)]
    )
