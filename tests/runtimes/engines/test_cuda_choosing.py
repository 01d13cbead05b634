"""Tokens chosen on a GPU: the kernel, compiled for the CPU, against the sampler of the host."""

from __future__ import annotations

import dataclasses
import subprocess
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from host_kernels import KERNELS, HostKernels
from numpy.typing import NDArray

from atom_edge import AtomSession
from atom_edge.bundle import open_bundle
from atom_edge.errors import GenerationError
from atom_edge.runtimes.engines.choices import Choices, Sequel
from atom_edge.runtimes.engines.cuda import CudaEngine
from atom_edge.runtimes.engines.cuda_choosing import ChoosingCudaCache
from atom_edge.runtimes.options import GenerationOptions
from atom_edge.runtimes.reply import Generation
from atom_edge.runtimes.sampling import make_sampler, penalize_repetition

VOCABULARY, CONTEXT = 1000, 128
ASKED: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"temperature": 0.0, "repetition_penalty": 1.7},
    {"temperature": 1.0, "top_p": 1.0},
    {"temperature": 0.7, "top_k": 40},
    {"temperature": 1.5, "top_k": 3, "top_p": 0.5},
    {"temperature": 1.0, "top_k": 1, "top_p": 1.0},
    {"temperature": 2.0, "top_p": 1.0, "min_p": 0.05},
    {"temperature": 1.3, "top_k": 5000, "top_p": 0.3, "min_p": 0.2},
    {"temperature": 0.9, "repetition_penalty": 1.3},
    {"temperature": 0.9, "repetition_penalty": 0.5, "top_k": 20, "min_p": 1.0},
    {"temperature": 1e-9, "top_p": 1e-17},
    {"temperature": 1e9, "top_p": 0.999999},
]


class Value:
    """An array in what stands for a device's memory."""

    def __init__(self, array: NDArray[Any]) -> None:
        self.array = array.copy()

    def data_ptr(self) -> int:
        return self.array.ctypes.data

    def shape(self) -> list[int]:
        return list(self.array.shape)

    def update_inplace(self, array: NDArray[Any]) -> None:
        self.array[:] = array


class Model:
    """An engine, and its buffers, whose steps give the logits `[S, B, VOCABULARY]`, in turn."""

    vocab_size, context_length = VOCABULARY, CONTEXT

    def __init__(self, logits: NDArray[np.float32]) -> None:
        self.lock = nullcontext()
        self.batch_size = logits.shape[1]
        self._logits = iter(logits)
        self.cache: list[Value] = []
        self.token_ids = Value(np.zeros((self.batch_size, 1), np.int64))
        self.lengths = Value(np.zeros(self.batch_size, np.int32))
        self.logits = Value(np.zeros(logits.shape[1:], np.float32))
        self.fed: list[list[int]] = []

    def take(self, batch_size: int) -> Model:
        return self

    def give_back(self, buffers: Model) -> None:
        pass

    def copy(self, array: NDArray[Any]) -> Value:
        return Value(array)

    def record(self, lengths: NDArray[np.int64]) -> None:
        pass

    def step(self, lengths: NDArray[np.int64]) -> None:
        self.lengths.update_inplace(lengths)
        self.run()

    def run(self) -> None:
        self.fed.append(self.token_ids.array[:, 0].tolist())
        self.logits.update_inplace(next(self._logits))


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> HostKernels:
    return HostKernels(VOCABULARY, tmp_path_factory.mktemp("kernels"), threads=64)


def choose_on_host(
    logits: NDArray[np.float32], options: GenerationOptions, seen: list[int]
) -> list[int]:
    """The tokens that follow by logits `[S, VOCABULARY]`."""
    sample, chosen = make_sampler(options), []
    for row in logits:
        known = np.array(sorted({*seen, *chosen}))
        chosen.append(sample(penalize_repetition(row, known, options.repetition_penalty)))
    return chosen


