"""The engine over the native operator: its pages, and when a session uses it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atom_edge.bundle import open_bundle
from atom_edge.errors import BundleError
from atom_edge.runtimes import batch, generation, native
from atom_edge.runtimes.decoder import Decoder
from atom_edge.runtimes.engines import open_engine
from atom_edge.runtimes.engines.native import NativeEngine
from atom_edge.runtimes.engines.pages import PAGE_TOKENS, PageTable
from atom_edge.runtimes.engines.portable import PortableEngine
from atom_edge.runtimes.engines.static import StaticEngine
from atom_edge.runtimes.options import Options
from atom_edge.runtimes.reply import Piece
from atom_edge.runtimes.session import AtomSession
from atom_edge.runtimes.slots import Task

CONTEXT = 128
IDS = np.random.default_rng(0).integers(5, 4096, (3, CONTEXT))


@pytest.fixture(scope="module")
def engine(small_int8_bundle: Path) -> NativeEngine:
    return NativeEngine.open(open_bundle(small_int8_bundle), threads=1)


def test_a_cache_grows_as_it_is_used(
    small_int8_bundle: Path, engine: NativeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = engine.new_cache(3).append(IDS)
    monkeypatch.setattr("atom_edge.runtimes.engines.native._FIRST_ROOM", 16)
    cache = NativeEngine.open(open_bundle(small_int8_bundle), threads=1).new_cache(3)
    cache.append(IDS[:, :5])
    for token in range(5, CONTEXT):
        logits = cache.step(IDS[:, token])
    assert np.array_equal(logits, expected)


def test_a_short_sequence_takes_no_room_for_a_long_one(engine: NativeEngine) -> None:
    cache = engine.new_cache(3)
    for lengths in ([CONTEXT, 3, 20], [20, 3, CONTEXT], [3, CONTEXT, 20]):
        cache.crop(np.zeros(3, np.int64))
        logits = cache.append(IDS, np.array(lengths))
        assert cache._table.count * PAGE_TOKENS == CONTEXT + 64 + 64
        for b, length in enumerate(lengths):
            alone = engine.new_cache().append(IDS[b : b + 1, :length])
            assert np.array_equal(logits[b], alone[0])


@given(moves=st.lists(st.tuples(*[st.integers(0, 300)] * 3), max_size=20))
def test_no_two_sequences_share_a_page(moves: list[tuple[int, ...]]) -> None:
    table = PageTable(3, 300)
    before = table.numbers.copy()
    lengths = np.zeros(3, np.int64)
    for wanted in np.array(moves, np.int64).reshape(-1, 3):
        table.release(np.minimum(lengths, wanted))
        # What a sequence holds of its beginning stays where it is.
        for b in range(3):
            kept = table.of(b, min(lengths[b], wanted[b]))
            assert np.array_equal(kept, before[b, : len(kept)])
        table.reserve(wanted)
        assert (table.room >= wanted).all()
        held = np.concatenate([table.of(b, table.room[b]) for b in range(3)])
        assert len(set(held.tolist())) == len(held)
        assert (held < table.count).all()
        before, lengths = table.numbers.copy(), wanted


def test_what_another_cache_left_does_not_matter(engine: NativeEngine) -> None:
    expected = engine.new_cache(3).append(IDS[:, :50])
    for size in (1, 3, 2):
        cache = engine.new_cache(size)
        cache._pages[:] = np.nan
        del cache
        logits = engine.new_cache(size).append(IDS[:size, :50])
        assert np.array_equal(logits, expected[:size])


def test_a_session_uses_it_where_library_and_graph_are_there(
    small_bundle: Path, small_int8_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = open_bundle(small_int8_bundle)
    assert isinstance(open_engine(bundle).engine, NativeEngine)
    assert isinstance(open_engine(open_bundle(small_bundle)).engine, StaticEngine)
    monkeypatch.setattr(native, "library", lambda: None)
    assert isinstance(open_engine(bundle).engine, PortableEngine)


def test_a_bundle_of_the_releases_before_runs_on_its_portable_graph(
    small_int8_bundle: Path, tmp_path: Path
) -> None:
    """It has graphs over a static cache in int8, of roles that are no more."""
    folder = tmp_path / "old"
    shutil.copytree(small_int8_bundle, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["graphs"]["native"]
    for role in ("prefill", "decode", "check"):
        manifest["graphs"][role] = manifest["graphs"]["model"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    session = AtomSession.from_pretrained(folder)
    assert isinstance(session._engine, PortableEngine)
    assert len(session.generate("Water", max_new_tokens=5, temperature=0).token_ids) == 5


def test_a_batch_and_a_decoder_that_goes_on_have_the_text_of_one_alone(
    small_int8_bundle: Path,
) -> None:
    session = AtomSession.from_pretrained(small_int8_bundle)
    options: Options = {"max_new_tokens": 40, "temperature": 0}
    prompts = ["The water", "A much longer prompt about the sea and its fishes", ""]
    alone = [session.generate(prompt, **options).token_ids for prompt in prompts]
    together = session.generate_batch(prompts, **options)
    assert [reply.token_ids for reply in together] == alone
    decoder = session.new_decoder()
    for prompt, expected in zip(prompts, alone, strict=True):
        pieces = list(session.stream(prompt, decoder=decoder, **options))
        assert tuple(piece.token_id for piece in pieces)[: len(expected)] == expected


REQUESTS: dict[str, Options] = {
    "greedy": {"temperature": 0},
    "sampled": {"temperature": 1.2, "top_p": 0.9, "top_k": 50, "min_p": 0.01, "seed": 2**64 - 1},
    "penalized": {"temperature": 0.9, "repetition_penalty": 1.5, "seed": 3},
    "greedy and penalized": {"temperature": 0, "repetition_penalty": 1.2},
    "rated": {"temperature": 1.0, "seed": 4, "logprobs": 3},
    "rated alone": {"temperature": 0, "logprobs": 0},
    "rated beside all": {"temperature": 0, "logprobs": 2**31, "max_new_tokens": 2},
    "one token": {"temperature": 0, "max_new_tokens": 1},
    "to the end of the context": {"temperature": 1.0, "seed": 5, "max_new_tokens": 1000},
}


@pytest.fixture(scope="module")
def session(small_int8_bundle: Path) -> AtomSession:
    return AtomSession.from_pretrained(small_int8_bundle)


@pytest.mark.parametrize("name", REQUESTS)
def test_the_loop_inside_makes_the_reply_of_the_loop_outside(
    session: AtomSession, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = REQUESTS[name]
    inside = list(session.stream("The water", **options))
    together = session.generate_batch(["The water", "The sea"], **options)[0]
    monkeypatch.setattr(Decoder, "chooses", False)
    outside = list(session.stream("The water", **options))
    assert [untimed(piece) for piece in inside] == [untimed(piece) for piece in outside]
    assert together.text == "".join(piece.text for piece in outside)
    assert together.finish_reason == outside[-1].finish_reason
    for ours, theirs in zip(inside, outside, strict=True):
        assert (ours.logprob is None) is (theirs.logprob is None) is ("logprobs" not in options)
        if ours.logprob is not None and theirs.logprob is not None:
            assert ours.logprob.logprob == pytest.approx(theirs.logprob.logprob, abs=1e-9)
            assert [one for one, _ in ours.logprob.top] == [one for one, _ in theirs.logprob.top]


def test_a_reply_ends_within_a_run(session: AtomSession, monkeypatch: pytest.MonkeyPatch) -> None:
    runs_are_long(monkeypatch)
    greedy: Options = {"temperature": 0, "max_new_tokens": 60}
    whole = session.generate("The water", **greedy)
    pieces = list(session.stream("The water", **greedy))
    stop = pieces[20].text + pieces[21].text
    decoder = session.new_decoder()
    short = list(session.stream("The water", decoder=decoder, stop=stop, **greedy))
    assert short[-1].finish_reason == "stop"
    assert "".join(piece.text for piece in short) == whole.text[: whole.text.index(stop)]
    assert len(decoder.token_ids) > len(short), "the run went on"
    again = session.stream("The water", decoder=decoder, **greedy)
    assert "".join(piece.text for piece in again) == whole.text
    for reply in session.generate_batch(["The water"] * 2, stop=stop, **greedy):
        assert reply.text == whole.text[: whole.text.index(stop)]


def test_an_end_token_ends_a_reply_within_a_run(
    session: AtomSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs_are_long(monkeypatch)
    whole = session.generate("The water", temperature=0, max_new_tokens=60)
    monkeypatch.setattr(session, "end_ids", frozenset({whole.token_ids[20]}))
    first = whole.token_ids.index(whole.token_ids[20])
    for reply in (
        session.generate("The water", temperature=0),
        *session.generate_batch(["The water", "The sea"], temperature=0)[:1],
    ):
        assert (reply.token_ids, reply.finish_reason) == (whole.token_ids[:first], "stop")


def test_what_processes_logits_stays_outside(session: AtomSession) -> None:
    def only_even(token_ids: Sequence[int], logits: np.ndarray) -> np.ndarray:
        logits[1::2] = -np.inf
        return logits

    plain: Options = {"temperature": 0, "max_new_tokens": 12}
    alone = session.generate("The water", logits_processors=[only_even], **plain)
    assert not any(token % 2 for token in alone.token_ids)
    batch = session.new_batch(2)
    tasks = [
        Task(session.new_reply("The water", logits_processors=[only_even], **plain)),
        Task(session.new_reply("The water", **plain)),
    ]
    tokens: dict[Task, list[int]] = {task: [] for task in tasks}
    for task in tasks:
        batch.join(task)
    while len(batch):
        for task, piece in batch.run():
            tokens[task].append(piece.token_id)
    expected = session.generate("The water", **plain)
    assert [tuple(each) for each in tokens.values()] == [alone.token_ids, expected.token_ids]


def test_runs_grow_while_they_are_brisk() -> None:
    pace = generation.Pace(0.004)
    seen = []
    for per_step in (0.0001, 0.0001, 0.0001, 0.0001, 0.0001, 0.001, 0.003, 1, 0.001):
        pace.note(pace.steps, pace.steps * per_step)
        seen.append(pace.steps)
    assert seen == [2, 4, 8, 16, 16, 4, 1, 1, 2]


def runs_are_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """On any machine."""
    monkeypatch.setattr(generation, "_BRISK", 60.0)
    monkeypatch.setattr(batch, "_BRISK", 60.0)


def untimed(piece: Piece) -> Piece:
    return piece._replace(prompt_seconds=0, generation_seconds=0, logprob=None)


def test_another_graph_is_refused(small_int8_bundle: Path) -> None:
    bundle = open_bundle(small_int8_bundle)
    with pytest.raises(BundleError, match="not the operator over pages: it has no 'cache'"):
        NativeEngine(bundle.read_graph(), CONTEXT)
