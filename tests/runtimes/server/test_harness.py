"""lm-evaluation-harness through the server scores as it does in process."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from lm_eval.api.instance import Instance
from lm_eval.models.openai_completions import LocalCompletionsAPI

from atom_edge.evaluation.harness import AtomEdgeLM
from atom_edge.evaluation.models import open_model
from tests.runtimes.server.conftest import NAME, Running

WORDS = [
    "the",
    "river",
    "is",
    "a",
    "small",
    "old",
    "house",
    "by",
    "green",
    "water",
    "and",
    "stone",
    "under",
    "Where",
    "Éé",
    "🙂",
    "7",
    "12",
]


def ask(kind: Any, arguments: list[tuple[Any, ...]]) -> list[Instance]:
    return [Instance(kind, {}, one, index) for index, one in enumerate(arguments)]


@pytest.fixture(scope="module")
def inside(small_bundle: Path) -> AtomEdgeLM:
    return AtomEdgeLM(open_model(small_bundle, threads=1))


@pytest.fixture(scope="module", params=[1, 4], ids=["one at a time", "four at a time"])
def remote(request: pytest.FixtureRequest, server: Running, inside: AtomEdgeLM) -> Any:
    return LocalCompletionsAPI(
        model=NAME,
        base_url=f"{server.url}/v1/completions",
        max_length=inside.max_length,
        batch_size=5,
        num_concurrent=request.param,
        custom_prefix_token_id=inside.eot_token_id,
    )


def test_log_likelihoods(inside: AtomEdgeLM, remote: Any) -> None:
    draw = random.Random(0)

    def text(count: int) -> str:
        return " ".join(draw.choices(WORDS, k=count))

    pairs = [(text(draw.randint(1, 20)), " " + text(draw.randint(1, 6))) for _ in range(40)]
    one: dict[str, Any] = {"max_gen_toks": 1}
    asked = ask("generate_until", [(context, one) for context, _ in pairs])
    for (context, _), reply in zip(pairs[:], inside.generate_until(asked), strict=True):
        ids = inside.tok_encode(context)
        if reply and inside.tok_encode(context + reply)[: len(ids)] == ids:
            pairs.append((context, reply))
    pairs.append(("", "The river"))
    ours = inside.loglikelihood(ask("loglikelihood", pairs), disable_tqdm=True)
    theirs = remote.loglikelihood(ask("loglikelihood", pairs), disable_tqdm=True)
    assert [value for value, _ in theirs] == pytest.approx([value for value, _ in ours], abs=1e-3)
    assert [greedy for _, greedy in theirs] == [greedy for _, greedy in ours]
    assert {greedy for _, greedy in ours} == {True, False}


def test_rolling_log_likelihoods(inside: AtomEdgeLM, remote: Any) -> None:
    texts = [("A short text.",), ("Water runs down the hill.",)]
    kind: Any = "loglikelihood_rolling"
    ours = inside.loglikelihood_rolling(ask(kind, texts), disable_tqdm=True)
    theirs = remote.loglikelihood_rolling(ask(kind, texts), disable_tqdm=True)
    assert list(theirs) == pytest.approx(ours, abs=1e-3)


def test_generation(inside: AtomEdgeLM, remote: Any) -> None:
    asked = [
        ("The river", {"until": ["e", "\n"], "max_gen_toks": 20}),
        ("A", {"until": ["a"], "max_gen_toks": 30}),
    ]
    ours = inside.generate_until(ask("generate_until", asked), disable_tqdm=True)
    theirs = remote.generate_until(ask("generate_until", asked), disable_tqdm=True)
    assert theirs == ours
