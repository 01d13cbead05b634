"""The portable graph as foreign runtimes feed it: padded on the left, with a growing cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from atom_edge.errors import ExportError

Ids = npt.NDArray[np.int64]
Logits = npt.NDArray[np.float32]
Cache = list[npt.NDArray[np.float32]]
Rows = TypeVar("Rows", bound=npt.NDArray[Any])


class LeftPaddedGraph:
    """An onnxruntime session over the graph that `trace` describes; keeps no state."""

    def __init__(self, path: Path, threads: int | None = None) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        # An arena would keep what the largest of all runs took.
        options.enable_cpu_mem_arena = False
        # PyTorch computes on the same cores between two runs; idle threads must not spin on them.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            self._session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises its own unrelated types
            raise ExportError(f"onnxruntime cannot open the graph {path}: {error}") from error
        self._cache_inputs = [
            value for value in self._session.get_inputs() if value.name.startswith("past_")
        ]

    def new_cache(self, batch_size: int = 1) -> LeftPaddedCache:
        """An empty cache of so many sequences."""
        return LeftPaddedCache(self, batch_size)

    def run(
        self, ids: Ids, mask: Ids | None = None, past: Cache | None = None
    ) -> tuple[Logits, Cache]:
        """Feed new tokens.

        Args:
            ids: int64 `[B, T]`.
            mask: int64 `[B, S]`, 1 for a token; all ones when None. Positions count its ones.
            past: the cache of the S - T tokens before, as `run` returned it; empty when None.

        Returns:
            logits float32 `[B, T, V]`, and the cache, float32 `[B, K, S, D]` each.
        """
        batch, tokens = ids.shape
        if past is None:
            past = [
                np.zeros((batch, value.shape[1], 0, value.shape[3]), np.float32)
                for value in self._cache_inputs
            ]
        total = past[0].shape[2] + tokens
        if mask is None:
            mask = np.ones((batch, total), np.int64)
        positions = np.maximum(mask.cumsum(axis=1) - 1, 0)[:, total - tokens :]
        feeds = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
        feeds |= {value.name: array for value, array in zip(self._cache_inputs, past, strict=True)}
        logits, *cache = self._session.run(None, feeds)
        return logits, cache


class LeftPaddedCache:
    """The sequences of a batch, padded on the left wherever they differ in length."""

    def __init__(self, graph: LeftPaddedGraph, batch_size: int) -> None:
        self._graph = graph
        self._cache: Cache | None = None
        self._mask = np.zeros((batch_size, 0), np.int64)

    def append(
        self, token_ids: Ids, counts: Ids | None = None, places: Ids | None = None
    ) -> Logits:
        """Append tokens.

        Args:
            token_ids: int64 `[B, T]`, padded on the right.
            counts: int64 `[B]`, how many of them are real; all when None.
            places: int64 `[N]`, the tokens to give logits for, as `b * T + t`; the last real one
                of each sequence when None.

        Returns:
            logits float32 `[N, V]`.
        """
        batch, tokens = token_ids.shape
        counts = np.full(batch, tokens) if counts is None else counts
        padding = tokens - counts
        # A prompt is padded on the left. What comes later must follow it without a gap.
        left = padding if self._cache is None else np.zeros_like(padding)
        ids = _rolled(token_ids, left, 0)
        columns = np.arange(tokens)
        new = (columns >= left[:, None]) & (columns < (left + counts)[:, None])
        mask = np.concatenate([self._mask, new.astype(np.int64)], axis=1)
        logits, cache = self._graph.run(ids, mask, self._cache)
        right = padding - left
        self._mask = _rolled(mask, right, 0)
        self._cache = [_rolled(part, right, 1) for part in cache] if right.any() else cache
        if places is None:
            return logits[np.arange(batch), left + counts - 1]
        sequence, token = np.divmod(places, tokens)
        return logits[sequence, token + left[sequence]]

    def step(self, token_ids: Ids) -> Logits:
        """Append one token `[B]` to each sequence; logits float32 `[B, V]`."""
        return self.append(token_ids[:, None])


def _rolled(rows: Rows, by: Ids, axis: int) -> Rows:
    """Each of the `rows` moved to the right along its `axis`, what passes the end to the front."""
    moved = [np.roll(row, count, axis) for row, count in zip(rows, by.tolist(), strict=True)]
    return np.stack(moved)  # type: ignore[return-value]  # of the same dtype
