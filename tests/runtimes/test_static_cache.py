"""The decoder over a static cache, against the portable decoder of the same bundle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from atom_edge.bundle import open_bundle
from atom_edge.errors import GenerationError
from atom_edge.runtimes.decoder import PortableDecoder, PortableGraph
from atom_edge.runtimes.providers import open_graph
from atom_edge.runtimes.session import AtomSession
from atom_edge.runtimes.static_cache import ROWS, StaticCache
from atom_edge.runtimes.static_decoder import StaticDecoder
from atom_edge.runtimes.static_graphs import StaticGraphs

CONTEXT = 128
IDS = np.random.default_rng(0).integers(5, 4096, CONTEXT).tolist()


@pytest.fixture(scope="module")
def graphs(small_bundle: Path) -> StaticGraphs:
    bundle = open_bundle(small_bundle)
    return StaticGraphs(lambda: open_graph(bundle.graph("prefill"), threads=1), None)


@pytest.fixture(scope="module")
def portable(small_bundle: Path) -> PortableGraph:
    return PortableGraph(open_graph(open_bundle(small_bundle).graph(), threads=1))


def assert_equal(ours: np.ndarray, theirs: np.ndarray) -> None:
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5)


@pytest.mark.parametrize("prompt", [1, 2, ROWS - 1, ROWS, ROWS + 1, CONTEXT - 1])
def test_logits_are_the_portable_decoders(
    graphs: StaticGraphs, portable: PortableGraph, prompt: int
) -> None:
    ours, theirs = StaticDecoder(graphs, CONTEXT), PortableDecoder(portable, CONTEXT)
    assert_equal(ours.feed(IDS[:prompt]), theirs.feed(IDS[:prompt]))
    for token in IDS[prompt : prompt + 70]:
        assert_equal(ours.feed((token,)), theirs.feed((token,)))
    assert ours.token_ids == theirs.token_ids


def test_what_was_cropped_is_forgotten(graphs: StaticGraphs, portable: PortableGraph) -> None:
    ours, theirs = StaticDecoder(graphs, CONTEXT), PortableDecoder(portable, CONTEXT)
    for decoder in (ours, theirs):
        decoder.feed(IDS[:100])
        decoder.crop(30)
        decoder.feed(IDS[50:60])
        decoder.crop(36)
    assert_equal(ours.feed((7,)), theirs.feed((7,)))
    ours.crop(0)
    theirs.crop(0)
    assert_equal(ours.feed(IDS[5:9]), theirs.feed(IDS[5:9]))


@pytest.mark.parametrize("chunk", [7, 16, CONTEXT])
def test_sequences_of_different_length_run_together(
    graphs: StaticGraphs, portable: PortableGraph, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atom_edge.runtimes.static_cache.CHUNK", chunk)
    lengths = np.array([9, 60, 31])
    prompts = np.zeros((3, 60), np.int64)
    alone = [PortableDecoder(portable, CONTEXT) for _ in lengths]
    for row, length in enumerate(lengths):
        prompts[row, :length] = IDS[:length]
    together = StaticCache(graphs, CONTEXT, 3)
    logits = together.append(prompts, lengths)
    expected = [d.feed(IDS[:n]) for d, n in zip(alone, lengths, strict=True)]
    assert_equal(logits, np.stack(expected))
    for step in range(40):
        tokens = np.array([IDS[n + step] for n in lengths])
        expected = [d.feed((int(t),)) for d, t in zip(alone, tokens, strict=True)]
        assert_equal(together.step(tokens), np.stack(expected))


@pytest.mark.parametrize("chunk", [1, 16, 50])
def test_logits_of_any_places_come_from_their_chunks(
    graphs: StaticGraphs, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = np.array([IDS[:50], IDS[50:100]])
    places = np.array([99, 0, 17, 49, 50, 17])
    whole = StaticCache(graphs, CONTEXT, 2).append(prompts, places=places)
    monkeypatch.setattr("atom_edge.runtimes.static_cache.CHUNK", chunk)
    cache = StaticCache(graphs, CONTEXT, 2)
    assert_equal(cache.append(prompts, places=places), whole)
    assert cache.lengths.tolist() == [50, 50]
    assert cache.append(prompts[:, :3], places=places[:0]).shape == (0, graphs.vocab_size)


def test_int8_prefill_takes_chunks_without_a_wanted_place(
    small_int8_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = AtomSession.from_pretrained(small_int8_bundle, threads=1)
    whole = session.new_decoder().feed(IDS[:60]).copy()
    monkeypatch.setattr("atom_edge.runtimes.static_cache.CHUNK", 16)
    chunked = session.new_decoder().feed(IDS[:60])
    # Activations are quantized by the run, so that runs of other tokens round elsewhere.
    assert np.corrcoef(whole, chunked)[0, 1] > 0.99


def test_the_context_is_a_limit(graphs: StaticGraphs) -> None:
    decoder = StaticDecoder(graphs, CONTEXT)
    decoder.feed(IDS)
    with pytest.raises(GenerationError, match="1 tokens cannot follow 128"):
        decoder.feed((5,))
    with pytest.raises(GenerationError, match="0 tokens"):
        StaticDecoder(graphs, CONTEXT).feed(())
    with pytest.raises(GenerationError, match="129 tokens do not fit"):
        StaticCache(graphs, CONTEXT, 2).append(np.zeros((2, 129), np.int64))
    cache = StaticCache(graphs, CONTEXT)
    cache.append(np.zeros((1, 100), np.int64))
    with pytest.raises(GenerationError, match="130 tokens do not fit"):
        cache.append(np.zeros((1, 30), np.int64))
    assert cache.lengths.tolist() == [100]


def test_decoders_of_one_session_do_not_share_a_cache(small_int8_bundle: Path) -> None:
    session = AtomSession.from_pretrained(small_int8_bundle, threads=1)
    first, second = session.new_decoder(), session.new_decoder()
    assert isinstance(first, StaticDecoder)
    first.feed(IDS[:20])
    second.feed(IDS[40:50])
    alone = session.new_decoder()
    alone.feed(IDS[:20])
    for token in IDS[20:30]:
        second.feed((token,))
        np.testing.assert_array_equal(first.feed((token,)), alone.feed((token,)))


def test_a_used_cache_is_used_again_and_does_not_show(small_int8_bundle: Path) -> None:
    session = AtomSession.from_pretrained(small_int8_bundle, threads=1)
    decoder = session.new_decoder()
    assert isinstance(decoder, StaticDecoder)
    expected = [decoder.feed(IDS[:9]).copy(), decoder.feed((7,)).copy()]
    decoder.crop(0)
    decoder.feed(IDS[30:120])
    buffers = decoder._cache._buffers
    del decoder
    again = session.new_decoder()
    assert isinstance(again, StaticDecoder)
    assert again._cache._buffers is buffers
    assert session.new_decoder()._cache._buffers is not buffers  # type: ignore[attr-defined]
    for logits, tokens in zip(expected, (IDS[:9], (7,)), strict=True):
        np.testing.assert_array_equal(again.feed(tokens), logits)
