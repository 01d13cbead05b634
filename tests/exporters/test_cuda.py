"""Export for CUDA: what the graph holds, what is validated, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from typer.testing import CliRunner

from atom_edge.bundle import open_bundle
from atom_edge.checkpoint import open_snapshot
from atom_edge.cli import app
from atom_edge.errors import ExportError
from atom_edge.exporters.choose import count_operators
from atom_edge.exporters.cuda import cuda_graph
from atom_edge.exporters.export import export
from atom_edge.exporters.precision.half import to_half_precision

if TYPE_CHECKING:
    from tests.conftest import SharedFolder

# What onnxruntime 1.31 runs on a GPU in float16, of all that a decoder of this kind needs.
ON_A_GPU = {
    *("ArgMax", "Cast", "Gather", "GatherBlockQuantized", "GroupQueryAttention", "MatMul"),
    *("MatMulNBits", "Mul", "QuickGelu", "Reshape", "SimplifiedLayerNormalization"),
    *("SkipSimplifiedLayerNormalization", "Slice", "Split", "Sub", "Transpose"),
}


@pytest.fixture(scope="module")
def traced(shared: SharedFolder, small_snapshot: Path) -> ir.Model:
    return shared.trace(open_snapshot(small_snapshot).decoder)


def test_the_bundle_is_validated_and_says_what_it_is_for(small_cuda_bundle: Path) -> None:
    bundle = open_bundle(small_cuda_bundle)
    assert bundle.manifest.target == "cuda"
    assert bundle.roles == ("model", "cuda")
    model, cuda = bundle.manifest.validation.measured
    assert (model.path, cuda.path) == ("model", "cuda")
    assert cuda.failure is None
    assert cuda["perplexity_ratio.prefill"].value == pytest.approx(1, abs=1e-3)
    assert cuda["perplexity_ratio.decode"].limit == 1.001


@pytest.mark.parametrize("int8", [False, True])
def test_every_operator_runs_on_a_gpu_and_no_shape_is_computed(
    traced: ir.Model, int8: bool
) -> None:
    operators = count_operators(cuda_graph(traced, int8=int8))
    assert set(operators) <= ON_A_GPU
    assert operators["GroupQueryAttention"] == 2
    assert bool(operators["MatMulNBits"]) == int8


def test_weights_and_cache_are_float16_and_logits_float32(small_cuda_bundle: Path) -> None:
    graph = onnx.load(open_bundle(small_cuda_bundle).graph("cuda")).graph
    kinds = {value.name: value.type.tensor_type.elem_type for value in graph.input}
    assert kinds["past_key_values.0.key"] == onnx.TensorProto.FLOAT16
    assert kinds["total_sequence_length"] == onnx.TensorProto.INT32
    outputs = {value.name: value.type.tensor_type.elem_type for value in graph.output}
    assert outputs["logits"] == onnx.TensorProto.FLOAT
    assert outputs["likeliest"] == onnx.TensorProto.INT64
    assert all(tensor.data_type != onnx.TensorProto.FLOAT for tensor in graph.initializer)


def test_a_head_size_that_the_operator_does_not_rotate_is_refused(
    make_snapshot: Callable[..., Path], tmp_path: Path
) -> None:
    snapshot = open_snapshot(make_snapshot(head_dim=24))
    with pytest.raises(ExportError, match=r"multiple of 16.*--target cpu"):
        export(snapshot, tmp_path / "bundle", target="cuda")
    assert not (tmp_path / "bundle").exists()


def test_a_weight_beyond_float16_is_refused(traced: ir.Model) -> None:
    model = traced.clone()
    name, value = next(
        (name, value)
        for name, value in model.graph.initializers.items()
        if value.dtype == ir.DataType.FLOAT
    )
    value.const_value = ir.tensor(np.full(value.shape.numpy(), 1e5, np.float32), name=name)
    with pytest.raises(ExportError, match="reaches 100000, and float16 ends at 65504"):
        to_half_precision(model)


def test_the_command_line_exports_and_says_where_it_runs(
    small_snapshot: Path, tmp_path: Path
) -> None:
    runner, bundle = CliRunner(), tmp_path / "bundle"
    arguments = [str(small_snapshot), "-o", str(bundle), "--target", "cuda", "--quantize", "int8"]
    exported = runner.invoke(app, ["export", *arguments])
    assert exported.exit_code == 0, exported.output
    assert "graph 'cuda'" in exported.output
    options = ["--bundle", str(bundle), "--provider", "auto", "-n", "3"]
    generated = runner.invoke(app, ["generate", "The", *options])
    assert generated.exit_code == 0
    assert "running on cpu (no CUDA: " in generated.stderr
    assert "running on" not in generated.stdout
