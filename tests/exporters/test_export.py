"""The export from end to end, on small real snapshots."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import onnx
import onnx_ir as ir
import pytest

from atom_edge.bundle import open_bundle
from atom_edge.checkpoint import open_snapshot
from atom_edge.errors import BundleError, ExportError, ValidationError
from atom_edge.exporters import export as pipeline
from atom_edge.exporters import graphs
from atom_edge.exporters.graphs import MAX_KL, MAX_PERPLEXITY_RATIO, NATIVE_MAX_KL
from atom_edge.exporters.native import SCHEMES
from atom_edge.exporters.origin import locate_origin
from atom_edge.exporters.portable import LeftPaddedGraph
from atom_edge.exporters.repeat import check, validate_bundle
from atom_edge.manifest import Measured, Role, Validation
from atom_edge.runtimes.session import AtomSession
from atom_edge.tokenizer import Tokenizer

if TYPE_CHECKING:
    from tests.conftest import SharedFolder

OPERATORS_OF_BROWSERS = {
    "QuickGelu",
    "RotaryEmbedding",
    "SkipSimplifiedLayerNormalization",
}
BUNDLE_FILES = {
    "README.md",
    "config.json",
    "genai_config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
}


def validate_again(folder: Path, against: Path) -> Validation:
    bundle = open_bundle(folder)
    return validate_bundle(bundle, locate_origin(bundle, against))


def value(measured: Measured, name: str) -> float:
    found = measured[name].value
    assert found is not None
    return found


def test_a_float_bundle_is_the_pytorch_model(small_bundle: Path) -> None:
    bundle = open_bundle(small_bundle)
    assert set(bundle.manifest.files) == BUNDLE_FILES | {"onnx/model.onnx", "onnx/prefill.onnx"}
    validation = bundle.manifest.validation
    assert validation.effort == "quick"
    assert [measured.path for measured in validation.measured] == ["model", "static"]
    for measured in validation.measured:
        assert measured.failure is None
        noise = value(measured, "float64_error.pytorch")
        assert 0 < value(measured, "float64_error.graph") < 10 * noise
        assert measured["logit_difference.batches"].limit is not None
        assert value(measured, "mean_kl.prefill") == pytest.approx(0, abs=1e-8)
        assert value(measured, "greedy_gap") < 1e-4
    onnx.checker.check_model(bundle.graph(), full_check=True)


def test_an_int8_bundle_is_small_and_close(small_bundle: Path, small_int8_bundle: Path) -> None:
    bundle = open_bundle(small_int8_bundle)
    graphs = {f"onnx/{role}.onnx" for role in ("model_quantized", "native")}
    assert set(bundle.manifest.files) == BUNDLE_FILES | graphs
    validation = bundle.manifest.validation
    assert (validation.max_perplexity_ratio, validation.max_kl) == (MAX_PERPLEXITY_RATIO, MAX_KL)
    for measured in validation.measured:
        assert 0 < value(measured, "mean_kl.prefill") <= MAX_KL
        assert value(measured, "perplexity_ratio.decode") <= MAX_PERPLEXITY_RATIO
        assert measured["perplexity_ratio.prefill"].standard_error > 0
    ratio = bundle.graph().stat().st_size / open_bundle(small_bundle).graph().stat().st_size
    assert ratio < 0.35
    graph = ir.load(bundle.graph()).graph
    vocabulary = [v.name for v in graph.initializers.values() if v.const_value.size == 4096 * 64]
    assert len(vocabulary) == 1, "the tied embedding is stored once"


def test_the_fastest_native_scheme_that_holds_is_taken(small_int8_bundle: Path) -> None:
    validation = open_bundle(small_int8_bundle).manifest.validation
    (taken,) = (one for one in validation.measured if one.path == "native")
    schemes = [str(scheme) for scheme in SCHEMES]
    faster = schemes[: schemes.index(taken.scheme)]
    assert [one.scheme for one in validation.left_out if one.path == "native"] == faster
    if taken.scheme != schemes[-1]:
        assert value(taken, "mean_kl.prefill") <= NATIVE_MAX_KL


def test_a_bundle_may_have_the_native_graph_alone(small_snapshot: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"no graphs for the target 'native'.* 'none'"):
        pipeline.export(open_snapshot(small_snapshot), tmp_path / "float", target="native")
    bundle = tmp_path / "native"
    pipeline.export(open_snapshot(small_snapshot), bundle, target="native", quantization="int8")
    assert open_bundle(bundle).roles == (Role.NATIVE,)
    assert len(AtomSession.from_pretrained(bundle).generate("Water", max_new_tokens=3).token_ids)
    check(validate_again(bundle, small_snapshot))


def test_a_graph_for_browsers_has_no_operators_of_int8(small_web_bundle: Path) -> None:
    bundle = open_bundle(small_web_bundle)
    assert bundle.roles == (Role.MODEL,)
    graph = ir.load(bundle.graph()).graph
    assert {node.op_type for node in graph if node.domain} <= OPERATORS_OF_BROWSERS
    assert not {node.op_type for node in graph} & {"DequantizeLinear", "MatMulInteger"}
    (measured,) = bundle.manifest.validation.measured
    assert 0 < value(measured, "mean_kl.prefill") < NATIVE_MAX_KL
    vocabulary = [v.name for v in graph.initializers.values() if v.const_value.size == 4096 * 64]
    assert len(vocabulary) == 1, "the tied embedding is stored once"


def test_without_the_library_there_is_no_native_graph(
    small_snapshot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atom_edge.runtimes.native.library", lambda: None)
    snapshot = open_snapshot(small_snapshot)
    with pytest.raises(ExportError, match=r"'native' was not built. Install a C\+\+ compiler"):
        pipeline.export(snapshot, tmp_path / "native", target="native", quantization="int8")
    pipeline.export(snapshot, tmp_path / "portable", quantization="int8")
    assert Role.NATIVE not in open_bundle(tmp_path / "portable").roles


def test_the_configuration_reads_as_a_llama(small_bundle: Path) -> None:
    config = json.loads((small_bundle / "config.json").read_text())
    assert config["model_type"] == "llama"
    assert config["num_key_value_heads"] == 2
    assert config["head_dim"] == 32
    assert config["xsa"] is True
    assert json.loads((small_bundle / "generation_config.json").read_text())["eos_token_id"] == [
        2,
        4,
    ]


def test_a_llama_with_an_embedding_of_its_own_exports(make_snapshot, tmp_path: Path) -> None:
    snapshot = make_snapshot(
        xsa=False,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=16,
        tie_word_embeddings=False,
        max_position_embeddings=64,
    )
    result = pipeline.export(open_snapshot(snapshot), tmp_path / "out", quantization="int8")
    validation = result.manifest.validation
    assert validation.failure is None
    assert validation.measured[0].path == "model"
    graph = ir.load(open_bundle(tmp_path / "out").graph())
    floats = [
        value.name
        for value in graph.graph.initializers.values()
        if value.const_value.dtype == ir.DataType.FLOAT and value.const_value.size > 64 * 64
    ]
    assert all(name.endswith("_scale") for name in floats), "every matrix is int8"


def damaged(graph):
    for value in graph.graph.initializers.values():
        if len(value.const_value.shape) == 2 and value.const_value.dtype == ir.DataType.FLOAT:
            value.const_value = ir.tensor(value.const_value.numpy() * 1.01, name=value.name)
            return graph
    raise AssertionError("no matrix to damage")


@pytest.mark.parametrize("occupied", [False, True])
def test_a_wrong_graph_leaves_no_bundle(
    shared: SharedFolder,
    small_snapshot: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    occupied: bool,
) -> None:
    monkeypatch.setattr(graphs, "trace", lambda decoder: damaged(shared.trace(decoder)))
    destination = tmp_path / "out"
    if occupied:
        destination.mkdir()
    with pytest.raises(ValidationError, match="does not compute what the PyTorch model computes"):
        pipeline.export(open_snapshot(small_snapshot), destination, force=occupied)
    assert [p.name for p in tmp_path.iterdir()] == (["out"] if occupied else [])


def test_a_tokenizer_that_is_not_transformers_is_refused(
    small_snapshot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ids are compared from text: windows of ids would be right whatever made them."""
    encode = Tokenizer.encode
    monkeypatch.setattr(
        Tokenizer, "encode", lambda self, text, **options: encode(self, text.strip(), **options)
    )
    with pytest.raises(ValidationError, match="prompts with other token ids is 1, over 0"):
        pipeline.export(open_snapshot(small_snapshot), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_weight_that_is_not_a_number_is_refused(small_snapshot: Path, tmp_path: Path) -> None:
    snapshot = open_snapshot(small_snapshot)
    snapshot.model.model.embed_tokens.weight.data[7] = float("nan")
    with pytest.raises(ExportError, match=r"embed_tokens.* not finite"):
        pipeline.export(snapshot, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("stated", "said"),
    [
        ({"do_sample": True, "temperature": "warm"}, "temperature"),
        ({"do_sample": True, "top_p": 1.5}, "top_p"),
        ({"do_sample": True, "temperature": math.inf}, "temperature"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"eos_token_id": "</s>"}, "eos_token_id"),
    ],
)
def test_what_no_session_would_take_is_told_before_any_work(
    small_snapshot: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stated: dict[str, Any],
    said: str,
) -> None:
    monkeypatch.setattr(graphs, "trace", lambda _: pytest.fail("work has begun"))
    folder = tmp_path / "snapshot"
    shutil.copytree(small_snapshot, folder)
    (folder / "generation_config.json").write_text(json.dumps(stated))
    with pytest.raises(BundleError, match=rf"generation_config\.json: .*{said}"):
        pipeline.export(open_snapshot(folder), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_numbers_that_json_has_not_are_left_out_of_the_configuration(make_snapshot) -> None:
    folder = make_snapshot()
    config = json.loads((folder / "config.json").read_text()) | {
        "model_type": "llama",
        "time_step_limit": [0.0, math.inf],
    }
    (folder / "config.json").write_text(json.dumps(config))
    written = pipeline.portable_config(open_snapshot(folder))
    assert written["model_type"] == "llama"
    assert "time_step_limit" not in written


def test_int8_beyond_its_limit_is_refused(small_snapshot: Path, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=r"perplexity ratio|KL"):
        pipeline.export(
            open_snapshot(small_snapshot),
            tmp_path / "out",
            quantization="int8",
            max_perplexity_ratio=0.5,
        )
    assert list(tmp_path.iterdir()) == []


def test_an_occupied_destination_is_refused_before_any_work(
    small_snapshot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graphs, "trace", lambda _: pytest.fail("work has begun"))
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(BundleError, match="exists"):
        pipeline.export(open_snapshot(small_snapshot), tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_validation_of_a_bundle_can_be_repeated(
    small_int8_bundle: Path, small_snapshot: Path
) -> None:
    first = open_bundle(small_int8_bundle).manifest.validation
    again = validate_again(small_int8_bundle, small_snapshot)
    check(again)
    assert (again.effort, again.max_kl) == (first.effort, first.max_kl)
    for once, repeated in zip(first.measured, again.measured, strict=True):
        assert [figure.name for figure in once.figures] == [f.name for f in repeated.figures]
        assert value(repeated, "perplexity.prefill") == pytest.approx(
            value(once, "perplexity.prefill"), rel=1e-4
        )


def test_what_an_export_ran_of_the_author_is_run_again(
    small_bundle: Path, small_snapshot: Path
) -> None:
    bundle = open_bundle(small_bundle)
    source = msgspec.structs.replace(bundle.manifest.source, variant="as read")
    manifest = msgspec.structs.replace(bundle.manifest, source=source)
    compared = dataclasses.replace(bundle, manifest=manifest)
    with pytest.raises(ValidationError, match="--trust-remote-code"):
        locate_origin(compared, small_snapshot)
    assert locate_origin(compared, small_snapshot, trust_remote_code=True).path == small_snapshot


def test_a_bundle_is_not_validated_against_other_weights(small_bundle: Path, make_snapshot) -> None:
    with pytest.raises(ValidationError, match=r"weights in .* sha256"):
        validate_again(small_bundle, make_snapshot(num_hidden_layers=1))


def test_a_bundle_is_not_validated_against_another_tokenizer(
    small_bundle: Path, make_snapshot
) -> None:
    other = make_snapshot(num_hidden_layers=1)
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    tokenizer["model"]["merges"].pop()
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(ValidationError, match="different tokenizers"):
        validate_again(small_bundle, other)


def test_what_is_not_a_graph_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"not a graph")
    with pytest.raises(ExportError, match="onnxruntime cannot open"):
        LeftPaddedGraph(tmp_path / "model.onnx")