def some_logits(steps: int, rows: int, seed: int) -> NDArray[np.float32]:
    random = np.random.default_rng(seed)
    logits = random.standard_normal((steps, rows, VOCABULARY)).astype(np.float32) * 4
    logits[..., :100] = logits[..., :100].round()  # some are equal
    return logits


def test_every_token_is_the_one_that_the_host_chooses(kernels: HostKernels) -> None:
    rows, steps = len(ASKED), 6
    logits = some_logits(steps, rows, seed=5)
    options = [GenerationOptions(seed=2**63 + i, **asked) for i, asked in enumerate(ASKED)]
    seen = np.random.default_rng(6).integers(0, VOCABULARY, (rows, 9)).tolist()
    sequels = [Sequel(o, 0, s, 100) for o, s in zip(options, seen, strict=True)]
    choices = Choices(sequels, set())
    model = Model(logits)
    cache = ChoosingCudaCache(model, rows, kernels)  # type: ignore[arg-type]  # stands for it
    tokens, fed = [], np.zeros((rows, 1), np.int64)
    for some in (1, 2, 3):
        chosen = cache.choose(fed, np.ones(rows, np.int64), choices, some).tokens
        fed = chosen[:, -1:]
        tokens.append(chosen)
    found = np.concatenate(tokens, axis=1)
    for row in range(rows):
        assert found[row].tolist() == choose_on_host(logits[:, row], options[row], seen[row])
    assert model.fed[1:] == found.T[:-1].tolist()
    assert cache.lengths.tolist() == [steps] * rows


def test_a_sequence_ends_while_others_go_on(kernels: HostKernels) -> None:
    logits = some_logits(4, 5, seed=1)
    options = [GenerationOptions(seed=1, temperature=0.0)] * 3
    likeliest = logits.argmax(axis=2)
    choices = Choices(
        [Sequel(o, 0, (), room) for o, room in zip(options, (9, 2, 9), strict=True)],
        {int(likeliest[2, 4])},
    )
    model = Model(logits)
    cache = ChoosingCudaCache(model, 5, kernels)  # type: ignore[arg-type]  # stands for it
    ones = np.array([1, 0, 1, 0, 1])
    tokens = cache.choose(np.zeros((5, 1), np.int64), ones, choices, 4).tokens
    assert tokens[0].tolist() == likeliest[:, 0].tolist()
    assert tokens[1].tolist() == [*likeliest[:2, 2].tolist(), -1, -1]
    assert tokens[2].tolist() == [*likeliest[:3, 4].tolist(), -1]
    assert cache.lengths.tolist() == [4, 0, 2, 0, 3]
    assert choices.rooms.tolist() == [5, 0, 6]


@pytest.mark.parametrize("damage", [np.nan, np.inf])
def test_logits_that_are_no_numbers_are_an_error(kernels: HostKernels, damage: float) -> None:
    logits = some_logits(1, 2, seed=2)
    logits[0, 1, 700] = damage
    choices = Choices([Sequel(GenerationOptions(seed=1), 0, (), 9)] * 2, set())
    cache = ChoosingCudaCache(Model(logits), 2, kernels)  # type: ignore[arg-type]  # stands for it
    with pytest.raises(GenerationError, match="not finite"):
        cache.choose(np.zeros((2, 1), np.int64), np.ones(2, np.int64), choices, 1)


