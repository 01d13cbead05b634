"""Sessions on a real traced graph: PyTorch's greedy text, repeatable sampling, stated policies."""

from __future__ import annotations

import math
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from atom_edge.bundle import open_bundle, seal
from atom_edge.errors import BundleError, GenerationError, TokenizerError
from atom_edge.modeling import AtomForCausalLM
from atom_edge.runtimes.session import AtomSession

PROMPTS = ["The water cycle is", "Once upon a time", "1 + 1 =", "naïve 日本", "x" * 20]
CONTEXT = 128


def pytorch_reply(model: AtomForCausalLM, ids: list[int], **options: object) -> list[int]:
    prompt: Tensor = torch.tensor([ids])
    output = model.generate(
        prompt, attention_mask=torch.ones_like(prompt), do_sample=False, pad_token_id=0, **options
    )
    return [token for token in output[0, len(ids) :].tolist() if token not in (2, 4)]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_greedy_is_pytorch_s(model: AtomForCausalLM, session: AtomSession, prompt: str) -> None:
    reply = session.generate(prompt, max_new_tokens=40, temperature=0)
    expected = pytorch_reply(model, session.tokenizer.encode(prompt), max_new_tokens=40)
    assert list(reply.token_ids) == expected
    assert reply.text == session.tokenizer.decode(expected)
    assert reply.finish_reason == ("length" if len(expected) == 40 else "stop")


def test_greedy_with_a_repetition_penalty_is_pytorch_s(
    model: AtomForCausalLM, session: AtomSession
) -> None:
    for prompt in PROMPTS:
        reply = session.generate(prompt, max_new_tokens=30, temperature=0, repetition_penalty=1.3)
        ids = session.tokenizer.encode(prompt)
        expected = pytorch_reply(model, ids, max_new_tokens=30, repetition_penalty=1.3)
        assert list(reply.token_ids) == expected


def test_a_seed_repeats_exactly(session: AtomSession) -> None:
    options = {"max_new_tokens": 30, "temperature": 1.0, "top_p": 0.9, "top_k": 50, "min_p": 0.01}
    first = session.generate("The", seed=7, **options)
    assert session.generate("The", seed=7, **options).token_ids == first.token_ids
    others = {session.generate("The", seed=seed, **options).token_ids for seed in range(5)}
    assert len(others) == 5
    assert len({session.generate("The", **options).token_ids for _ in range(3)}) == 3


