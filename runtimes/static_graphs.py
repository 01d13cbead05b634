"""The graphs over a static cache, as sessions: `prefill`, `decode` and `check`.

B is the batch, T the new tokens, S the rows of the cache that a run sees, K key-value heads, D
head size, V the vocabulary; K, D, V and the number of cache tensors are read from the graphs.

    prefill   input_ids [B, T], past_length [B], logits_index [N], cache [B, K, S, D]
              -> logits [N, V] of the places b * T + t, cache
    decode    input_ids [1, 1], past_length [1], cache [1, K, S, D] -> logits [1, 1, V], cache
    check     as `prefill`, with the products of `decode`

Sequence b's tokens are rows `0 .. past_length[b]` of its cache.
"""

from __future__ import annotations

from collections import Counter
from functools import cached_property, partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from atom_edge.bundle import Bundle
from atom_edge.errors import BundleError
from atom_edge.runtimes.cpu import has_fast_blocks
from atom_edge.runtimes.providers import open_graph

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import onnxruntime

# Bytes of a graph whose products are too short for a second thread, even one that spins.
_SMALL = 8 * 2**20

Buffers = NDArray[np.float32]
Logits = NDArray[np.float32]


class StaticGraphs:
    """The sessions over a static cache; what they keep is safe to share among threads.

    Args:
        prefill: opens the graph for any number of new tokens.
        decode: opens the graph for one new token; None where `prefill` serves for that too.
        check: opens the graph for a few tokens that were guessed; None to guess none.

    Attributes:
        lookahead_is_exact: whether `check` and `decode` give the same bits; None until that is
            known.
        foreseen: tokens so far that a guess would have got right without `check`.
    """

    def __init__(
        self,
        prefill: Callable[[], onnxruntime.InferenceSession],
        decode: Callable[[], onnxruntime.InferenceSession] | None,
        check: Callable[[], onnxruntime.InferenceSession] | None = None,
    ) -> None:
        self._open_prefill, self._open_decode, self._open_check = prefill, decode, check
        self.lookahead_is_exact: bool | None = None if check and decode else False
        self.foreseen = 0
        self._agreed: Counter[int] = Counter()
        inputs = {value.name: value for value in self.prefill.get_inputs()}
        self.cache_names = [name for name in inputs if name.startswith("past_key_values.")]
        if not self.cache_names or not {"input_ids", "past_length", "logits_index"} < set(inputs):
            raise BundleError(
                f"The graph is not a decoder with a static cache: its inputs are {sorted(inputs)}."
            )
        _, self.kv_heads, _, self.head_size = inputs[self.cache_names[0]].shape
        self._spare: list[Buffers] = []
        self.vocab_size: int = self.prefill.get_outputs()[0].shape[-1]

    @classmethod
    def of(cls, bundle: Bundle, threads: int | None = None) -> StaticGraphs:
        """The graphs of a bundle that has them, on the CPU.

        Args:
            bundle: with a graph for the role "prefill".
            threads: of one run, at most; see `open_graph`. Graphs of less than 8 MB run on one: to
                wake a second takes longer than its part of a product would.
        """
        if bundle.graph("prefill").stat().st_size < _SMALL:
            threads = 1
        prefill = partial(open_graph, bundle.graph("prefill"), threads=threads)
        if "decode" not in bundle.roles or not has_fast_blocks():
            # Where products of blocks are slow, the graph for many tokens is faster for one.
            return cls(prefill, None)
        decode = partial(open_graph, bundle.graph("decode"), threads=threads)
        if "check" not in bundle.roles:
            return cls(prefill, decode)
        check = partial(open_graph, bundle.graph("check"), threads=threads)
        return cls(prefill, decode, check)

    @cached_property
    def prefill(self) -> onnxruntime.InferenceSession:
        """The session for any number of new tokens."""
        return self._open_prefill()

    @cached_property
    def decode(self) -> onnxruntime.InferenceSession | None:
        """The session for one new token of one sequence, opened when it is first needed."""
        return None if self._open_decode is None else self._open_decode()

    @cached_property
    def check(self) -> onnxruntime.InferenceSession:
        """The session for a few guessed tokens, opened when it is first needed."""
        assert self._open_check is not None
        return self._open_check()

    def compare(
        self, checked: Logits, stepped: Logits, *, guessed: int, trials: Mapping[int, int]
    ) -> None:
        """Learn whether lookahead is exact, from logits `[V]` of both ways to the same token.

        Args:
            checked: those of `check`.
            stepped: those of `decode`.
            guessed: of how many tokens guessed at once this is one; 0 of none.
            trials: by that number, how many equal logits are enough.
        """
        if not np.array_equal(checked, stepped):
            self.lookahead_is_exact = False
        elif guessed and self.lookahead_is_exact is None:
            self._agreed[guessed] += 1
            if all(self._agreed[width] >= enough for width, enough in trials.items()):
                self.lookahead_is_exact = True

    def take_buffers(self, shape: tuple[int, int]) -> Buffers:
        """float32 of `shape`: those given back last, if they fit; their numbers are finite.

        New memory costs a page fault every 4 KB: a tenth of the time to the first token.
        """
        try:
            spare = self._spare.pop()
        except IndexError:
            spare = np.empty((0, 0), np.float32)
        # Zeros, and not whatever was there: what is masked is still multiplied, by 0.
        return spare if spare.shape == shape else np.zeros(shape, np.float32)

    def give_back(self, buffers: Buffers) -> None:
        """Keep what a cache has no use for any more, for the next one."""
        if not self._spare:
            self._spare.append(buffers)
