"""Exports of unusual sizes: long contexts, large vocabularies, more weights than a file holds."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from atom_edge import AtomSession
from atom_edge.bundle import open_bundle
from atom_edge.checkpoint import open_snapshot
from atom_edge.config import AtomConfig
from atom_edge.errors import ExportError
from atom_edge.exporters.export import export
from atom_edge.manifest import Quantization
from atom_edge.modeling import AtomForCausalLM

MakeSnapshot = Callable[..., Path]
MEASURE = """
import resource, sys
from atom_edge.checkpoint import open_snapshot
from atom_edge.exporters.export import export
from pathlib import Path
export(open_snapshot(sys.argv[1]), Path(sys.argv[2]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.parametrize("quantization", ["none", "int8"])
def test_a_long_context_costs_nothing_until_it_is_used(
    make_snapshot: MakeSnapshot, tmp_path: Path, quantization: Quantization
) -> None:
    snapshot = make_snapshot(
        max_position_embeddings=131072, num_hidden_layers=1, head_dim=64, num_key_value_heads=4
    )
    bundle = export(open_snapshot(snapshot), tmp_path / "out", quantization=quantization).path
    weights = sum(parameter.nbytes for parameter in open_snapshot(snapshot).model.parameters())
    for role in open_bundle(bundle).roles:
        assert open_bundle(bundle).graph(role).stat().st_size < weights + 2**20
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    prompt = list(range(10, 110))
    assert AtomSession.from_pretrained(bundle).generate(prompt, max_new_tokens=20).token_ids
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024


def test_memory_of_an_export_is_bounded_where_the_vocabulary_is_large(
    make_snapshot: MakeSnapshot, tmp_path: Path
) -> None:
    snapshot = make_snapshot(vocab_size=49152, num_hidden_layers=1, max_position_embeddings=512)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(snapshot), str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 2500, f"{done.stdout} MiB"


@pytest.mark.parametrize(
    ("quantization", "vocabulary", "advice"),
    [("none", 280_000, "--quantize int8"), ("int8", 1_000_000, "at most 2\\.$")],
)
def test_more_weights_than_a_file_holds_are_refused_before_work_begins(
    small_snapshot: Path,
    tmp_path: Path,
    quantization: Quantization,
    vocabulary: int,
    advice: str,
) -> None:
    with torch.device("meta"):
        large = AtomForCausalLM(AtomConfig(vocab_size=vocabulary, hidden_size=2048))
    snapshot = open_snapshot(small_snapshot)
    snapshot.decoder.model = large
    start = time.monotonic()
    with pytest.raises(ExportError, match=f"billion weights.*{advice}"):
        export(snapshot, tmp_path / "out", quantization=quantization)
    assert time.monotonic() - start < 1
    assert list(tmp_path.iterdir()) == []


def test_large_logits_are_held_to_the_noise_of_their_own_size(
    make_snapshot: MakeSnapshot, tmp_path: Path
) -> None:
    """Peaked attention and logits of a few units: float32 itself is far from float64."""
    snapshot = open_snapshot(
        make_snapshot(
            num_hidden_layers=4, hidden_size=256, head_dim=64, initializer_range=0.24, xsa=False
        )
    )
    with torch.no_grad():
        snapshot.model.model.norm.weight.mul_(4)
    measured = export(snapshot, tmp_path / "out").manifest.validation.measured[0]
    assert measured["float64_error.pytorch"].value > 1e-4
    assert measured["float64_error.graph"].holds
    assert measured["greedy_gap"].holds


def test_a_model_without_a_beginning_token_exports(
    make_snapshot: MakeSnapshot, tmp_path: Path
) -> None:
    snapshot = make_snapshot(num_hidden_layers=1)
    (snapshot / "generation_config.json").unlink(missing_ok=True)
    for name in ("config.json", "tokenizer_config.json", "special_tokens_map.json"):
        settings = json.loads((snapshot / name).read_text(encoding="utf-8"))
        named = {"bos_token": None} if name == "tokenizer_config.json" else {}
        if name == "config.json":
            named = {"bos_token_id": None, "pad_token_id": None}
        for role in ("bos_token", "pad_token"):
            settings.pop(role, None)
        (snapshot / name).write_text(json.dumps(settings | named), encoding="utf-8")
    out = tmp_path / "out"
    command = [sys.executable, "-m", "atom_edge.cli", "export", str(snapshot), "-o", str(out)]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["tokens_per_second"] > 0
    genai = json.loads((out / "genai_config.json").read_text())["model"]
    assert "bos_token_id" not in genai
    assert None not in genai.values()
