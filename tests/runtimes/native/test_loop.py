"""The loop inside the operator chooses what `runtimes/sampling.py` chooses from the same logits."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnxruntime
import pytest
from decoders import Floats, Ids, Sequences, open_session, random_decoder

from atom_edge.checkpoint import open_snapshot
from atom_edge.exporters.description import Description, describe
from atom_edge.exporters.native import Scheme, build
from atom_edge.reference import checkpoint_path
from atom_edge.runtimes.generation import rate
from atom_edge.runtimes.sampling import (
    draw,
    greedy,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    penalize_repetition,
    random_number,
    to_weights,
)

Random = np.random.Generator


@dataclass(frozen=True)
class Sampling:
    """A row of `sampling`, and of `seeds`."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    penalty: float = 1.0
    seed: int = 0
    drawn: int = 0

    @property
    def row(self) -> list[float]:
        return [self.temperature, self.top_k, self.top_p, self.min_p, self.penalty]

    @classmethod
    def at_random(cls, random: Random) -> Sampling:
        return cls(
            temperature=float(random.choice([0, 1e-9, 1e9, *random.uniform(0.1, 3, 8)])),
            top_k=int(random.choice([0, 1, 2, 40, 64, 65, 4000, random.integers(1, 5000)])),
            top_p=float(random.choice([1, 1 - 1e-15, 0.95, 1e-300, *random.random(3)])) or 0.5,
            min_p=float(random.choice([0, 0, 0, 1, 1e-9, *random.random(2)])),
            penalty=float(random.choice([1, 1, 1.1, 0.5, 1000])),
            seed=int(random.integers(0, 2**64, dtype=np.uint64)),
            drawn=int(random.integers(0, 100)),
        )

    def choose(self, logits: Floats, seen: set[int], drawn: int) -> int:
        """The token that Python chooses."""
        if self.penalty != 1:
            logits = penalize_repetition(logits, np.array(sorted(seen), np.intp), self.penalty)
        if self.temperature == 0:
            return greedy(logits)
        weights = to_weights(logits, self.temperature)
        if self.top_k:
            keep_top_k(weights, self.top_k)
        if self.top_p < 1:
            keep_top_p(weights, self.top_p)
        if self.min_p:
            keep_min_p(weights, self.min_p)
        return draw(weights, random_number(self.seed, self.drawn + drawn))


@dataclass(frozen=True)
class Chosen:
    tokens: Ids
    top_tokens: Ids
    log_probabilities: Floats
    logits: Floats


def run_loop(
    sequences: Sequences,
    ids: Ids,
    steps: int,
    samplings: list[Sampling],
    *,
    counts: Ids | None = None,
    rows: Ids | None = None,
    ends: tuple[int, ...] = (),
    history: Ids | None = None,
    alternatives: int = -1,
) -> Chosen:
    """Append tokens and let the operator choose `steps` more."""
    feeds = sequences.feeds(ids, counts, rows) | {
        "steps": np.array([steps]),
        "end_ids": np.array(ends, np.int64),
        "sampling": np.array([sampling.row for sampling in samplings], np.float64),
        "seeds": np.array([(s.seed, s.drawn) for s in samplings], np.uint64).view(np.int64),
        "history": np.zeros((len(ids), 0), np.int64) if history is None else history,
        "alternatives": np.array([alternatives]),
    }
    names = ["logits", "cache_out", "tokens", "top_tokens", "log_probabilities"]
    logits, sequences.cache, *rest = sequences.session.run(names, feeds)
    chosen = Chosen(*rest, logits)
    appended = np.maximum((chosen.tokens >= 0).sum(axis=1) - 1, 0)
    sequences.lengths = sequences.lengths + feeds["counts"] + appended
    return chosen


def loop_in_python(
    sequences: Sequences,
    ids: Ids,
    steps: int,
    samplings: list[Sampling],
    *,
    ends: tuple[int, ...] = (),
    alternatives: int = -1,
) -> Chosen:
    """The same of one run a token, and every choice in Python."""
    batch, tokens = ids.shape
    chosen = np.full((batch, steps), -1)
    top = np.full((batch, steps, max(alternatives, 0)), -1)
    rated = np.zeros((batch, steps, 1 + alternatives))
    seen: list[set[int]] = [set() for _ in ids]
    first = logits = sequences.append(ids, rows=np.arange(batch) * tokens + tokens - 1)
    ended = np.zeros(batch, bool)
    for step in range(steps):
        for b in np.flatnonzero(~ended):
            token = chosen[b, step] = samplings[b].choose(logits[b], seen[b], step)
            seen[b].add(int(token))
            ended[b] = token in ends
            if alternatives >= 0:
                found = rate(logits[b], int(token), alternatives)
                top[b, step] = [pair[0] for pair in found.top]
                rated[b, step] = [found.logprob, *(pair[1] for pair in found.top)]
        if ended.all() or step + 1 == steps:
            break
        logits = sequences.append(np.maximum(chosen[:, step : step + 1], 0))
    return Chosen(chosen, top, rated, first)


