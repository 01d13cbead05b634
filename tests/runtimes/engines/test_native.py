"""The engine over the native operator: its pages, and when a session uses it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from atom_edge.bundle import open_bundle
from atom_edge.errors import BundleError
from atom_edge.runtimes import native
from atom_edge.runtimes.engines import open_engine
from atom_edge.runtimes.engines.native import NativeEngine
from atom_edge.runtimes.engines.static import StaticEngine
from atom_edge.runtimes.options import Options
from atom_edge.runtimes.session import AtomSession

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
    assert isinstance(open_engine(bundle).engine, StaticEngine)


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


def test_another_graph_is_refused(small_int8_bundle: Path) -> None:
    bundle = open_bundle(small_int8_bundle)
    with pytest.raises(BundleError, match="not the operator over pages: it has no 'cache'"):
        NativeEngine(bundle.read_graph("prefill"), CONTEXT)
