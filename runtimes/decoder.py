"""The model as a function of tokens: a graph, and the KV cache of one sequence over it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from atom_edge.errors import BundleError, GenerationError

if TYPE_CHECKING:
    import onnxruntime

Ids = NDArray[np.int64]
Logits = NDArray[np.float32]
Cache = list[NDArray[Any]]

_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


class Decoder(Protocol):
    """One sequence of tokens and what the model remembers of it.

    Attributes:
        looks_ahead: set by a caller that feeds the likeliest token each time: the text may then
            repeat itself, and a decoder that can may compute tokens before they are fed.
    """

    looks_ahead: bool

    @property
    def token_ids(self) -> Sequence[int]:
        """The tokens in the cache."""
        ...

    def feed(self, token_ids: Sequence[int]) -> Logits:
        """Append tokens; return float32 `[vocab]`, the logits of what follows the last one.

        The array may be overwritten by the next call.
        """
        ...

    def crop(self, length: int) -> None:
        """Forget all tokens but the first `length`; 0 forgets everything."""
        ...


class Graph(Protocol):
    """Logits and the extended cache from tokens and a cache: what `PortableGraph` computes."""

    def empty_cache(self, batch_size: int = 1) -> Cache:
        """A cache of no tokens."""
        ...

    def run(
        self, input_ids: Ids, attention_mask: Ids, cache: Cache, position_ids: Ids
    ) -> tuple[Logits, Cache]:
        """Logits `[B, T, V]` and the cache `[B, K, S, D]` after T new tokens."""
        ...


class PortableGraph:
    """The graph of role "model": logits and the extended cache from tokens and a cache.

    It keeps no state, so that threads may share it. B is the batch, T the new tokens, P those in
    the cache, S = P + T, K key-value heads, D head size, V the vocabulary; K, D, V and the number
    of cache tensors are read from the graph.
    """

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session = session
        self._cache_inputs = [
            value for value in session.get_inputs() if value.name.startswith("past_key_values.")
        ]
        self._cache_names = [value.name for value in self._cache_inputs]
        self._outputs = [
            "logits",
            *(name.replace("past_key_values", "present") for name in self._cache_names),
        ]
        self._check()
        self.vocab_size: int = session.get_outputs()[0].shape[2]

    def _check(self) -> None:
        expected = {"input_ids", "attention_mask", "position_ids", *self._cache_names}
        inputs = {value.name for value in self._session.get_inputs()}
        outputs = {value.name for value in self._session.get_outputs()}
        if not self._cache_names or inputs != expected or outputs != set(self._outputs):
            raise BundleError(
                "The graph is not a decoder with its KV cache: its inputs are "
                f"{sorted(inputs)} and its outputs {sorted(outputs)}."
            )

    def empty_cache(self, batch_size: int = 1) -> Cache:
        """A cache of no tokens: `[B, K, 0, D]` for each input of it."""
        return [
            np.zeros((batch_size, value.shape[1], 0, value.shape[3]), _DTYPES[value.type])
            for value in self._cache_inputs
        ]

    def run(
        self,
        input_ids: Ids,
        attention_mask: Ids | None = None,
        cache: Cache | None = None,
        position_ids: Ids | None = None,
    ) -> tuple[Logits, Cache]:
        """Run the graph once.

        Args:
            input_ids: `[B, T]`; shorter sequences of a batch are padded on the left.
            attention_mask: `[B, S]`, 1 for a token and 0 for padding; all ones when None.
            cache: `[B, K, P, D]` each, as the run before returned it; empty when None.
            position_ids: `[B, T]`; by default they count the ones of the mask from 0 on.

        Returns:
            logits `[B, T, V]` and the cache `[B, K, S, D]`.
        """
        if cache is None:
            cache = self.empty_cache(len(input_ids))
        past = cache[0].shape[2]
        if attention_mask is None:
            attention_mask = np.ones((len(input_ids), past + input_ids.shape[1]), np.int64)
        if position_ids is None:
            position_ids = np.maximum(attention_mask.cumsum(axis=1) - 1, 0)[:, past:]
        feeds: dict[str, NDArray[Any]] = dict(zip(self._cache_names, cache, strict=True))
        feeds["input_ids"] = input_ids
        feeds["attention_mask"] = attention_mask
        feeds["position_ids"] = position_ids
        logits, *present = self._session.run(self._outputs, feeds)
        return logits, present


class PortableDecoder:
    """A `Decoder` over such a graph; its cache grows by concatenation."""

    def __init__(self, graph: Graph, context_length: int) -> None:
        self._graph = graph
        self._cache = graph.empty_cache()
        self._positions = np.arange(context_length, dtype=np.int64)[None]
        self._mask = np.ones((1, context_length), np.int64)
        self._context_length = context_length
        self.token_ids: list[int] = []
        self.looks_ahead = False  # it cannot

    def feed(self, token_ids: Sequence[int]) -> Logits:
        """Append tokens; return float32 `[vocab]`, the logits of what follows the last one.

        Raises:
            GenerationError: if there are no tokens, or more than the context holds.
        """
        start = len(self.token_ids)
        end = start + len(token_ids)
        if not start < end <= self._context_length:
            raise GenerationError(
                f"{len(token_ids)} tokens cannot follow {start} in a context of "
                f"{self._context_length}."
            )
        logits, self._cache = self._graph.run(
            np.array([token_ids], np.int64),
            self._mask[:, :end],
            self._cache,
            self._positions[:, start:end],
        )
        self.token_ids += token_ids
        last: Logits = logits[0, -1]
        return last

    def crop(self, length: int) -> None:
        """Forget all tokens but the first `length`."""
        if length < len(self.token_ids):
            self._cache = [np.ascontiguousarray(part[:, :, :length]) for part in self._cache]
            del self.token_ids[length:]