def session_of(decoder: Description, threads: int = 1) -> onnxruntime.InferenceSession:
    return open_session(build(decoder, Scheme()), threads)


def lively_decoder(seed: int) -> Description:
    """One that is not sure of anything, and does not repeat itself."""
    random = np.random.default_rng(seed)
    return random_decoder(random, tied=False, exclusive=True, logit_scale=0.5)


def test_choices_are_those_of_python() -> None:
    seed = int.from_bytes(os.urandom(4))
    print("seed", seed)
    random = np.random.default_rng(seed)
    batch, vocabularies = 64, (3, 17, 64, 65, 1000, 4096)
    compared = 0
    for round_, vocabulary in enumerate(vocabularies * 9):
        head = random_decoder(
            random,
            hidden=16,
            heads=1,
            kv_heads=1,
            layers=1,
            feed_forward=16,
            vocabulary=vocabulary,
            tied=False,
            logit_scale=float(random.choice([0, 0.3, 1, 4, 100])),
        )
        if round_ % 2:  # every other token is as likely as the one before
            assert head.head is not None
            head.head.weight[1::2] = head.head.weight[:-1:2]
        sequences = Sequences(session_of(head), batch, context=16)
        ids = random.integers(0, vocabulary, (batch, 2))
        samplings = [Sampling.at_random(random) for _ in range(batch)]
        history = random.integers(-1, vocabulary, (batch, 5))
        rows = np.arange(batch) * 2 + 1
        found = run_loop(sequences, ids, 1, samplings, rows=rows, history=history)
        for b, sampling in enumerate(samplings):
            expected = sampling.choose(found.logits[b], set(history[b].tolist()) - {-1}, 0)
            assert found.tokens[b, 0] == expected, (sampling, b, vocabulary)
            compared += 1
    assert compared > 3000


@pytest.mark.parametrize("threads", [1, 2])
def test_a_loop_is_as_many_single_steps(threads: int) -> None:
    random = np.random.default_rng(1)
    session = session_of(lively_decoder(1), threads)
    batch, steps = 5, 20
    ids = random.integers(0, 100, (batch, 7))
    samplings = [
        Sampling(),
        Sampling(penalty=1.3),
        Sampling(temperature=1.0, top_p=0.9, seed=2**64 - 1),
        Sampling(temperature=0.7, top_k=5, penalty=1.2, seed=3, drawn=11),
        Sampling(temperature=2.0, min_p=0.1),
    ]
    for ends in ((), (5, 50, 90, 10, 20, 30, 31, 32, 33, 34)):
        options: dict[str, Any] = {"ends": ends, "alternatives": 4}
        inside = run_loop(Sequences(session, batch), ids, steps, samplings, **options)
        outside = loop_in_python(Sequences(session, batch), ids, steps, samplings, **options)
        assert np.array_equal(inside.tokens, outside.tokens)
        assert np.array_equal(inside.top_tokens, outside.top_tokens)
        assert np.allclose(inside.log_probabilities, outside.log_probabilities, rtol=0, atol=1e-12)
        assert (inside.tokens == -1).any() == bool(ends)


def test_a_loop_goes_on_where_the_last_one_stopped() -> None:
    random = np.random.default_rng(2)
    session = session_of(lively_decoder(2))
    ids = random.integers(0, 100, (1, 6))
    sampling = Sampling(temperature=0.9, top_p=0.95, penalty=1.1, seed=7)
    whole = run_loop(Sequences(session), ids, 24, [sampling], history=ids).tokens
    sequences, history, chosen = Sequences(session), ids, np.zeros((1, 0), np.int64)
    for steps in (1, 5, 2, 16):
        new = ids if not chosen.size else chosen[:, -1:]
        now = replace(sampling, drawn=chosen.shape[1])
        found = run_loop(sequences, new, steps, [now], history=np.hstack([history, chosen]))
        chosen = np.hstack([chosen, found.tokens])
    assert np.array_equal(chosen, whole)


