"""Tokens a second of many sequences on a GPU, by how their tokens are chosen; see gpu.py."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter

import numpy as np

from atom_edge import AtomSession
from atom_edge.runtimes.engines.choices import Choices, Sequel
from atom_edge.runtimes.engines.cuda import CudaEngine
from atom_edge.runtimes.engines.cuda_choosing import ChoosingCudaCache
from atom_edge.runtimes.options import GenerationOptions, Options

# How tokens are chosen in the batches of `rates`; the last with every option there is.
CHOSEN: dict[str, Options] = {
    "greedy": {"temperature": 0.0, "top_p": 1.0},
    "top-p": {"temperature": 0.8, "top_p": 0.95},
    "all options": {
        "temperature": 0.9,
        "top_k": 100,
        "top_p": 0.9,
        "min_p": 0.02,
        "repetition_penalty": 1.2,
    },
}
STEPS = 16  # tokens of each sequence that a run chooses
ROUNDS = 3


def rates(
    graphs: Mapping[str, CudaEngine],
    sessions: Mapping[str, AtomSession],
    prompts: Sequence[list[int]],
    size: int,
    tokens: int,
) -> dict[str, float]:
    """Tokens a second of `size` sequences of `tokens` tokens, by each way to choose them."""
    repeated = [prompts[row % len(prompts)] for row in range(size)]
    ways: dict[str, Callable[[], int]] = {}
    for name, engine in graphs.items():
        for kind, asked in CHOSEN.items():
            if engine.kernels is not None:
                way = _on_device(engine, repeated, asked, tokens)
                ways[f"on the device, {kind}, {name}"] = way
            way = _replies(sessions[name], repeated, asked, tokens)
            ways[f"`generate_batch`, {kind}, {name}"] = way
    return {name: _rate(run) for name, run in ways.items()}


def rates_table(results: Mapping[int, Mapping[str, float]]) -> list[str]:
    """Lines of Markdown for the rates by size."""
    return [
        "| tokens a second | " + " | ".join(f"{size:,} sequences" for size in results) + " |",
        "|---|" + "---:|" * len(results),
        *(
            f"| {name} | " + " | ".join(f"{of[name]:,.0f}" for of in results.values()) + " |"
            for name in next(iter(results.values()))
        ),
    ]


def _on_device(
    engine: CudaEngine, prompts: Sequence[list[int]], asked: Options, tokens: int
) -> Callable[[], int]:
    """Choose `tokens` tokens of each sequence, with nothing done with them."""
    counts = np.array([len(prompt) for prompt in prompts])
    ids = np.zeros((len(prompts), counts.max()), np.int64)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt)] = prompt
    cache = engine.new_cache(len(prompts))
    assert isinstance(cache, ChoosingCudaCache)

    def run() -> int:
        cache.lengths[:] = 0
        options = [GenerationOptions.of({**asked, "seed": row}) for row in range(len(prompts))]
        sequels = [Sequel(o, 0, p, tokens) for o, p in zip(options, prompts, strict=True)]
        choices = Choices(sequels, set())
        chosen = cache.choose(ids, counts, choices, 1).tokens
        while choices.rooms.any():
            chosen = cache.choose(chosen[:, -1:], np.ones_like(counts), choices, STEPS).tokens
        return len(prompts) * tokens

    return run


def _replies(
    session: AtomSession, prompts: Sequence[list[int]], asked: Options, tokens: int
) -> Callable[[], int]:
    """Whole replies with their text, which end where the model ends them."""
    options: Options = {"max_new_tokens": tokens, "seed": 1, **asked}
    return lambda: sum(
        reply.generation_tokens for reply in session.generate_batch(prompts, **options)
    )


def _rate(run: Callable[[], int]) -> float:
    """The median of tokens a second; a first round warms up."""
    run()
    found = []
    for _ in range(ROUNDS):
        start = perf_counter()
        found.append(run() / (perf_counter() - start))
    return statistics.median(found)
