"""Replies that join and leave a batch at any time are those that each prompt has alone."""

from __future__ import annotations

import random
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from atom_edge.bundle import open_bundle
from atom_edge.runtimes.engines.cuda import CudaEngine
from atom_edge.runtimes.engines.interface import Engine
from atom_edge.runtimes.engines.portable import PortableEngine
from atom_edge.runtimes.generation import rate
from atom_edge.runtimes.reply import Piece
from atom_edge.runtimes.session import AtomSession
from atom_edge.runtimes.slots import Task

BEGINNING = "The old house stands by the green river, and the water is clear. " * 2


@pytest.fixture(scope="module", params=["portable", "device"])
def session(
    request: pytest.FixtureRequest, small_bundle: Path, small_cuda_bundle: Path
) -> AtomSession:
    """Over each engine that batches; that for CUDA runs on the CPU here."""
    session = AtomSession.from_pretrained(small_bundle, threads=1)
    engine: Engine
    if request.param == "portable":
        engine = PortableEngine.open(open_bundle(small_bundle), threads=1)
    else:
        file = open_bundle(small_cuda_bundle).graph("cuda")
        engine = CudaEngine(file, "cpu", session.context_length)
    session._engine = engine
    return session


def options_of(draw: random.Random) -> dict:
    return {
        "max_new_tokens": draw.randint(1, 20),
        "temperature": draw.choice([0.0, 0.0, 0.7]),
        "repetition_penalty": draw.choice([1.0, 1.0, 1.3]),
        "seed": draw.randint(0, 9),
        "stop": draw.choice([(), ("e", "th")]),
        "logprobs": draw.choice([None, None, 2]),
    }


def text(pieces: list[Piece]) -> tuple[str, list[int], str | None]:
    return (
        "".join(piece.text for piece in pieces),
        [piece.token_id for piece in pieces],
        pieces[-1].finish_reason,
    )


def test_any_filling_of_the_batch_gives_the_same_replies(session: AtomSession) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    draw = random.Random(seed)
    batch = session.new_batch(4)
    batch._chunk = batch._prompt_tokens = 16  # so that some leave amid their prompt
    prompts = ["The", "", BEGINNING, BEGINNING + "A small", BEGINNING + "In", "water " * 60]
    waiting = [(draw.choice(prompts), options_of(draw)) for _ in range(24)]
    asked, pieces, there, gone = {}, defaultdict(list), set(), set()
    while waiting or len(batch):
        while waiting and batch.room and draw.random() < 0.6:
            prompt, options = waiting.pop()
            task = Task(session.new_reply(prompt, **options))
            asked[task] = (prompt, options)
            batch.join(task)
            there.add(task)
        for task, piece in batch.run():
            assert task in there
            pieces[task].append(piece)
            if piece.finish_reason is not None:
                there.remove(task)
        leaving = [task for task in asked if task in there and draw.random() < 0.04]
        for task in leaving:
            batch.leave(task)
            there.remove(task)
            gone.add(task)
        assert len(batch) == len(there)
    assert batch.room == 4
    for task, come in pieces.items():
        prompt, options = asked[task]
        alone = list(session.stream(prompt, **options))
        if task in gone:
            alone = alone[: len(come)]
        assert text(come) == text(alone)


def test_a_beginning_is_fed_once(session: AtomSession) -> None:
    batch = session.new_batch(4)
    prompts = [BEGINNING + end for end in ("The", "A", "In", "Water")]
    tasks = [Task(session.new_reply(prompt, max_new_tokens=3)) for prompt in prompts]
    for task in tasks:
        batch.join(task)
    while len(batch):
        batch.run()
    again = Task(session.new_reply(prompts[0], max_new_tokens=3))
    batch.join(again)
    assert again.cached_tokens == len(again.prompt) - 1
    if session._engine.copies:
        assert all(task.cached_tokens > 20 for task in tasks[1:])


def test_nobody_waits_behind_a_long_prompt(session: AtomSession) -> None:
    batch = session.new_batch(2)
    batch._chunk = batch._prompt_tokens = 8
    short = Task(session.new_reply("The", max_new_tokens=30, temperature=0))
    long = Task(session.new_reply("water " * 60, max_new_tokens=1, temperature=0))
    batch.join(short)
    batch.run()
    batch.join(long)
    runs = [[task for task, _ in batch.run()] for _ in range(6)]
    assert runs == [[short]] * 6


def test_every_token_of_a_prompt_is_rated(session: AtomSession) -> None:
    batch = session.new_batch(3)
    prompts = [BEGINNING, "The water", "A"]
    tasks = [Task(session.new_reply(p, max_new_tokens=1, temperature=0), 2) for p in prompts]
    for _ in range(2):
        for task in tasks:
            task.prompt_logprobs.clear()
            batch.join(task)
        batch.run()
    for task in tasks:
        ids = list(task.prompt)
        assert [entry.token_id for entry in task.prompt_logprobs] == ids[1:]
        for end, entry in enumerate(task.prompt_logprobs, start=1):
            logits = session._engine.new_cache().append(np.array([ids[:end]]))[0]
            expected = rate(logits, ids[end], 2)
            assert entry.logprob == pytest.approx(expected.logprob, abs=0.03)
