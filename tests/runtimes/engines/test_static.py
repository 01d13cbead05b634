"""What is peculiar to the static cache: chunks, and buffers that are used again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from atom_edge.bundle import open_bundle
from atom_edge.runtimes.decoder import Decoder
from atom_edge.runtimes.engines import static
from atom_edge.runtimes.engines.static import StaticEngine

CONTEXT = 128
IDS = np.random.default_rng(0).integers(5, 4096, CONTEXT).tolist()


@pytest.fixture(scope="module")
def engine(small_bundle: Path) -> StaticEngine:
    return StaticEngine.open(open_bundle(small_bundle), threads=1)


@pytest.fixture(scope="module")
def int8(small_int8_bundle: Path) -> StaticEngine:
    return StaticEngine.open(open_bundle(small_int8_bundle), threads=1)


def assert_equal(ours: np.ndarray, theirs: np.ndarray) -> None:
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5)


@pytest.mark.parametrize("chunk", [1, 16, 50])
def test_logits_of_any_places_come_from_their_chunks(
    engine: StaticEngine, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = np.array([IDS[:50], IDS[50:100]])
    places = np.array([0, 17, 49, 50, 99])
    whole = engine.new_cache(2).append(prompts, places=places)
    monkeypatch.setattr(static, "CHUNK", chunk)
    cache = engine.new_cache(2)
    assert_equal(cache.append(prompts, places=places), whole)
    assert cache.lengths.tolist() == [50, 50]


@pytest.mark.parametrize("chunk", [7, 16])
def test_short_sequences_end_in_early_chunks(
    engine: StaticEngine, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids, counts = np.array([IDS[:60], IDS[60:120]]), np.array([9, 60])
    whole = engine.new_cache(2).append(ids, counts)
    monkeypatch.setattr(static, "CHUNK", chunk)
    assert_equal(engine.new_cache(2).append(ids, counts), whole)


def test_int8_prefill_takes_chunks_without_a_wanted_place(
    int8: StaticEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Decoder(int8).feed(IDS[:60]).copy()
    monkeypatch.setattr(static, "CHUNK", 16)
    chunked = Decoder(int8).feed(IDS[:60])
    # Activations are quantized by the run, so that runs of other tokens round elsewhere.
    assert np.corrcoef(whole, chunked)[0, 1] > 0.99


def test_caches_of_one_engine_are_apart(int8: StaticEngine) -> None:
    first, second, alone = Decoder(int8), Decoder(int8), Decoder(int8)
    first.feed(IDS[:20])
    second.feed(IDS[40:50])
    alone.feed(IDS[:20])
    for token in IDS[20:30]:
        second.feed((token,))
        np.testing.assert_array_equal(first.feed((token,)), alone.feed((token,)))


def test_used_buffers_are_used_again_and_do_not_show(int8: StaticEngine) -> None:
    first = int8.new_cache()
    before = first.append(np.array([IDS[:9]])).copy()
    first.append(np.array([IDS[9:90]]))
    buffers = first._buffers
    del first
    again = int8.new_cache()
    assert again._buffers is buffers
    assert int8.new_cache()._buffers is not buffers
    np.testing.assert_array_equal(again.append(np.array([IDS[:9]])), before)


@pytest.mark.parametrize("fast_blocks", [True, False])
def test_a_cpu_without_int8_block_products_runs_the_columns_alone(
    fast_blocks: bool, small_int8_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(static, "has_fast_blocks", lambda: fast_blocks)
    engine = StaticEngine.open(open_bundle(small_int8_bundle), threads=1)
    assert engine.new_cache().step(np.array([5])).shape == (1, 4096)
    assert (engine.decode is not None) == fast_blocks