def test_threads_do_not_race(tmp_path: Path) -> None:
    subprocess.run(
        [
            *("g++", "-std=c++20", "-fsanitize=thread", "-ffp-contract=off", "-pthread"),
            *(f"-DVOCABULARY={VOCABULARY}", f'-DKERNELS="{KERNELS}"', "-o", "races"),
            str(Path(__file__).parent / "cuda_races.cpp"),
        ],
        check=True,
        cwd=tmp_path,
    )
    # Threads that do not agree may also wait for each other forever.
    done = subprocess.run([tmp_path / "races"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert all(0 <= int(token) < VOCABULARY for token in done.stdout.split())


@pytest.fixture(scope="module")
def sessions(
    small_cuda_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[AtomSession, AtomSession]:
    """One that chooses on what stands for a device, and one that does on the host."""
    graph = open_bundle(small_cuda_bundle).graph("cuda")
    kernels = HostKernels(4096, tmp_path_factory.mktemp("kernels"))
    found = []
    for each in (kernels, None):
        session = AtomSession.from_pretrained(small_cuda_bundle, threads=1)
        session._engine = CudaEngine(graph, "cpu", session.context_length, each)
        found.append(session)
    return found[0], found[1]


def untimed(reply: Generation) -> Generation:
    return dataclasses.replace(reply, prompt_tps=0, generation_tps=0)


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.0, "max_new_tokens": 40},
        {"temperature": 0.0, "stop": ("e", "th")},
        {"temperature": 0.9, "seed": 4, "repetition_penalty": 1.2, "max_new_tokens": 9},
        {"temperature": 1.0, "seed": 2, "top_k": 20, "logprobs": 2, "max_new_tokens": 5},
    ],
    ids=str,
)
def test_replies_are_those_that_the_host_chooses(
    sessions: tuple[AtomSession, AtomSession], options: dict[str, Any]
) -> None:
    prompts = ("The", "A small stone lies under the house", "", "water " * 90)
    ours, theirs = (session.generate_batch(prompts, **options) for session in sessions)
    assert [untimed(reply) for reply in ours] == [untimed(reply) for reply in theirs]
    alone, other = (session.generate(prompts[1], **options) for session in sessions)
    assert untimed(alone) == untimed(other)


def test_prompts_that_begin_between_others_run_together(
    sessions: tuple[AtomSession, AtomSession],
) -> None:
    engine = sessions[0]._engine
    assert isinstance(engine, CudaEngine)
    random = np.random.default_rng(8)
    options = GenerationOptions(seed=1, temperature=0.0)

    def choose(cache: ChoosingCudaCache, feeds: list[list[int]]) -> list[int]:
        counts = np.array([len(feed) for feed in feeds])
        ids = np.zeros((len(feeds), counts.max()), np.int64)
        for row, feed in enumerate(feeds):
            ids[row, : len(feed)] = feed
        choices = Choices([Sequel(options, 0, (), 9)] * int((counts > 0).sum()), set())
        return cache.choose(ids, counts, choices, 1).tokens[:, 0].tolist()

    prompts = [random.integers(5, 4096, length).tolist() for length in (9, 1, 4, 12, 7, 3)]
    alone = [choose(engine.new_cache(1), [prompt])[0] for prompt in prompts]
    again = [
        choose_behind(engine, prompt, token) for prompt, token in zip(prompts, alone, strict=True)
    ]
    cache = engine.new_cache(6)
    first = choose(cache, [[], prompts[1], [], prompts[3], [], []])
    assert first == [alone[1], alone[3]]
    kernels = engine.kernels
    assert isinstance(kernels, HostKernels)
    kernels.launched.clear()
    # The second and the fourth go on while those around them begin.
    feeds = [[alone[row]] if row in (1, 3) else prompt for row, prompt in enumerate(prompts)]
    second = choose(cache, feeds)
    assert kernels.launched.count("move") == len(engine.cache_names) + 1
    assert second == [again[row] if row in (1, 3) else alone[row] for row in range(6)]
    third = choose(cache, [[token] for token in second])
    assert [third[row] for row in (0, 2, 4, 5)] == [again[row] for row in (0, 2, 4, 5)]


def choose_behind(engine: CudaEngine, prompt: list[int], token: int) -> int:
    """The likeliest token behind a prompt and a token."""
    cache = engine.new_cache(1)
    cache.append(np.array([prompt]))
    return int(cache.append(np.array([[token]])).argmax())
