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


def test_caches_of_one_engine_are_apart(engine: StaticEngine) -> None:
    first, second, alone = Decoder(engine), Decoder(engine), Decoder(engine)
    first.feed(IDS[:20])
    second.feed(IDS[40:50])
    alone.feed(IDS[:20])
    for token in IDS[20:30]:
        second.feed((token,))
        np.testing.assert_array_equal(first.feed((token,)), alone.feed((token,)))


def test_used_buffers_are_used_again_and_do_not_show(engine: StaticEngine) -> None:
    first = engine.new_cache()
    before = first.append(np.array([IDS[:9]])).copy()
    first.append(np.array([IDS[9:90]]))
    buffers = first._buffers
    del first
    again = engine.new_cache()
    assert again._buffers is buffers
    assert engine.new_cache()._buffers is not buffers
    np.testing.assert_array_equal(again.append(np.array([IDS[:9]])), before)
