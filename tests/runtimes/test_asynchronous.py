"""Replies in asyncio, replies that are cancelled, and batches as they come."""

from __future__ import annotations

import asyncio
import contextlib
import threading

import pytest

from atom_edge.errors import GenerationError
from atom_edge.runtimes.chat import Conversation
from atom_edge.runtimes.options import Options
from atom_edge.runtimes.session import AtomSession

OPTIONS: Options = {"temperature": 0, "max_new_tokens": 16}


def test_the_event_loop_runs_on(session: AtomSession) -> None:
    async def main() -> tuple[list[str], int]:
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        counting = asyncio.create_task(count())
        prompts = ["The sun", "The moon", "The sea"]
        replies = await asyncio.gather(*(session.agenerate(p, **OPTIONS) for p in prompts))
        counting.cancel()
        return [reply.text for reply in replies], turns

    texts, turns = asyncio.run(main())
    assert texts == [
        session.generate(p, **OPTIONS).text for p in ("The sun", "The moon", "The sea")
    ]
    assert turns > 10


def test_the_pieces_are_those_of_stream(session: AtomSession) -> None:
    async def main() -> list[tuple[str, int]]:
        return [(p.text, p.token_id) async for p in session.astream("The sun", **OPTIONS)]

    expected = [(p.text, p.token_id) for p in session.stream("The sun", **OPTIONS)]
    assert asyncio.run(main()) == expected


def test_wrong_options_are_told_at_once(session: AtomSession) -> None:
    with pytest.raises(GenerationError, match="top_p"):
        session.astream("The", top_p=7)


def test_a_loop_that_is_left_stops_the_reply(session: AtomSession) -> None:
    made = []

    def count(reply: object, logits: object) -> object:
        made.append(1)
        return logits

    async def main() -> None:
        pieces = session.astream("The", max_new_tokens=100, seed=1, logits_processors=[count])  # type: ignore[list-item]
        async with contextlib.aclosing(pieces):
            async for _ in pieces:
                break
        await asyncio.sleep(0.2)
        so_far = len(made)
        await asyncio.sleep(0.2)
        assert len(made) == so_far < 100

    asyncio.run(main())


def test_another_thread_cancels(session: AtomSession) -> None:
    cancel = threading.Event()
    pieces = session.stream("The", cancel=cancel, max_new_tokens=100, seed=1)
    first = [next(pieces), next(pieces)]
    thread = threading.Thread(target=cancel.set)
    thread.start()
    thread.join()
    rest = list(pieces)
    assert [piece.finish_reason for piece in first] == [None, None]
    assert [piece.finish_reason for piece in rest] == ["cancelled"]


def test_a_batch_as_it_comes(session: AtomSession) -> None:
    prompts = ["The sun", "A much longer prompt about the moon", "The"]
    texts = ["", "", ""]
    order = []
    for number, piece in session.stream_batch(prompts, **OPTIONS):
        texts[number] += piece.text
        order.append(number)
    assert texts == [reply.text for reply in session.generate_batch(prompts, **OPTIONS)]
    assert order != sorted(order)
    assert list(session.stream_batch([], **OPTIONS)) == []


def test_objects_read_well(session: AtomSession) -> None:
    assert "float32 on cpu, context 128" in repr(session)
    reply = session.generate("<b>", **OPTIONS)
    assert "16 tokens" in reply._repr_html_()
    conversation = Conversation(session, OPTIONS)
    list(conversation.say("<b>bold"))
    assert "&lt;b&gt;bold" in conversation._repr_html_()
    assert "2 messages" in repr(conversation)