def test_sequences_of_any_length_and_logits_beside_them() -> None:
    random = np.random.default_rng(3)
    session = session_of(lively_decoder(2))
    counts = np.array([4, 1, 7])
    ids = random.integers(0, 100, (3, 7))
    samplings = [Sampling(temperature=1.0, seed=b) for b in range(3)]
    rows = np.array([0, 3, 7, 15, 20])
    together = run_loop(Sequences(session, 3), ids, 9, samplings, counts=counts, rows=rows)
    assert np.array_equal(together.logits, Sequences(session, 3).append(ids, counts, rows))
    for b, count in enumerate(counts):
        alone = run_loop(Sequences(session), ids[b : b + 1, :count], 9, samplings[b : b + 1])
        assert np.array_equal(together.tokens[b], alone.tokens[0])


def test_an_end_stops_a_sequence_and_leaves_its_cache() -> None:
    session = session_of(lively_decoder(4))
    ids = np.array([[3, 4, 5]])
    free = run_loop(Sequences(session), ids, 8, [Sampling()]).tokens[0]
    end = int(free[3])
    sequences = Sequences(session)
    found = run_loop(sequences, ids, 8, [Sampling()], ends=(end,)).tokens[0]
    stop = free.tolist().index(end)
    assert found.tolist() == [*free[: stop + 1], *[-1] * (7 - stop)]
    assert sequences.lengths.tolist() == [3 + stop]


def test_the_reference_model_writes_the_same_text() -> None:
    pytest.importorskip("torch")
    session = session_of(describe(open_snapshot(checkpoint_path()).model))
    ids = np.random.default_rng(5).integers(3, 4096, (1, 16))
    for sampling in (
        Sampling(),
        Sampling(temperature=0.8, top_p=0.95, seed=1),
        Sampling(temperature=0.4, top_k=40, top_p=0.9, penalty=1.1, seed=2),
    ):
        inside = run_loop(Sequences(session, context=160), ids, 128, [sampling])
        outside = loop_in_python(Sequences(session, context=160), ids, 128, [sampling])
        assert np.array_equal(inside.tokens, outside.tokens)


BAD: dict[str, dict[str, Any]] = {
    "negative steps": {"steps": np.array([-1])},
    "steps of two": {"steps": np.array([1, 1])},
    "no steps": {"steps": np.zeros(0, np.int64)},
    "more steps than room": {"steps": np.array([96])},
    "steps beyond all room": {"steps": np.array([2**63 - 1])},
    "ends of two": {"end_ids": np.zeros((1, 1), np.int64)},
    "no sampling": {"sampling": np.zeros((0, 5))},
    "sampling of four": {"sampling": np.zeros((1, 4))},
    "no seeds": {"seeds": np.zeros((0, 2), np.int64)},
    "no history": {"history": np.zeros((0, 0), np.int64)},
    "too few alternatives": {"alternatives": np.array([-2])},
    "too many alternatives": {"alternatives": np.array([101])},
    "history outside the vocabulary": {"history": np.array([[100]])},
    "history below": {"history": np.array([[-2]])},
} | {
    f"sampling {row}": {"sampling": np.array([row], np.float64)}
    for row in (
        [-1, 0, 1, 0, 1],
        [1e-10, 0, 1, 0, 1],
        [np.nan, 0, 1, 0, 1],
        [np.inf, 0, 1, 0, 1],
        [1, -1, 1, 0, 1],
        [1, 1.5, 1, 0, 1],
        [1, np.nan, 1, 0, 1],
        [1, 1e300, 1, 0, 1],
        [1, 0, 0, 0, 1],
        [1, 0, 1.1, 0, 1],
        [1, 0, np.nan, 0, 1],
        [1, 0, 1, -0.1, 1],
        [1, 0, 1, 2, 1],
        [1, 0, 1, 0, 0],
        [1, 0, 1, 0, np.inf],
    )
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_of_the_loop_is_an_error_of_onnxruntime(what: str) -> None:
    sequences = Sequences(session_of(lively_decoder(4)))
    good = {
        "steps": np.array([2]),
        "sampling": np.array([[1, 0, 1, 0, 2]], np.float64),
        "seeds": np.zeros((1, 2), np.int64),
        "history": np.zeros((1, 1), np.int64),
    }
    feeds = sequences.feeds(np.array([[3, 4]])) | good
    sequences.session.run(None, feeds)
    with pytest.raises(Exception, match=r"atom_edge\.Decoder|INVALID_ARGUMENT|Got invalid dim"):
        sequences.session.run(None, feeds | BAD[what])
