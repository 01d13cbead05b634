"""The cache in a device's memory, here the CPU's, against the portable decoder in float32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from atom_edge.bundle import open_bundle
from atom_edge.errors import BundleError, GenerationError
from atom_edge.runtimes.decoder import PortableDecoder, PortableGraph
from atom_edge.runtimes.device_cache import DeviceCache, DeviceDecoder
from atom_edge.runtimes.device_graph import DeviceGraph
from atom_edge.runtimes.providers import open_graph

CONTEXT = 128
IDS = np.random.default_rng(0).integers(5, 4096, CONTEXT).tolist()
# Float16 against float32; another token's logits are a hundred times as far.
PRECISION = 0.03


@pytest.fixture(scope="module")
def graph(small_cuda_bundle: Path) -> DeviceGraph:
    return DeviceGraph(open_bundle(small_cuda_bundle).graph("cuda"), "cpu", CONTEXT)


@pytest.fixture(scope="module")
def portable(small_cuda_bundle: Path) -> PortableGraph:
    return PortableGraph(open_graph(open_bundle(small_cuda_bundle).graph(), threads=1))


def assert_close(ours: np.ndarray, theirs: np.ndarray) -> None:
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=PRECISION)


def expected(portable: PortableGraph, ids: list[int]) -> np.ndarray:
    return PortableDecoder(portable, CONTEXT).feed(ids)


def test_the_precision_tells_tokens_apart(portable: PortableGraph) -> None:
    difference = expected(portable, IDS[:20]) - expected(portable, IDS[:21])
    assert np.abs(difference).max() > 20 * PRECISION


@pytest.mark.parametrize("prompt", [1, 2, 17, CONTEXT - 20])
def test_logits_are_the_portable_decoders(
    graph: DeviceGraph, portable: PortableGraph, prompt: int
) -> None:
    ours, theirs = DeviceDecoder(graph), PortableDecoder(portable, CONTEXT)
    assert_close(ours.feed(IDS[:prompt]), theirs.feed(IDS[:prompt]))
    for token in IDS[prompt : prompt + 20]:
        assert_close(ours.feed((token,)), theirs.feed((token,)))
    assert ours.token_ids == theirs.token_ids


def test_what_was_cropped_is_forgotten(graph: DeviceGraph, portable: PortableGraph) -> None:
    decoder = DeviceDecoder(graph)
    decoder.feed(IDS[:60])
    decoder.crop(30)
    assert_close(decoder.feed(IDS[50:60]), expected(portable, IDS[:30] + IDS[50:60]))
    decoder.crop(36)
    assert_close(decoder.feed((7,)), expected(portable, [*IDS[:30], *IDS[50:56], 7]))
    decoder.crop(0)
    assert_close(decoder.feed(IDS[5:9]), expected(portable, IDS[5:9]))


@pytest.mark.parametrize("tokens_at_once", [1, 64, 10_000])
def test_sequences_of_different_length_run_together(
    graph: DeviceGraph,
    portable: PortableGraph,
    tokens_at_once: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("atom_edge.runtimes.device_cache._TOKENS_AT_ONCE", tokens_at_once)
    sequences = [IDS[:9], IDS[20:60], IDS[70:100]]
    cache = DeviceCache(graph, 3)

    def append(parts: list[list[int]]) -> np.ndarray:
        counts = np.array([len(part) for part in parts])
        ids = np.zeros((3, counts.max() + 2), np.int64)
        for row, part in enumerate(parts):
            ids[row, : len(part)] = part
        return cache.append(ids, counts)

    assert_close(append(sequences), np.stack([expected(portable, s) for s in sequences]))
    more = [IDS[100:105], IDS[105:106], IDS[106:113]]
    together = [first + second for first, second in zip(sequences, more, strict=True)]
    assert_close(append(more), np.stack([expected(portable, s) for s in together]))
    for step in range(5):
        tokens = np.array([IDS[step + place] for place in (0, 30, 60)])
        together = [[*s, int(token)] for s, token in zip(together, tokens, strict=True)]
        assert_close(cache.step(tokens), np.stack([expected(portable, s) for s in together]))


def test_logits_of_any_places(graph: DeviceGraph, portable: PortableGraph) -> None:
    cache = DeviceCache(graph, 2)
    logits = cache.append(np.array([IDS[:10], IDS[10:20]]), places=np.array([0, 4, 13, 19]))
    wanted = [IDS[:1], IDS[:5], IDS[10:14], IDS[10:20]]
    assert_close(logits, np.stack([expected(portable, ids) for ids in wanted]))


def test_likeliest_tokens_need_no_logits(graph: DeviceGraph) -> None:
    prompts = np.array([IDS[:10], IDS[10:20]])
    stepped, left = DeviceCache(graph, 2), DeviceCache(graph, 2)
    likeliest = stepped.append(prompts).argmax(axis=1)
    assert left.append(prompts).argmax(axis=1).tolist() == likeliest.tolist()
    ours = left.step_greedily(likeliest).copy()
    for _ in range(20):
        likeliest = stepped.step(likeliest).argmax(axis=1)
        assert ours.tolist() == likeliest.tolist()
        ours = left.step_greedily().copy()


def test_used_buffers_are_used_again_and_do_not_show(graph: DeviceGraph) -> None:
    first = DeviceCache(graph)
    before = first.append(np.array([IDS[:9]])).copy()
    first.append(np.array([IDS[9:90]]))
    buffers = first._buffers
    del first
    again = DeviceCache(graph)
    assert again._buffers is buffers
    np.testing.assert_array_equal(again.append(np.array([IDS[:9]])), before)
    assert DeviceCache(graph)._buffers is not buffers


def test_the_context_is_a_limit(graph: DeviceGraph) -> None:
    cache = DeviceCache(graph, 2)
    with pytest.raises(GenerationError, match="129 tokens do not fit into a context of 128"):
        cache.append(np.zeros((2, 129), np.int64))
    cache.append(np.zeros((2, CONTEXT), np.int64), np.array([CONTEXT, 5]))
    with pytest.raises(GenerationError, match="129 tokens do not fit"):
        cache.step(np.array([1, 1]))
    assert cache.lengths.tolist() == [CONTEXT, 5]
    with pytest.raises(GenerationError, match="no tokens"):
        DeviceDecoder(graph).feed(())


def test_another_graph_is_refused(small_cuda_bundle: Path) -> None:
    with pytest.raises(BundleError, match=r"not a decoder for CUDA.*attention_mask"):
        DeviceGraph(open_bundle(small_cuda_bundle).graph(), "cpu", CONTEXT)
