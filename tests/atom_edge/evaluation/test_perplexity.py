"""Perplexity and divergence on a small text."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from atom_edge.errors import EvaluationError
from atom_edge.evaluation.heldout import heldout_text
from atom_edge.evaluation.models import Model
from atom_edge.evaluation.perplexity import perplexity
from atom_edge.evaluation.results import Result

from .conftest import CONTEXT, Exact

TEXT = heldout_text()[:2500]


def by_metric(results: list[Result]) -> dict[tuple[str, str], Result]:
    return {(one.task, one.metric): one for one in results}


@pytest.mark.parametrize("name", ["bundle_model", "snapshot_model"])
def test_perplexity_is_that_of_whole_windows(
    name: str, exact: Exact, request: pytest.FixtureRequest
) -> None:
    model: Model = request.getfixturevalue(name)
    ids = model.tokenizer.encode(TEXT)
    starts = range(0, len(ids) - CONTEXT + 1, CONTEXT)
    windows = [ids[start : start + CONTEXT] for start in starts]
    assert len(windows) > 2
    assert len(ids) % CONTEXT  # what is left over is not a window
    rated = torch.cat([exact(window, CONTEXT - 1)[0] for window in windows])
    expected = math.exp(-rated.mean())
    error = expected * float(rated.std()) / math.sqrt(len(rated))
    (result,) = perplexity(model, TEXT)
    assert (result.task, result.metric, result.count) == ("perplexity", "perplexity", len(rated))
    assert result.value == pytest.approx(expected, rel=1e-4)
    assert result.standard_error == pytest.approx(error, rel=1e-3)
    assert perplexity(model, TEXT, limit=1)[0].count == CONTEXT - 1


def test_a_float_bundle_does_not_diverge_from_its_snapshot(
    bundle_model: Model, snapshot_model: Model
) -> None:
    found = by_metric(perplexity(bundle_model, TEXT, snapshot_model))
    assert 0 <= found["perplexity", "mean KL"].value + 1e-9 < 1e-7
    assert found["perplexity", "KL, percentile 99.9"].value < 1e-6
    assert found["perplexity", "perplexity ratio"].value == pytest.approx(1, abs=1e-5)
    assert found["perplexity", "same top token"].value > 0.99


def test_int8_diverges_as_its_positions_and_percentiles_say(
    int8_model: Model, snapshot_model: Model
) -> None:
    results = perplexity(int8_model, TEXT, snapshot_model)
    found = by_metric(results)
    whole = found["perplexity", "mean KL"]
    assert 1e-6 < whole.value < 1
    assert 0 < whole.standard_error < whole.value
    ratio = found["perplexity", "perplexity"].value
    ratio /= found["perplexity", "perplexity of the snapshot"].value
    assert found["perplexity", "perplexity ratio"].value == pytest.approx(ratio)
    percentiles = [one.value for one in results if "percentile" in one.metric]
    assert len(percentiles) == 4
    assert all(low < high for low, high in pairwise(percentiles))
    for metric in ("mean KL", "same top token"):
        parts = [one for one in results if one.metric == metric and one.task != "perplexity"]
        assert [one.task for one in parts] == [
            f"perplexity, tokens {span}" for span in ("0-15", "16-63", "64-127")
        ]
        assert sum(one.count for one in parts) == whole.count
        mean = sum(one.value * one.count for one in parts) / whole.count
        assert mean == pytest.approx(found["perplexity", metric].value)


def test_a_text_of_less_than_a_window_is_refused(bundle_model: Model) -> None:
    with pytest.raises(EvaluationError, match="fewer than one window of 128"):
        perplexity(bundle_model, "A short text.")
