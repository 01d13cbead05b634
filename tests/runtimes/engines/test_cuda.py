"""What is peculiar to the cache in a device's memory, here the CPU's."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from atom_edge.bundle import open_bundle
from atom_edge.errors import BundleError
from atom_edge.runtimes.engines import cuda_cache
from atom_edge.runtimes.engines.cuda import CudaEngine

CONTEXT = 128
IDS = np.random.default_rng(0).integers(5, 4096, CONTEXT).tolist()


@pytest.fixture(scope="module")
def engine(small_cuda_bundle: Path) -> CudaEngine:
    return CudaEngine(open_bundle(small_cuda_bundle).graph("cuda"), "cpu", CONTEXT)


@pytest.mark.parametrize("tokens_at_once", [1, 64])
def test_a_prompt_of_many_tokens_is_run_in_parts(
    engine: CudaEngine, tokens_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids, counts = np.array([IDS[:40], IDS[40:80], IDS[80:120]]), np.array([9, 40, 30])
    whole = engine.new_cache(3).append(ids, counts)
    monkeypatch.setattr(cuda_cache, "TOKENS_AT_ONCE", tokens_at_once)
    parts = engine.new_cache(3).append(ids, counts)
    np.testing.assert_allclose(parts, whole, rtol=0, atol=0.03)


def test_likeliest_tokens_need_no_logits(engine: CudaEngine) -> None:
    prompts = np.array([IDS[:10], IDS[10:20]])
    stepped, left = engine.new_cache(2), engine.new_cache(2)
    likeliest = stepped.append(prompts).argmax(axis=1)
    assert left.append(prompts).argmax(axis=1).tolist() == likeliest.tolist()
    ours = left.step_greedily(likeliest).copy()
    for _ in range(20):
        likeliest = stepped.step(likeliest).argmax(axis=1)
        assert ours.tolist() == likeliest.tolist()
        ours = left.step_greedily(None).copy()


def test_used_buffers_are_used_again_and_do_not_show(engine: CudaEngine) -> None:
    first = engine.new_cache()
    before = first.append(np.array([IDS[:9]])).copy()
    first.append(np.array([IDS[9:90]]))
    buffers = first._buffers
    del first
    again = engine.new_cache()
    assert again._buffers is buffers
    np.testing.assert_array_equal(again.append(np.array([IDS[:9]])), before)
    assert engine.new_cache()._buffers is not buffers


def test_another_thread_goes_on_with_a_cache(engine: CudaEngine) -> None:
    prompts = np.array([IDS[:10], IDS[10:20]])
    cache, other = engine.new_cache(2), engine.new_cache(2)
    first = cache.append(prompts).argmax(axis=1)
    other.append(prompts)
    run, here = other._buffers._run, threading.local()

    def run_as_onnxruntime_does(*arguments: object) -> None:
        """The first runs in a thread are for the recording."""
        for _ in range(1 if hasattr(here, "recorded") else 3):
            run(*arguments)
        here.recorded = True

    other._buffers._run = run_as_onnxruntime_does
    found: list[list[int]] = []

    def step() -> None:
        found.append(other.step_greedily(first).tolist())

    for _ in range(2):
        thread = threading.Thread(target=step)
        thread.start()
        thread.join()
    assert found[0] == cache.step_greedily(first).tolist()
    assert found[1] == cache.step_greedily(first).tolist()


def test_another_graph_is_refused(small_cuda_bundle: Path) -> None:
    with pytest.raises(BundleError, match=r"not a decoder for CUDA.*attention_mask"):
        CudaEngine(open_bundle(small_cuda_bundle).graph(), "cpu", CONTEXT)
