"""The curriculum: shares that change over a run, and windows in an order of their own."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from atom_edge.training import curriculum
from atom_edge.training.cache import TokenCache, Tokens
from atom_edge.training.recipe import Recipe, Source


def windows_recipe(**options: object) -> Recipe:
    sources = (Source("a", 0.9, 0.1, generator="x"), Source("b", 0.1, 0.9, generator="x"))
    return Recipe(
        tokens=400 * 16 * 8,
        sources=sources,
        batch_windows=16,
        model={"max_position_embeddings": 8},
        **options,
    )


def token_cache(tokens: Tokens, *starts: int) -> TokenCache:
    return TokenCache(tokens, tokens, np.array(starts or (0,)))


def test_curriculum_moves_from_start_to_end() -> None:
    counts = curriculum.plan(windows_recipe())
    assert counts.shape == (400, 2)
    assert (counts.sum(axis=1) == 16).all()
    assert counts[:40, 0].mean() / 16 == pytest.approx(0.86, abs=0.05)
    assert counts[180:220, 0].mean() / 16 == pytest.approx(0.5, abs=0.07)
    assert counts[-40:, 0].mean() / 16 == pytest.approx(0.14, abs=0.05)


def test_an_epoch_sees_every_window_once_and_any_step_can_be_the_first() -> None:
    recipe = windows_recipe()
    first = np.arange(8 * 60 + 8, dtype=np.uint16)
    second = np.arange(1000, 1000 + 8 * 30 + 8, dtype=np.uint16)
    caches = [token_cache(first), token_cache(second)]
    counts = curriculum.plan(recipe)
    steps = list(curriculum.batches(recipe, counts, caches))
    assert all(batch.shape == (16, 9) for batch in steps)
    assert all((np.diff(batch.astype(int), axis=1) == 1).all() for batch in steps)
    starts = np.concatenate([batch[batch[:, 0] < 1000, 0] for batch in steps])[:60]
    assert len(set(starts.tolist())) == 60
    assert len({int(start) % 8 for start in starts}) == 1
    later = islice(curriculum.batches(recipe, counts, caches, first_step=170), 5)
    assert all(np.array_equal(a, b) for a, b in zip(later, steps[170:175], strict=True))


def test_the_share_of_windows_that_may_begin_at_a_document_does() -> None:
    # Documents of 5 tokens and then one of 160, in windows of 8: of the first 40 windows each holds
    # a start, of the last 20 none.
    tokens = np.arange(320 + 160 + 8, dtype=np.uint16)
    starts = np.arange(0, 325, 5)
    cache = token_cache(tokens, *starts)
    sources = (Source("a", 1.0, 1.0, generator="x"),)
    recipe = replace(windows_recipe(aligned_share=0.5), sources=sources, tokens=3840 * 8)
    first = np.concatenate(list(curriculum.batches(recipe, curriculum.plan(recipe), [cache])))[:, 0]
    short = first[first < 320]
    aligned = np.isin(short, starts).mean()
    assert aligned == pytest.approx(0.5 + 0.5 / 5, abs=0.05)  # a fifth are at a start unmoved
    assert len(set(short[np.isin(short, starts)].tolist())) > 60  # of the 64: every start is met
    whole = replace(recipe, aligned_share=1.0)
    batches = list(curriculum.batches(whole, curriculum.plan(whole), [cache]))
    assert np.isin([b[0, 0] for b in batches if b[0, 0] < 320], starts).all()
    later = islice(curriculum.batches(whole, curriculum.plan(whole), [cache], first_step=97), 5)
    assert all(np.array_equal(a, b) for a, b in zip(later, batches[97:102], strict=True))
