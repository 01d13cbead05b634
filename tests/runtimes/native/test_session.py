"""The session in C gives what the one in Python gives, and says what is wrong."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from c_interface import (
    ARGUMENT,
    CANCELLED,
    RUNTIME,
    Failed,
    Reply,
    Session,
    make_bundle,
    onnxruntime_library,
    opened,
)

from atom_edge.reference import checkpoint_path
from atom_edge.runtimes.session import AtomSession

PROMPTS = ("The water cycle is", "", "Zażółć gęślą 🙂", "Once upon a time, there was a")
OPTIONS: tuple[dict[str, Any], ...] = (
    {"temperature": 0},
    {"seed": 0},
    {"seed": 2**64 - 1, "temperature": 1.5, "max_new_tokens": 200},
    {"seed": 3, "top_k": 5, "top_p": 0.9, "min_p": 0.01, "repetition_penalty": 1.3},
    {"temperature": 0, "repetition_penalty": 1.2, "stop": ["e.", " water", "\n\n"]},
    {"seed": 4, "logprobs": 3, "max_new_tokens": 20},
    {"seed": 5, "logprobs": 0, "max_new_tokens": 1},
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(checkpoint_path(), tmp_path_factory.mktemp("c") / "bundle")


@pytest.fixture(scope="module")
def session(bundle: Path) -> Iterator[Session]:
    with opened(bundle) as session:
        yield session


@pytest.fixture(scope="module")
def python(bundle: Path) -> AtomSession:
    return AtomSession.from_pretrained(bundle, threads=1)


def expected(python: AtomSession, prompt: Any, **options: Any) -> Reply:
    """Python's reply, as C tells it: piece by piece."""
    reply = Reply()
    for piece in python.stream(prompt, **options):
        reply.text += piece.text
        reply.token_ids.append(piece.token_id)
        rated = piece.logprob
        reply.logprobs.append((0.0, []) if rated is None else (rated.logprob, list(rated.top)))
        reply.finish = piece.finish_reason
        reply.prompt_tokens = piece.prompt_tokens
        reply.truncated_tokens = piece.truncated_tokens
        reply.generation_tokens = piece.generation_tokens
    return reply


def assert_same(replies: Sequence[Reply], wanted: Sequence[Reply]) -> None:
    """Equal, but for the rounding of log-probabilities."""

    def split(all_replies: Sequence[Reply]) -> tuple[list[Reply], list[Any], list[float]]:
        rated = [one for reply in all_replies for one in reply.logprobs]
        numbers = [value for own, top in rated for value in (own, *(each for _, each in top))]
        likeliest = [[token for token, _ in top] for _, top in rated]
        return [replace(reply, logprobs=[]) for reply in all_replies], likeliest, numbers

    found, expected = split(replies), split(wanted)
    assert found[:2] == expected[:2]
    assert found[2] == pytest.approx(expected[2], abs=1e-9)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_replies_are_those_of_python(
    session: Session, python: AtomSession, options: dict[str, Any]
) -> None:
    assert len(session.generate("The", **options).token_ids) > 0
    wanted = [expected(python, prompt, **options) for prompt in PROMPTS]
    assert_same([session.generate(prompt, **options) for prompt in PROMPTS], wanted)
    assert_same(session.generate_batch(PROMPTS, **options), wanted)


def test_long_prompts_and_token_ids(session: Session, python: AtomSession) -> None:
    assert session.library.atom_edge_session_context_length(ctypes.c_void_p(session.handle)) == 512
    ids = [(7 * i) % 4096 for i in range(600)]
    prompts = [ids[:500], ids[:511], ids, ids[:200], [5]]
    options = {"temperature": 0, "max_new_tokens": 40}
    wanted = [expected(python, prompt, **options) for prompt in prompts]
    assert [reply.truncated_tokens for reply in wanted] == [0, 0, 89, 0, 0]
    assert wanted[1].finish == "length"
    assert session.generate_batch(prompts, **options) == wanted


def test_random_tokens_are_the_same_text(make_snapshot: Any, tmp_path: Path) -> None:
    """A model that knows nothing says every byte there is."""
    bundle = make_bundle(make_snapshot(), tmp_path / "bundle")
    python = AtomSession.from_pretrained(bundle)
    options = {"temperature": 10.0, "top_p": 1.0, "seed": 6, "max_new_tokens": 400}
    with opened(bundle) as session:
        reply = session.generate("é", **options)
    assert "\ufffd" in reply.text
    assert reply == expected(python, "é", **options)


