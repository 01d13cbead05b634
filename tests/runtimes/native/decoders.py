"""Decoders to run through the operator: random ones of any shape, and a bare driver."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from atom_edge.exporters.description import Description, Layer, Linear
from atom_edge.exporters.native import PAGE_TOKENS
from atom_edge.runtimes import native

Ids = NDArray[np.int64]
Floats = NDArray[np.float32]


def random_decoder(
    random: np.random.Generator,
    *,
    layers: int = 2,
    hidden: int = 48,
    heads: int = 4,
    kv_heads: int = 2,
    head_size: int = 16,
    feed_forward: int = 80,
    vocabulary: int = 100,
    tied: bool = True,
    biases: bool = False,
    norms: bool = False,
    rotary_pairs: int | None = None,
    unrotated: Sequence[int] = (),
    **options: Any,
) -> Description:
    """A decoder with random weights; norms and biases are given where asked for."""

    def normal(*shape: int, scale: float = 1.0) -> Floats:
        return random.normal(0, scale, shape).astype(np.float32)

    def linear(outputs: int, inputs: int) -> Linear:
        bias = normal(outputs, scale=0.3) if biases else None
        return Linear(normal(outputs, inputs, scale=inputs**-0.5), bias)

    def layer(index: int) -> Layer:
        return Layer(
            attention_norm=1 + normal(hidden, scale=0.2),
            query=linear(heads * head_size, hidden),
            key=linear(kv_heads * head_size, hidden),
            value=linear(kv_heads * head_size, hidden),
            attention_output=linear(hidden, heads * head_size),
            feed_forward_norm=1 + normal(hidden, scale=0.2),
            gate=linear(feed_forward, hidden),
            up=linear(feed_forward, hidden),
            down=linear(hidden, feed_forward),
            query_norm=1 + normal(head_size, scale=0.2) if norms else None,
            key_norm=1 + normal(head_size, scale=0.2) if norms else None,
            rotated=index not in unrotated,
        )

    pairs = head_size // 2 if rotary_pairs is None else rotary_pairs
    return Description(
        embedding=normal(vocabulary, hidden),
        layers=[layer(index) for index in range(layers)],
        final_norm=1 + normal(hidden, scale=0.2),
        inverse_frequencies=(100.0 ** (-np.arange(pairs) / max(pairs, 1))).astype(np.float32),
        heads=heads,
        kv_heads=kv_heads,
        head_size=head_size,
        head=None if tied else linear(vocabulary, hidden),
        **options,
    )


def open_session(model: onnx.ModelProto, threads: int = 1) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    native.register(options)
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


class Sequences:
    """B sequences over a cache of their own, each with its pages somewhere in it."""

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        batch: int = 1,
        context: int = 96,
        seed: int = 0,
    ) -> None:
        self.session = session
        pages = -(-context // PAGE_TOKENS)
        shape = next(value.shape for value in session.get_inputs() if value.name == "cache")
        # What nobody has written must not matter.
        self.cache = np.full((batch * pages, *shape[1:]), np.nan, np.float32)
        self.pages = np.random.default_rng(seed).permutation(batch * pages).reshape(batch, pages)
        self.lengths = np.zeros(batch, np.int64)

    def feeds(self, ids: Ids, counts: Ids | None = None, rows: Ids | None = None) -> dict[str, Any]:
        batch, tokens = ids.shape
        counts = np.full(batch, tokens, np.int64) if counts is None else counts
        every = (np.arange(tokens) < counts[:, None]).ravel().nonzero()[0]
        return {
            "input_ids": ids,
            "counts": counts,
            "past_lengths": self.lengths,
            "logit_rows": every if rows is None else rows,
            "pages": self.pages,
            "cache": self.cache,
            "steps": np.zeros(1, np.int64),
            "end_ids": np.zeros(0, np.int64),
            "sampling": np.zeros((0, 5)),
            "seeds": np.zeros((0, 2), np.int64),
            "history": np.zeros((0, 0), np.int64),
            "alternatives": np.full(1, -1, np.int64),
        }

    def append(self, ids: Ids, counts: Ids | None = None, rows: Ids | None = None) -> Floats:
        """Append tokens; logits of all of them, or of `rows`."""
        feeds = self.feeds(ids, counts, rows)
        logits, self.cache = self.session.run(["logits", "cache_out"], feeds)
        self.lengths = self.lengths + feeds["counts"]
        return logits


def reference_logits(decoder: Description, ids: Ids) -> Floats:
    """Logits `[T, V]` of int64 `[T]` in float64, plainly."""
    size, groups = decoder.head_size, decoder.heads // decoder.kv_heads
    tokens, pairs = len(ids), len(decoder.inverse_frequencies)
    angles = np.arange(tokens)[:, None] * decoder.inverse_frequencies.astype(float)
    cos, sin = (f(angles)[:, None] * decoder.rotary_scale for f in (np.cos, np.sin))
    scale = size**-0.5 if decoder.attention_scale is None else decoder.attention_scale

    def product(x: NDArray[Any], linear: Linear) -> NDArray[Any]:
        y = x @ linear.weight.astype(float).T
        return y if linear.bias is None else y + linear.bias

    def norm(x: NDArray[Any], weight: Floats | None) -> NDArray[Any]:
        if weight is None:
            return x
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + decoder.epsilon) * weight

    def rotate(x: NDArray[Any]) -> NDArray[Any]:
        first, second, rest = np.split(x, [pairs, 2 * pairs], axis=-1)
        return np.concatenate([first * cos - second * sin, second * cos + first * sin, rest], -1)

    x = decoder.embedding[ids].astype(float) * decoder.embedding_scale
    for layer in decoder.layers:
        y = norm(x, layer.attention_norm)
        query, key, value = (
            product(y, linear).reshape(tokens, -1, size)
            for linear in (layer.query, layer.key, layer.value)
        )
        query, key = norm(query, layer.query_norm), norm(key, layer.key_norm)
        if layer.rotated:
            query, key = rotate(query), rotate(key)
        key, value = np.repeat(key, groups, 1), np.repeat(value, groups, 1)
        scores = np.einsum("qhd,khd->hqk", query, key) * scale
        scores[:, ~np.tri(tokens, dtype=bool)] = -np.inf
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        y = np.einsum("hqk,khd->qhd", weights, value)
        if decoder.exclusive:
            along = (y * value).sum(-1, keepdims=True) / (value * value).sum(-1, keepdims=True)
            y = y - along * value
        x = x + product(y.reshape(tokens, -1), layer.attention_output) * decoder.residual_scale
        y = norm(x, layer.feed_forward_norm)
        gate, up = product(y, layer.gate), product(y, layer.up)
        x = x + product(gate / (1 + np.exp(-gate)) * up, layer.down) * decoder.residual_scale
    head = decoder.head or Linear(decoder.embedding)
    logits = product(norm(x, decoder.final_norm), head) * decoder.logit_scale
    return logits.astype(np.float32)
