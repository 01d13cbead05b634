"""Tasks of one scheduler on two threads: the same text, and a prompt goes to where it is known."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator

import pytest

from atom_edge.errors import AtomEdgeError
from atom_edge.runtimes.batch import Batch
from atom_edge.runtimes.options import Options
from atom_edge.runtimes.reply import Piece
from atom_edge.runtimes.server.scheduler import Scheduler
from atom_edge.runtimes.session import AtomSession
from atom_edge.runtimes.slots import Task

PROMPTS = [f"The {what} of number {count}" for what in ("water", "house") for count in range(8)]


@contextlib.asynccontextmanager
async def two_lanes(session: AtomSession, size: int) -> AsyncIterator[Scheduler]:
    scheduler = Scheduler(session, size, queue=64, lanes=2)
    scheduler.start()
    try:
        yield scheduler
    finally:
        scheduler.close()


async def run(scheduler: Scheduler, tasks: list[Task]) -> list[str]:
    """The texts of the tasks of one request."""
    mailbox = scheduler.submit(tasks)
    pieces = defaultdict[Task, list[Piece]](list)
    going = len(tasks)
    while going:
        for task, piece in await mailbox.read():
            assert scheduler.running <= scheduler.size
            pieces[task].append(piece)
            going -= piece.finish_reason is not None
    for each in pieces.values():
        counts = [piece.generation_tokens for piece in each if piece.text]
        assert counts == sorted(counts), "pieces came out of order"
    return ["".join(piece.text for piece in pieces[task]) for task in tasks]


@pytest.mark.parametrize("size", [1, 3, 16])
def test_the_text_is_that_of_generate(session: AtomSession, size: int) -> None:
    options: list[Options] = [
        {"max_new_tokens": 24, "temperature": 0.0 if count % 3 else 0.9, "seed": count}
        for count in range(len(PROMPTS))
    ]

    async def main() -> list[list[str]]:
        async with two_lanes(session, size) as scheduler:
            pairs = [
                [
                    Task(session.new_reply(PROMPTS[first + more], **options[first + more]))
                    for more in range(2)
                ]
                for first in range(0, len(PROMPTS), 2)
            ]
            return await asyncio.gather(*(run(scheduler, pair) for pair in pairs))

    texts = [text for pair in asyncio.run(main()) for text in pair]
    expected = [
        session.generate(prompt, **each).text for prompt, each in zip(PROMPTS, options, strict=True)
    ]
    assert texts == expected


def test_a_conversation_finds_its_lane(session: AtomSession) -> None:
    async def main() -> None:
        known = 0
        async with two_lanes(session, 8) as scheduler:
            prompt = session.tokenizer.encode("Once upon a time there was a small house. " * 2)
            for _ in range(6):
                task = Task(session.new_reply(prompt, max_new_tokens=8, temperature=0))
                text = (await run(scheduler, [task]))[0]
                assert task.cached_tokens >= known
                known = len(prompt)
                prompt = [*prompt, *session.tokenizer.encode(text, add_special_tokens=False)]

    asyncio.run(main())


def test_a_broken_run_leaves_the_other_lane_alone(
    session: AtomSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Batch.run
    broken: list[Batch] = []

    def fail_first(self: Batch) -> list[tuple[Task, Piece]]:
        if not broken:
            broken.append(self)
            raise RuntimeError("no more")
        return step(self)

    monkeypatch.setattr(Batch, "run", fail_first)

    async def main() -> list[list[str] | BaseException]:
        async with two_lanes(session, 8) as scheduler:
            runs = [
                run(scheduler, [Task(session.new_reply(prompt, max_new_tokens=8, temperature=0))])
                for prompt in PROMPTS[:4]
            ]
            ends = await asyncio.gather(*runs, return_exceptions=True)
            again = Task(session.new_reply(PROMPTS[0], max_new_tokens=8, temperature=0))
            return [*ends, await run(scheduler, [again])]

    *ends, last = asyncio.run(main())
    failed = [end for end in ends if isinstance(end, AtomEdgeError)]
    assert 1 <= len(failed) < 4
    assert all("no more" in str(error) for error in failed)
    assert last == [session.generate(PROMPTS[0], max_new_tokens=8, temperature=0).text]