@pytest.mark.parametrize(
    "generation",
    [
        {"do_sample": True, "temperature": 0.7, "eos_token_id": 2},
        {"top_k": 3, "repetition_penalty": 1.1, "eos_token_id": [2, 4]},
        {"max_length": 30, "eos_token_id": 2, "do_sample": False},
        {"max_new_tokens": 7, "bos_token_id": 1},
    ],
    ids=str,
)
def test_a_bundle_says_its_defaults(generation: dict[str, Any], tmp_path: Path) -> None:
    bundle = make_bundle(checkpoint_path(), tmp_path / "bundle", **generation)
    python = AtomSession.from_pretrained(bundle)
    with opened(bundle) as session:
        for prompt in PROMPTS:
            assert session.generate(prompt, seed=8) == expected(python, prompt, seed=8)


def test_without_a_seed_replies_differ(session: Session) -> None:
    replies = session.generate_batch(["The"] * 4, max_new_tokens=30)
    assert len({reply.text for reply in replies}) > 1


def test_threads_share_a_session(bundle: Path, session: Session) -> None:
    wanted = {seed: session.generate("The sun", seed=seed) for seed in range(4)}
    faults: list[object] = []
    with opened(bundle, threads=2) as second:

        def work(seed: int) -> None:
            for one in (session, second) * 3:
                if (reply := one.generate("The sun", seed=seed)) != wanted[seed]:
                    faults.append(reply)

        workers = [threading.Thread(target=work, args=(seed,)) for seed in wanted]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    assert faults == []


def test_the_callback_ends_a_generation(session: Session) -> None:
    pieces: list[int] = []

    def take(piece: Any) -> int:
        pieces.append(piece.token_id)
        return len(pieces) == 3

    with pytest.raises(Failed, match="callback ended") as caught:
        session.run([b"The"], session.options(temperature=0), take)
    assert caught.value.code == CANCELLED
    assert len(pieces) == 3


def test_another_thread_cancels(session: Session) -> None:
    cancel = session.library.atom_edge_cancellation_new(None)
    begun, cancelled = threading.Event(), threading.Event()
    pieces: list[int] = []

    def take(piece: Any) -> int:
        pieces.append(piece.token_id)
        begun.set()
        cancelled.wait(60)
        return 0

    def end() -> None:
        begun.wait(60)
        session.library.atom_edge_cancel(ctypes.c_void_p(cancel))
        cancelled.set()

    other = threading.Thread(target=end)
    other.start()
    try:
        for _ in range(2):  # it stays cancelled
            with pytest.raises(Failed, match="was cancelled") as caught:
                session.run([b"The"], session.options(max_new_tokens=400, seed=1), take, cancel)
            assert caught.value.code == CANCELLED
    finally:
        other.join()
        session.library.atom_edge_cancellation_free(ctypes.c_void_p(cancel))
    assert 1 <= len(pieces) < 40


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"max_new_tokens": -1}, "max_new_tokens must be at least 1"),
        ({"temperature": -1}, "temperature must be 0"),
        ({"temperature": float("nan")}, "temperature must be 0"),
        ({"top_k": -1}, "top_k"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": float("nan")}, "top_p"),
        ({"min_p": 1.1}, "min_p"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"logprobs": -2}, "logprobs"),
        ({"stop": ["a", ""]}, "stop must be texts of at least one character"),
    ],
    ids=str,
)
def test_an_option_outside_its_range(session: Session, options: Any, named: str) -> None:
    with pytest.raises(Failed, match=named) as caught:
        session.generate("The", **options)
    assert caught.value.code == ARGUMENT


def test_prompts_that_cannot_be_read(session: Session) -> None:
    for prompt, why in ((b"\xff", "not valid UTF-8"), ([4096], "token id 4096")):
        with pytest.raises(Failed, match=why) as caught:
            session.run([b"good", prompt], None, lambda _: 0)
        assert caught.value.code == ARGUMENT
    session.run([], None, lambda _: 1)
    for function in ("session_free", "cancellation_free", "cancel"):
        getattr(session.library, f"atom_edge_{function}")(None)


def test_onnxruntime_is_where_the_caller_says(bundle: Path, tmp_path: Path) -> None:
    library = onnxruntime_library()
    elsewhere = tmp_path / "elsewhere.so"
    elsewhere.symlink_to(library)
    with opened(bundle, onnxruntime=elsewhere) as session:
        assert session.generate("The", max_new_tokens=2).finish == "length"
    for path, why in ((tmp_path / "none.so", "cannot be loaded"), (Path("libc.so.6"), "not onnx")):
        with pytest.raises(Failed, match=why) as caught:
            Session(bundle, onnxruntime=path)
        assert caught.value.code == RUNTIME


@pytest.mark.parametrize("threads", [-1, 1025, 2**31 - 1])
def test_threads_that_no_machine_has_are_refused(bundle: Path, threads: int) -> None:
    with pytest.raises(Failed, match="threads is not from 0 to 1024"):
        Session(bundle, threads=threads)
