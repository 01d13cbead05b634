"""The graphs over a static cache compute what the traced graph computes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from atom_edge.exporters.passes import for_check, for_decode, for_prefill
from atom_edge.exporters.precision.columns import quantize_columns, quantize_dynamic

from .conftest import CONTEXT, LAYERS, Arrays, operators, portable_inputs, run, run_in_place


def static_inputs(inputs: Arrays, past: int) -> Arrays:
    """Inputs of a traced graph without padding, for a static cache of `CONTEXT` rows."""
    batch, tokens = inputs["input_ids"].shape
    static: Arrays = {
        "input_ids": inputs["input_ids"],
        "past_length": np.full(batch, past),
        "logits_index": np.arange(batch * tokens),
    }
    for name, value in inputs.items():
        if name.startswith("past_key_values."):
            # Rows that no token has written hold numbers that would show.
            cache = np.full((batch, value.shape[1], CONTEXT, value.shape[3]), 9, np.float32)
            cache[:, :, :past] = value
            static[name] = cache
    return static


def assert_same_as_traced(
    traced: ir.Model, static: ir.Model, batch: int, past: int, tokens: int, atol: float = 2e-5
) -> None:
    inputs = portable_inputs(traced, batch, past, tokens)
    inputs["attention_mask"][:] = 1
    inputs["position_ids"] = np.arange(past, past + tokens)[None].repeat(batch, 0)
    expected = run(traced, inputs)
    given = static_inputs(inputs, past)
    names = {value.name for value in static.graph.inputs}
    results = run_in_place(static, {name: value for name, value in given.items() if name in names})
    logits = results.pop("logits").reshape(expected["logits"].shape)
    np.testing.assert_allclose(logits, expected.pop("logits"), rtol=0, atol=atol)
    for name, value in expected.items():
        rows = results[name][:, :, : past + tokens]
        np.testing.assert_allclose(rows, value, rtol=0, atol=atol, err_msg=name)
        assert (results[name][:, :, past + tokens :] == 9).all(), "the rest is not touched"


@pytest.mark.parametrize(("batch", "past", "tokens"), [(1, 0, 1), (1, 0, 33), (3, 11, 4)])
def test_prefill_computes_the_same(traced: ir.Model, batch: int, past: int, tokens: int) -> None:
    static = for_prefill(traced)
    assert static is not None
    assert_same_as_traced(traced, static, batch, past, tokens)


@pytest.mark.parametrize("past", [0, 1, 40, CONTEXT - 1])
def test_decode_computes_the_same(traced: ir.Model, past: int) -> None:
    static = for_decode(traced)
    assert static is not None
    assert_same_as_traced(traced, static, 1, past, 1)


def test_rows_of_different_length_are_independent(traced: ir.Model) -> None:
    """A batch padded on the right gives each row the logits that it has alone."""
    static = for_prefill(traced)
    assert static is not None
    lengths, tokens = np.array([12, 3, 7]), 5
    inputs = portable_inputs(traced, 3, 12, tokens)
    given = static_inputs(inputs, 12) | {"past_length": lengths}
    together = run(static, given)["logits"].reshape(3, tokens, -1)
    for row in range(3):
        alone = {
            name: value if name == "logits_index" else value[row : row + 1]
            for name, value in given.items()
        }
        alone["logits_index"] = np.arange(tokens)
        np.testing.assert_allclose(run(static, alone)["logits"], together[row], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("batch", "past", "tokens"), [(1, 0, 1), (1, 11, 4), (3, 11, 4)])
def test_check_computes_the_same(traced: ir.Model, batch: int, past: int, tokens: int) -> None:
    static = for_check(traced)
    assert static is not None
    assert_same_as_traced(traced, static, batch, past, tokens)


def test_only_chosen_logits_are_computed(traced: ir.Model) -> None:
    static = for_prefill(traced)
    assert static is not None
    given = static_inputs(portable_inputs(traced, 2, 3, 6), 3)
    everything = run(static, given)["logits"]
    chosen = run(static, given | {"logits_index": np.array([11, 0])})["logits"]
    np.testing.assert_allclose(chosen, everything[[11, 0]], rtol=0, atol=1e-6)


def test_only_the_last_attention_sees_more_than_the_chosen_positions(traced: ir.Model) -> None:
    static = for_prefill(traced)
    assert static is not None
    names = [node.op_type for node in static.graph]
    chosen = names.index("Gather", names.index("Attention"))  # the first Gather looks tokens up
    assert names[:chosen].count("Attention") == LAYERS
    assert names[chosen:].count("MatMul") == 5, "output, gate, up, down and the vocabulary"


def test_a_step_is_a_short_list_of_nodes(traced: ir.Model, shape: str) -> None:
    static = for_decode(traced)
    assert static is not None
    counts = operators(static)
    assert counts["Attention"] == counts["RotaryEmbedding"] == LAYERS
    assert counts["TensorScatter"] == 2 * LAYERS
    assert counts["MatMul"] == {"atom": 6, "llama": 4}[shape] * LAYERS + 1
    assert counts["Softmax"] == counts["Concat"] == counts["Shape"] == counts["ReduceSum"] == 0
    assert len(static.graph) <= {"atom": 23, "llama": 18}[shape] * LAYERS + 7


def test_dynamic_int8_is_close_and_has_no_float_matrix(traced: ir.Model) -> None:
    static = for_prefill(traced)
    assert static is not None
    quantized = quantize_dynamic(static)
    matrices = [
        value.name
        for value in quantized.graph.initializers.values()
        if len(value.const_value.shape) == 2
        and value.const_value.dtype == ir.DataType.FLOAT
        and value.const_value.shape[0] != CONTEXT  # the tables of angles
    ]
    assert matrices == []
    assert_same_as_traced(traced, quantized, 2, 5, 9, atol=0.6)


def test_levels_of_neighbours_fit_sixteen_bits() -> None:
    weight = np.random.default_rng(0).standard_t(3, (97, 40)).astype(np.float32)
    levels, scales = quantize_columns(weight, in_pairs=True)
    np.testing.assert_allclose(levels * scales, weight, rtol=0, atol=scales.max() / 2 * 1.001)
    pairs = levels[:96].astype(int).reshape(48, 2, 40).sum(axis=1)
    assert 255 * np.abs(pairs).max() < 2**15
