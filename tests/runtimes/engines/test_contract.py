"""What every engine promises, against PyTorch running each sequence alone.

The native engine computes in int8: there the operator alone, fed each sequence at once, stands for
PyTorch, and every bit counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from decoders import Sequences, open_session

from atom_edge.bundle import open_bundle
from atom_edge.errors import GenerationError
from atom_edge.exporters.description import describe
from atom_edge.exporters.native import Scheme, build
from atom_edge.modeling import AtomForCausalLM
from atom_edge.runtimes.decoder import Decoder
from atom_edge.runtimes.engines.cuda import CudaEngine
from atom_edge.runtimes.engines.interface import Engine
from atom_edge.runtimes.engines.native import NativeEngine
from atom_edge.runtimes.engines.portable import PortableEngine
from atom_edge.runtimes.engines.static import StaticEngine

CONTEXT = 128
IDS = np.random.default_rng(0).integers(5, 4096, CONTEXT).tolist()
# float32, and float16 where the graph computes in it; another token's logits are far from both.
PRECISION = {"portable": 1e-4, "static": 1e-4, "native": 0, "cuda": 0.03}
Expected = Callable[[Sequence[int]], np.ndarray]


@pytest.fixture(scope="module", params=PRECISION)
def engine(
    request: pytest.FixtureRequest,
    small_bundle: Path,
    small_cuda_bundle: Path,
    native_graph: onnx.ModelProto,
) -> Engine:
    if request.param == "portable":
        return PortableEngine.open(open_bundle(small_bundle), threads=1)
    if request.param == "static":
        return StaticEngine.open(open_bundle(small_bundle), threads=1)
    if request.param == "native":
        return NativeEngine(native_graph.SerializeToString(), CONTEXT)
    return CudaEngine(open_bundle(small_cuda_bundle).graph("cuda"), "cpu", CONTEXT)


@pytest.fixture(scope="module")
def native_graph(model: AtomForCausalLM) -> onnx.ModelProto:
    return build(describe(model), Scheme())


@pytest.fixture(scope="module")
def expected(model: AtomForCausalLM, engine: Engine, native_graph: onnx.ModelProto) -> Expected:
    """Logits `[V]` of what follows the tokens."""
    if isinstance(engine, NativeEngine):
        session = open_session(native_graph)
        return lambda ids: Sequences(session, context=CONTEXT).append(
            np.array([ids]), rows=np.array([len(ids) - 1])
        )[0]

    @torch.no_grad()
    def run(ids: Sequence[int]) -> np.ndarray:
        return model(torch.tensor([list(ids)])).logits[0, -1].numpy()

    return run


@pytest.fixture
def assert_close(request: pytest.FixtureRequest) -> Callable[[np.ndarray, np.ndarray], None]:
    precision = PRECISION[request.node.callspec.params["engine"]]

    def check(ours: np.ndarray, theirs: np.ndarray) -> None:
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=precision)

    return check


def test_the_precision_tells_tokens_apart(expected: Expected) -> None:
    difference = np.abs(expected(IDS[:20]) - expected(IDS[:21])).max()
    assert difference > 20 * max(PRECISION.values())


@pytest.mark.parametrize("prompt", [1, 2, 17, 64, CONTEXT - 12])
def test_a_prompt_and_steps(
    engine: Engine, expected: Expected, assert_close: Callable[..., None], prompt: int
) -> None:
    decoder = Decoder(engine)
    assert_close(decoder.feed(IDS[:prompt]), expected(IDS[:prompt]))
    for end in range(prompt + 1, prompt + 12):
        assert_close(decoder.feed(IDS[end - 1 : end]), expected(IDS[:end]))
    assert decoder.token_ids == IDS[: prompt + 11]


def test_what_was_cropped_is_forgotten(
    engine: Engine, expected: Expected, assert_close: Callable[..., None]
) -> None:
    decoder = Decoder(engine)
    decoder.feed(IDS[:60])
    decoder.crop(30)
    assert_close(decoder.feed(IDS[50:60]), expected(IDS[:30] + IDS[50:60]))
    decoder.crop(36)
    assert_close(decoder.feed((7,)), expected([*IDS[:30], *IDS[50:56], 7]))
    decoder.crop(0)
    assert_close(decoder.feed(IDS[5:9]), expected(IDS[5:9]))


def test_a_prompt_goes_on_where_the_cache_agrees(
    engine: Engine, expected: Expected, assert_close: Callable[..., None]
) -> None:
    decoder = Decoder(engine)
    for prompt in (IDS[:9], IDS[:20], IDS[:4], [*IDS[:3], 7], IDS[30:31], IDS[30:31]):
        assert_close(decoder.begin(prompt), expected(prompt))
        assert decoder.token_ids == prompt


def test_sequences_of_different_length_run_together(
    engine: Engine, expected: Expected, assert_close: Callable[..., None]
) -> None:
    cache = engine.new_cache(3)
    together: list[list[int]] = [[], [], []]

    def append(parts: list[list[int]]) -> None:
        counts = np.array([len(part) for part in parts])
        ids = np.zeros((3, counts.max() + 2), np.int64)
        for row, part in enumerate(parts):
            ids[row, : len(part)] = part
            together[row] += part
        assert_close(cache.append(ids, counts), np.stack([expected(s) for s in together]))

    append([IDS[:9], IDS[20:60], IDS[70:100]])
    append([IDS[100:105], IDS[105:106], IDS[106:113]])
    cache.crop(np.array([12, 100, 30]))
    together = [together[0][:12], together[1], together[2][:30]]
    for step in range(8):
        tokens = np.array([IDS[step + place] for place in (0, 30, 60)])
        together = [[*s, int(token)] for s, token in zip(together, tokens, strict=True)]
        assert_close(cache.step(tokens), np.stack([expected(s) for s in together]))
    assert cache.lengths.tolist() == [len(s) for s in together]
    likeliest = cache.step_greedily(tokens)
    assert likeliest.tolist() == [int(expected([*s, s[-1]]).argmax()) for s in together]


def test_some_sequences_run_while_others_wait(
    engine: Engine, expected: Expected, assert_close: Callable[..., None]
) -> None:
    random = np.random.default_rng(1)
    cache = engine.new_cache(4)
    together: list[list[int]] = [[], [], [], []]
    for counts in ([0, 3, 0, 0], [5, 0, 0, 9], [1, 1, 0, 1], [0, 0, 0, 1], [0, 0, 20, 2], [1] * 4):
        ids = random.integers(5, 4096, (4, max(counts)))
        for row, count in enumerate(counts):
            together[row] += ids[row, :count].tolist()
        logits = cache.append(ids, np.array(counts))
        some = [s for s, count in zip(together, counts, strict=True) if count]
        assert_close(logits, np.stack([expected(s) for s in some]))
        assert cache.lengths.tolist() == [len(s) for s in together]
    with pytest.raises(GenerationError, match="no tokens"):
        cache.append(ids, np.zeros(4, np.int64))


def test_a_beginning_is_copied_to_another_sequence(
    engine: Engine, expected: Expected, assert_close: Callable[..., None]
) -> None:
    cache = engine.new_cache(3)
    cache.append(np.array([IDS[:40]] * 3), np.array([40, 1, 7]))
    cache.copy(0, 1, 33)
    cache.copy(0, 2, 3)
    assert cache.lengths.tolist() == [40, 33, 3]
    cache.append(np.array([IDS[60:70]] * 3))
    logits = cache.step(np.array([7, 8, 9]))
    wanted = [IDS[:40], IDS[:33], IDS[:3]]
    texts = [[*s, *IDS[60:70], t] for s, t in zip(wanted, (7, 8, 9), strict=True)]
    assert_close(logits, np.stack([expected(text) for text in texts]))


def test_logits_of_any_places(
    engine: Engine, expected: Expected, assert_close: Callable[..., None]
) -> None:
    ids = np.array([IDS[:10], IDS[10:20]])
    logits = engine.new_cache(2).append(ids, places=np.array([0, 4, 13, 19]))
    wanted = [IDS[:1], IDS[:5], IDS[10:14], IDS[10:20]]
    assert_close(logits, np.stack([expected(one) for one in wanted]))
    assert engine.new_cache(2).append(ids, places=np.zeros(0, np.int64)).shape == (0, 4096)


def test_a_cache_forks(
    engine: Engine, expected: Expected, assert_close: Callable[..., None]
) -> None:
    beginnings = engine.new_cache(2)
    beginnings.append(np.array([IDS[:30], IDS[40:70]]), np.array([30, 11]))
    cache = beginnings.fork(np.array([1, 0, 1]))
    beginnings.step(np.array([5, 6]))
    assert cache.lengths.tolist() == [11, 30, 11]
    logits = cache.append(np.array([IDS[80:83]] * 3))
    short, long = expected(IDS[40:51] + IDS[80:83]), expected(IDS[:30] + IDS[80:83])
    assert_close(logits, np.stack([short, long, short]))
    begun = engine.new_cache(2).fork(np.array([1])).append(np.array([IDS[:3]]))
    assert_close(begun, expected(IDS[:3])[None])


def test_the_context_is_a_limit(engine: Engine) -> None:
    cache = engine.new_cache(2)
    with pytest.raises(GenerationError, match="129 tokens cannot follow 0 in a context of 128"):
        cache.append(np.full((2, CONTEXT + 1), 5))
    assert cache.lengths.tolist() == [0, 0]
    cache.append(np.full((2, CONTEXT), 5), np.array([CONTEXT, 5]))
    with pytest.raises(GenerationError, match="1 tokens cannot follow 128"):
        cache.step(np.array([5, 5]))
    assert cache.lengths.tolist() == [CONTEXT, 5]
    with pytest.raises(GenerationError, match="0 tokens cannot follow"):
        Decoder(engine).feed(())


@pytest.mark.parametrize("length", [1, 16, 37, CONTEXT - 1])
def test_a_cache_that_was_saved_goes_on_to_the_bit(engine: Engine, length: int) -> None:
    decoder = Decoder(engine)
    decoder.feed(IDS[:length])
    saved = [array.copy() for array in decoder.arrays()]
    rest = iter(saved)

    def take(shape: tuple[int, ...], dtype: object) -> np.ndarray:
        array = next(rest)
        assert array.shape == shape
        assert array.dtype == dtype
        return array

    Decoder(engine).feed(IDS[40:90])  # what is used again holds other numbers
    loaded = Decoder.loaded(engine, IDS[:length], take)
    assert next(rest, None) is None
    assert loaded.token_ids == IDS[:length]
    for one, other in zip(saved, loaded.arrays(), strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(loaded.feed((7,)), decoder.feed((7,)))
