"""The portable graph as a function of arrays: what validation and measurements call."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from atom_edge.errors import ExportError

Cache = list[npt.NDArray[np.float32]]


class PortableGraph:
    """An onnxruntime session over the graph that `trace` describes; keeps no state."""

    def __init__(self, path: Path, threads: int | None = None) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = 3
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

    def run(
        self,
        ids: npt.NDArray[np.int64],
        mask: npt.NDArray[np.int64] | None = None,
        past: Cache | None = None,
    ) -> tuple[npt.NDArray[np.float32], Cache]:
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
