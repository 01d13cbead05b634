"""The graphs over a static cache compute what the traced graph computes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from atom_edge.exporters.passes import for_prefill

from .conftest import CONTEXT, LAYERS, Arrays, portable_inputs, run, run_in_place


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
    traced: ir.Model, static: ir.Model, batch: int, past: int, tokens: int
) -> None:
    inputs = portable_inputs(traced, batch, past, tokens)
    inputs["attention_mask"][:] = 1
    inputs["position_ids"] = np.arange(past, past + tokens)[None].repeat(batch, 0)
    expected = run(traced, inputs)
    given = static_inputs(inputs, past)
    names = {value.name for value in static.graph.inputs}
    results = run_in_place(static, {name: value for name, value in given.items() if name in names})
    logits = results.pop("logits").reshape(expected["logits"].shape)
    np.testing.assert_allclose(logits, expected.pop("logits"), rtol=0, atol=2e-5)
    for name, value in expected.items():
        rows = results[name][:, :, : past + tokens]
        np.testing.assert_allclose(rows, value, rtol=0, atol=2e-5, err_msg=name)
        assert (results[name][:, :, past + tokens :] == 9).all(), "the rest is not touched"


@pytest.mark.parametrize(("batch", "past", "tokens"), [(1, 0, 1), (1, 0, 33), (3, 11, 4)])
def test_prefill_computes_the_same(traced: ir.Model, batch: int, past: int, tokens: int) -> None:
    static = for_prefill(traced)
    assert static is not None
    assert_same_as_traced(traced, static, batch, past, tokens)


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
