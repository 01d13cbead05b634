"""Measuring a bundle: prompt processing and generation apart, in tokens a second.

As in llama.cpp's llama-bench, a test is repeated after a warm-up, and its result is the mean of
the repetitions with their standard deviation. What is measured is the graph with its cache and the
greedy choice; no text is made of the tokens.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from atom_edge.bundle import Bundle
from atom_edge.errors import GenerationError
from atom_edge.runtimes.engines import open_engine
from atom_edge.runtimes.engines.interface import Cache

# Any ordinary token will do: the work does not depend on which.
_TOKEN = 5
_LEAST, _ENOUGH = 5, 2.0  # repetitions, and seconds of them


@dataclass(frozen=True)
class Test:
    """What is measured.

    Attributes:
        prompt_tokens: tokens processed in one run; 0 for a test of generation.
        new_tokens: tokens generated one after the other; 0 for a test of prompt processing.
        position: tokens that are in the cache before.
        batch_size: sequences at a time.
        threads: threads of a run.
    """

    __test__ = False

    prompt_tokens: int
    new_tokens: int
    position: int
    batch_size: int
    threads: int

    @property
    def name(self) -> str:
        """As llama-bench writes it: pp256 or tg128, and @ the position."""
        what = f"pp{self.prompt_tokens}" if self.prompt_tokens else f"tg{self.new_tokens}"
        return f"{what} @ {self.position}" if self.position else what

    @property
    def tokens(self) -> int:
        """Tokens that one repetition processes, of all sequences together."""
        return (self.prompt_tokens or self.new_tokens) * self.batch_size


@dataclass(frozen=True)
class Result:
    """A test and its repetitions, in seconds each."""

    test: Test
    seconds: tuple[float, ...]

    @property
    def rates(self) -> list[float]:
        """Tokens a second of each repetition."""
        return [self.test.tokens / seconds for seconds in self.seconds]

    @property
    def mean(self) -> float:
        """Mean tokens a second."""
        return statistics.mean(self.rates)

    @property
    def deviation(self) -> float:
        """Standard deviation of the tokens a second; 0 for one repetition."""
        return statistics.stdev(self.rates) if len(self.seconds) > 1 else 0.0


def measure(bundle: Bundle, tests: list[Test], repetitions: int | None = None) -> Iterator[Result]:
    """Run `tests`, each after a warm-up of its own, and yield each result as it is there.

    Args:
        bundle: what is measured.
        tests: in any order.
        repetitions: runs of each; when None, 5 and as many more as 2 seconds hold, which brings
            the means of two measurements within 3 % of each other on a quiet machine.

    Raises:
        GenerationError: for a test that does not fit into the context.
    """
    for test in tests:
        last = test.position + (test.prompt_tokens or test.new_tokens)
        if last > bundle.context_length:
            raise GenerationError(
                f"{test.name} ends at token {last}, and the context is {bundle.context_length}."
            )
    for threads in sorted({test.threads for test in tests}):
        new_cache = open_engine(bundle, threads=threads).engine.new_cache
        for test in tests:
            if test.threads == threads:
                _run(new_cache(test.batch_size), test)
                yield Result(test, tuple(_repeated(new_cache, test, repetitions)))


def _repeated(
    new_cache: Callable[[int], Cache], test: Test, repetitions: int | None
) -> Iterator[float]:
    begun, count = perf_counter(), 0
    while count < (repetitions or _LEAST) or (
        repetitions is None and perf_counter() - begun < _ENOUGH
    ):
        yield _run(new_cache(test.batch_size), test)
        count += 1


def _run(cache: Cache, test: Test) -> float:
    if test.position:
        cache.append(np.full((test.batch_size, test.position), _TOKEN))
    if test.prompt_tokens:
        prompt = np.full((test.batch_size, test.prompt_tokens), _TOKEN)
        start = perf_counter()
        cache.append(prompt)
        return perf_counter() - start
    tokens = np.full(test.batch_size, _TOKEN)
    start = perf_counter()
    for _ in range(test.new_tokens):
        tokens = cache.step_greedily(tokens)
    return perf_counter() - start
