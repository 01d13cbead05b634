"""Scores of batches, against a float64 model that runs each sequence alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atom_edge.bundle import open_bundle
from atom_edge.evaluation import scoring
from atom_edge.evaluation.models import Model
from atom_edge.evaluation.scoring import score
from atom_edge.runtimes.engines.interface import Ids, Logits
from atom_edge.runtimes.engines.portable import PortableCache, PortableEngine

from .conftest import CONTEXT, Exact

Requests = list[tuple[list[int], list[int]]]


@pytest.fixture(scope="session")
def portable_model(small_bundle: Path, bundle_model: Model) -> Model:
    """A bundle without the fast pair."""
    return replace(bundle_model, engine=PortableEngine.open(open_bundle(small_bundle), threads=1))


@pytest.fixture(scope="module", params=["snapshot_model", "bundle_model", "portable_model"])
def model(request: pytest.FixtureRequest) -> Model:
    found: Model = request.getfixturevalue(request.param)
    return found


def reference(exact: Exact, context: list[int], continuation: list[int], empty: int) -> float:
    if not continuation:
        return 0.0
    scored = continuation[-CONTEXT:]
    whole = [*(context or [empty]), *continuation][-(CONTEXT + 1) :]
    return float(exact(whole, len(scored))[0].sum())


def tokens(least: int, most: int) -> st.SearchStrategy[list[int]]:
    return st.integers(5, 4095).flatmap(
        lambda seed: st.integers(least, most).map(
            lambda length: np.random.default_rng(seed).integers(5, 4096, length).tolist()
        )
    )


@st.composite
def requests(draw: st.DrawFn) -> Requests:
    """Questions with options, in any order: empty, one-token and overlong parts among them."""
    sizes = st.sampled_from([0, 1, 2, 9, 40, CONTEXT - 1, CONTEXT, CONTEXT + 30])
    found: Requests = []
    for _ in range(draw(st.integers(1, 5))):
        size = draw(sizes)
        context = draw(tokens(size, size))
        options = draw(st.lists(tokens(0, 4) | tokens(1, 60) | tokens(120, 140), max_size=4))
        found += [(context, option) for option in options]
    found += draw(st.lists(st.sampled_from(found), max_size=2)) if found else []
    return draw(st.permutations(found))


@settings(max_examples=25, deadline=None)
@given(some=requests(), run=st.sampled_from([1, 100, 512]), group=st.sampled_from([1, 300, 8192]))
def test_scores_are_those_of_each_sequence_alone(
    model: Model, exact: Exact, some: Requests, run: int, group: int
) -> None:
    done: list[int] = []
    with patch.object(scoring, "_RUN_TOKENS", run), patch.object(scoring, "_GROUP_TOKENS", group):
        found = score(model, some, done.append)
    expected = [reference(exact, *one, model.prefix_token) for one in some]
    np.testing.assert_allclose([value for value, _ in found], expected, rtol=1e-5, atol=1e-3)
    assert sum(done) == sum(bool(continuation) for _, continuation in some)


def test_greedy_is_what_the_model_would_say(model: Model, exact: Exact) -> None:
    context = [40, 41, 42]
    likeliest: list[int] = []
    for _ in range(5):
        likeliest += exact([*context, *likeliest, 0], 1)[1].tolist()
    other = [*likeliest[:2], likeliest[2] + 1, *likeliest[3:]]
    scored = score(model, [(context, likeliest), (context, other), (context, likeliest[:1])])
    assert [greedy for _, greedy in scored] == [True, False, True]


def test_what_is_shared_is_computed_once(portable_model: Model) -> None:
    runs: list[tuple[int, ...]] = []
    append = PortableCache.append

    def recording(
        cache: PortableCache, ids: Ids, counts: Ids | None = None, places: Ids | None = None
    ) -> Logits:
        assert places is not None
        runs.append((*ids.shape, len(places)))
        return append(cache, ids, counts, places)

    context = list(range(5, 36))
    options = [[7, 8, 9], [10, 11, 12], [13, 14], [7, 8, 9]]
    some = [(context, option) for option in options]
    with patch.object(PortableCache, "append", recording):
        scored = score(portable_model, some * 2)
    assert runs == [(1, len(context) - 1, 0), (3, 3, 8)]
    assert scored[0] == scored[3] == scored[4]
    assert len({value for value, _ in scored}) == 3


def test_in_int8_a_score_does_not_depend_on_its_neighbours(int8_model: Model) -> None:
    rng = np.random.default_rng(0)
    contexts = [rng.integers(5, 4096, size).tolist() for size in (1, 30, 30, 90)]
    some = [(c, rng.integers(5, 4096, n).tolist()) for c in contexts for n in (1, 5, 20)]
    alone = [score(int8_model, [one])[0] for one in some]
    assert score(int8_model, some) == alone