def test_pieces_are_the_reply(session: AtomSession) -> None:
    whole = session.generate("The water", seed=3, max_new_tokens=25, temperature=1.5)
    pieces = list(session.stream("The water", seed=3, max_new_tokens=25, temperature=1.5))
    assert "".join(piece.text for piece in pieces) == whole.text
    assert [piece.finish_reason for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
    assert pieces[-1].finish_reason == whole.finish_reason
    assert [piece.generation_tokens for piece in pieces] == [*range(1, len(pieces) + 1)]
    assert {piece.prompt_tokens for piece in pieces} == {whole.prompt_tokens} == {2}
    assert pieces[-1].prompt_tps > 0
    assert pieces[-1].generation_tps > 0
    assert pieces[0].generation_tps == 0


def test_a_stop_text_ends_the_reply_wherever_tokens_cut_it(session: AtomSession) -> None:
    whole = session.generate("The water", temperature=0, max_new_tokens=30).text
    for start in range(1, len(whole) - 4):
        stop = whole[start : start + 4]
        reply = session.generate("The water", temperature=0, max_new_tokens=30, stop=stop)
        assert reply.text == whole[: whole.index(stop)]
        assert reply.finish_reason == "stop"


def test_an_end_of_sequence_token_ends_the_reply_and_is_not_in_it(
    session: AtomSession, small_bundle: Path, tmp_path: Path
) -> None:
    greedy = session.generate("The water", temperature=0, max_new_tokens=12).token_ids
    shutil.copytree(small_bundle, tmp_path / "other")
    (tmp_path / "other" / "generation_config.json").write_text(f'{{"eos_token_id": {greedy[5]}}}')
    seal(tmp_path / "other", open_bundle(small_bundle).manifest)
    other = AtomSession.from_pretrained(tmp_path / "other", threads=1)
    reply = other.generate("The water", temperature=0, max_new_tokens=12, logprobs=0)
    assert reply.token_ids == greedy[: greedy.index(greedy[5])]
    assert reply.finish_reason == "stop"
    assert reply.generation_tokens == len(reply.token_ids)
    assert reply.logprobs is not None
    assert len(reply.logprobs) == len(reply.token_ids)
    *_, last = other.stream("The water", temperature=0, max_new_tokens=12)
    assert last.token_id == greedy[5]
    assert last.generation_tokens == len(reply.token_ids)


def test_log_probabilities_are_those_of_the_unmodified_model(
    model: AtomForCausalLM, session: AtomSession
) -> None:
    reply = session.generate("The water", seed=1, temperature=0.5, max_new_tokens=12, logprobs=3)
    prompt = session.tokenizer.encode("The water")
    with torch.no_grad():
        logits = model(torch.tensor([prompt + list(reply.token_ids)])).logits[0]
    rows = torch.log_softmax(logits.double(), -1)[len(prompt) - 1 : -1]
    assert reply.logprobs is not None
    assert len(reply.logprobs) == len(reply.token_ids) == 12
    for entry, token, row in zip(reply.logprobs, reply.token_ids, rows, strict=True):
        assert entry.token_id == token
        assert math.isclose(entry.logprob, float(row[token]), abs_tol=1e-3)
        values, ids = row.topk(3)
        assert [token_id for token_id, _ in entry.top] == ids.tolist()
        np.testing.assert_allclose([value for _, value in entry.top], values, atol=1e-3)
    plain = session.generate("The water", seed=1, max_new_tokens=2, logprobs=0)
    assert plain.logprobs is not None
    assert [entry.top for entry in plain.logprobs] == [(), ()]
    assert session.generate("The", max_new_tokens=2).logprobs is None


class TestContext:
    def test_a_reply_that_fills_it_ends_with_length(self, session: AtomSession) -> None:
        prompt = list(range(5, 125))
        reply = session.generate(prompt, max_new_tokens=1000, temperature=0)
        assert reply.finish_reason == "length"
        assert reply.prompt_tokens + reply.generation_tokens == CONTEXT
        assert reply.truncated_tokens == 0

    @pytest.mark.parametrize("length", [CONTEXT - 1, CONTEXT, 5 * CONTEXT])
    def test_a_longer_prompt_keeps_its_end(self, session: AtomSession, length: int) -> None:
        prompt = list(np.random.default_rng(0).integers(5, 4096, length))
        reply = session.generate(prompt, temperature=0)
        assert reply.truncated_tokens == length - (CONTEXT - 1)
        assert reply.prompt_tokens == CONTEXT - 1
        assert reply.generation_tokens == 1
        assert reply.finish_reason == "length"
        end = session.generate(prompt[-(CONTEXT - 1) :], temperature=0)
        assert reply.token_ids == end.token_ids

    def test_an_empty_prompt_begins_a_document(self, session: AtomSession) -> None:
        reply = session.generate("", temperature=0, max_new_tokens=5)
        assert reply.token_ids == session.generate([4], temperature=0, max_new_tokens=5).token_ids
        assert reply.prompt_tokens == 1
        assert session.generate([], temperature=0, max_new_tokens=5).text == reply.text

    def test_nothing_is_put_before_a_prompt(self, session: AtomSession) -> None:
        ids = session.tokenizer.encode("The water")
        by_text = session.generate("The water", temperature=0, max_new_tokens=5)
        assert by_text.token_ids == session.generate(ids, temperature=0, max_new_tokens=5).token_ids


class TestRefusals:
    @pytest.mark.parametrize(
        ("option", "value"),
        [
            ("max_new_tokens", 0),
            ("temperature", -0.1),
            ("temperature", math.nan),
            ("top_k", -1),
            ("top_p", 0.0),
            ("top_p", 1.1),
            ("min_p", -0.1),
            ("min_p", 1.1),
            ("repetition_penalty", 0.0),
            ("repetition_penalty", math.inf),
            ("seed", -1),
            ("stop", ["ok", ""]),
            ("logprobs", -1),
        ],
    )
    def test_an_option_outside_its_range(
        self, session: AtomSession, option: str, value: object
    ) -> None:
        with pytest.raises(GenerationError, match=f"^{option} is .*must be"):
            session.stream("The", **{option: value})

    @pytest.mark.parametrize("token_id", [-1, 4096])
    def test_a_token_that_does_not_exist(self, session: AtomSession, token_id: int) -> None:
        with pytest.raises(GenerationError, match=rf"token id {token_id}, .* 0 to 4095"):
            session.generate([5, token_id])

    def test_a_prompt_that_is_not_unicode(self, session: AtomSession) -> None:
        with pytest.raises(TokenizerError, match="surrogate"):
            session.generate("\udc80")

    def test_more_tokens_than_the_context_given_to_a_decoder(self, session: AtomSession) -> None:
        decoder = session.new_decoder()
        with pytest.raises(GenerationError, match="129 tokens cannot follow 0 in a context of 128"):
            decoder.feed([5] * (CONTEXT + 1))
        with pytest.raises(GenerationError, match="0 tokens cannot follow"):
            decoder.feed([])

    def test_a_folder_that_is_no_bundle(self, tmp_path: Path) -> None:
        with pytest.raises(BundleError, match="is not a bundle"):
            AtomSession.from_pretrained(tmp_path)


def test_a_decoder_goes_on_where_the_prompt_agrees_with_it(session: AtomSession) -> None:
    decoder = session.new_decoder()
    first = "".join(p.text for p in session.stream([9, 8, 7], temperature=0, max_new_tokens=9))
    for prompt in ([9, 8, 7], [9, 8, 7, 6, 5], [9, 8], [3], [9, 8, 7]):
        options = {"temperature": 0, "max_new_tokens": 9}
        pieces = list(session.stream(prompt, decoder=decoder, **options))
        alone = session.generate(prompt, **options)
        assert "".join(piece.text for piece in pieces) == alone.text
        assert list(decoder.token_ids[: len(prompt)]) == prompt
    assert alone.text == first


def test_threads_may_share_a_session(session: AtomSession) -> None:
    expected = {prompt: session.generate(prompt, temperature=0).text for prompt in PROMPTS}
    replies: dict[str, str] = {}

    def work(prompt: str) -> None:
        replies[prompt] = session.generate(prompt, temperature=0).text

    workers = [threading.Thread(target=work, args=(prompt,)) for prompt in PROMPTS]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert replies == expected


def test_two_replies_on_one_decoder_do_not_mix(session: AtomSession) -> None:
    decoder = session.new_decoder()
    first = session.stream("The water", decoder=decoder, temperature=0)
    next(first)
    second = session.stream("A stone", decoder=decoder, temperature=0, max_new_tokens=1)
    next(second)
    with pytest.raises(GenerationError, match="Another reply has begun on this decoder"):
        next(first)
    next(session.stream("A river", decoder=decoder, temperature=0))
    assert not list(second), "a reply that has ended needs the decoder no more"
