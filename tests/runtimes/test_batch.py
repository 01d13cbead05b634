"""Several prompts at once give the replies of each alone."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from atom_edge.bundle import open_bundle
from atom_edge.errors import GenerationError
from atom_edge.runtimes.engines.cuda import CudaEngine
from atom_edge.runtimes.reply import Generation
from atom_edge.runtimes.session import AtomSession

PROMPTS = ("The", "A small stone lies under the house", "", "water " * 100, "In the green river")


@pytest.fixture(scope="module", params=["static", "portable", "device"])
def session(
    request: pytest.FixtureRequest, small_bundle: Path, small_cuda_bundle: Path
) -> AtomSession:
    """Sessions over each kind of graph; that for CUDA runs on the CPU here."""
    if request.param == "static":
        return AtomSession.from_pretrained(small_bundle, threads=1)
    session = AtomSession.from_pretrained(small_cuda_bundle, threads=1)
    if request.param == "device":
        file = open_bundle(small_cuda_bundle).graph("cuda")
        session._engine = CudaEngine(file, "cpu", session.context_length)
    return session


def untimed(reply: Generation) -> Generation:
    return dataclasses.replace(reply, prompt_tps=0, generation_tps=0, logprobs=None)


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.0},
        {"temperature": 0.0, "repetition_penalty": 1.3},
        {"temperature": 0.7, "seed": 3},
        {"temperature": 0.0, "stop": ("e", "th")},
    ],
    ids=str,
)
def test_replies_are_those_of_each_prompt_alone(session: AtomSession, options: dict) -> None:
    together = session.generate_batch(PROMPTS, max_new_tokens=24, **options)
    alone = [session.generate(prompt, max_new_tokens=24, **options) for prompt in PROMPTS]
    assert [untimed(reply) for reply in together] == [untimed(reply) for reply in alone]


def test_a_reply_ends_at_the_context_while_others_go_on(session: AtomSession) -> None:
    full, short = session.generate_batch(["water " * 200, "The"], max_new_tokens=60, temperature=0)
    assert (full.finish_reason, full.generation_tokens) == ("length", 1)
    assert full.truncated_tokens > 0
    assert short.generation_tokens == 60


def test_log_probabilities_belong_to_their_reply(session: AtomSession) -> None:
    replies = session.generate_batch(["The", "A river"], max_new_tokens=6, seed=1, logprobs=2)
    for prompt, reply in zip(["The", "A river"], replies, strict=True):
        alone = session.generate(prompt, max_new_tokens=6, seed=1, logprobs=2)
        assert reply.logprobs is not None
        assert alone.logprobs is not None
        assert [entry.token_id for entry in reply.logprobs] == list(reply.token_ids)
        ours, theirs = ([e.logprob for e in r.logprobs or ()] for r in (reply, alone))
        assert ours == pytest.approx(theirs, abs=0.02)


def test_no_prompts_give_no_replies_and_wrong_options_are_refused(session: AtomSession) -> None:
    assert session.generate_batch([]) == []
    with pytest.raises(GenerationError, match="temperature"):
        session.generate_batch(["The"], temperature=-1)
