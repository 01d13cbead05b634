"""Models of other classes, exported: the same text as transformers' own, in the same session."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from families import COMPUTED, OTHER, save_random
from numpy.typing import NDArray

from atom_edge import AtomSession, open_snapshot
from atom_edge.errors import ExportError
from atom_edge.exporters.export import export
from atom_edge.exporters.passes import fuse, tidy
from atom_edge.exporters.precision.blocks import quantize
from atom_edge.judge import judge_graph
from atom_edge.manifest import Quantization, Role
from atom_edge.runtimes.engines.portable import PortableEngine, PortableGraph
from atom_edge.runtimes.providers import open_graph

if TYPE_CHECKING:
    from tests.conftest import SharedFolder

SMALL = {"num_hidden_layers": 2, "max_position_embeddings": 64}
PROMPT = "the water cycle is the way"
TOKENS = 24
# Standard deviations of the logits that a chosen token may be behind the likeliest: rounding in
# float32; in int8 random weights move every logit, and near ties are many.
FLOAT_TIE, INT8_TIE = 1e-4, 0.2
# Random weights make flat predictions, which int8 turns more often than a trained model's.
LIMITS: dict[str, Any] = {"max_perplexity_ratio": 1.1, "max_kl": 0.05}


@pytest.mark.parametrize(
    "name",
    [
        *("gpt2", "pythia", "gpt-neo", "opt", "gemma3", "phi", "stablelm"),
        *("llama3", "qwen2", "qwen3", "smollm3"),
    ],
)
def test_the_graphs_compute_what_the_class_does(
    shared: SharedFolder, tmp_path: Path, name: str
) -> None:
    family, options = (OTHER | COMPUTED)[name]
    theirs = save_random(tmp_path, family, SMALL | options)
    snapshot = open_snapshot(tmp_path)
    traced = shared.trace(snapshot.decoder)
    engine = engine_of(traced, tmp_path / "model.onnx")
    ids = np.random.default_rng(0).integers(3, 280, (2, 60))
    with torch.no_grad():
        expected = theirs(input_ids=torch.from_numpy(ids)).logits.numpy()
    # Sequences of different lengths, longer than the windows, in one cache.
    cache = engine.new_cache(2)
    cache.append(ids[:, :40], np.array([40, 7]))
    second = np.stack([ids[0, 40:51], ids[1, 7:18]])
    logits = cache.append(second, places=np.arange(22)).reshape(2, 11, -1)
    assert np.abs(logits[0] - expected[0, 40:51]).max() < 1e-4
    assert np.abs(logits[1] - expected[1, 7:18]).max() < 1e-4
    assert_greedy_text_is_theirs(theirs, ids[0, :8], continued(engine, ids[0, :8]), FLOAT_TIE)

    file = tmp_path / "int8.onnx"
    int8 = engine_of(quantize(tidy(fuse(traced))), file)
    logits = int8.new_cache(1).append(ids[:1], places=np.arange(60))
    assert np.abs(logits - expected[0]).mean() < 0.05 * expected.std()
    assert file.stat().st_size < 0.6 * sum(p.numel() * 4 for p in theirs.parameters())
    assert_greedy_text_is_theirs(theirs, ids[0, :8], continued(int8, ids[0, :8]), INT8_TIE)


def engine_of(graph: ir.Model, file: Path) -> PortableEngine:
    ir.save(graph, file)
    judge_graph(file.read_bytes(), Role.MODEL, 64, str(file))
    return PortableEngine(PortableGraph(open_graph(file, threads=1)), 64)


def continued(engine: PortableEngine, ids: NDArray[np.int64]) -> list[int]:
    """The likeliest tokens after `ids` `[T]`, one by one."""
    cache = engine.new_cache(1)
    text = [int(cache.append(ids[None])[0].argmax())]
    while len(text) < TOKENS:
        text.append(int(cache.step(np.array(text[-1:]))[0].argmax()))
    return text


def assert_greedy_text_is_theirs(
    theirs: Any, prompt: Sequence[int], text: Sequence[int], tie: float
) -> None:
    """Each token of `text` is transformers' likeliest, or behind it by at most `tie`.

    The gap is counted in standard deviations of the logits, after the same tokens before.
    """
    ids = torch.tensor([[*prompt, *text]])
    with torch.no_grad():
        logits = theirs(input_ids=ids).logits[0, len(prompt) - 1 : -1]
    chosen = logits.gather(1, ids[0, len(prompt) :, None])[:, 0]
    behind = (logits.max(1).values - chosen) / logits.std()
    assert behind.max() < tie, behind


@pytest.mark.parametrize(
    ("name", "quantization"),
    [("gpt2", "int8"), ("gemma3", "none"), ("gemma3", "int8"), ("smollm3", "int8")],
)
def test_greedy_text_of_a_bundle_is_transformers_own(
    tmp_path: Path, name: str, quantization: Quantization
) -> None:
    family, options = (OTHER | COMPUTED)[name]
    theirs = save_random(tmp_path / "snapshot", family, SMALL | options)
    bundle = tmp_path / "bundle"
    export(open_snapshot(tmp_path / "snapshot"), bundle, quantization=quantization, **LIMITS)
    session = AtomSession.from_pretrained(bundle)
    reply = session.generate(PROMPT, max_new_tokens=TOKENS, temperature=0)
    tie = FLOAT_TIE if quantization == "none" else INT8_TIE
    assert_greedy_text_is_theirs(theirs, session.tokenizer.encode(PROMPT), reply.token_ids, tie)


def test_there_is_no_graph_for_cuda(tmp_path: Path) -> None:
    family, options = OTHER["gpt2"]
    save_random(tmp_path / "snapshot", family, SMALL | options)
    with pytest.raises(ExportError, match="'cuda' of GPT2LMHeadModel"):
        export(open_snapshot(tmp_path / "snapshot"), tmp_path / "bundle", target="cuda")
