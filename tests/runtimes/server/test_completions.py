"""`/v1/completions` through the `openai` client: the text of `AtomSession.generate`."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import openai
import pytest

from atom_edge.runtimes.session import AtomSession
from tests.runtimes.server.conftest import NAME, Running

PROMPTS = ["The river", "", "A small stone lies under the house", "water " * 50, "In"]
SAMPLED: dict[str, Any] = {"temperature": 0.8, "top_p": 0.9, "seed": 7}


def complete(server: Running, prompt: Any, **options: Any) -> Any:
    return server.client().completions.create(model=NAME, prompt=prompt, **options)


@pytest.mark.parametrize(
    ("asked", "own"),
    [
        ({"temperature": 0}, {"temperature": 0}),
        (SAMPLED, SAMPLED),
        ({"temperature": 0, "stop": ["e", "th"]}, {"temperature": 0, "stop": ["e", "th"]}),
        (
            {**SAMPLED, "extra_body": {"top_k": 9, "min_p": 0.01, "repetition_penalty": 1.2}},
            {**SAMPLED, "top_k": 9, "min_p": 0.01, "repetition_penalty": 1.2},
        ),
    ],
)
def test_the_text_is_that_of_generate(
    server: Running, session: AtomSession, asked: dict[str, Any], own: dict[str, Any]
) -> None:
    response = complete(server, PROMPTS, max_tokens=20, **asked)
    replies = [session.generate(prompt, max_new_tokens=20, **own) for prompt in PROMPTS]
    assert [choice.text for choice in response.choices] == [reply.text for reply in replies]
    reasons = [choice.finish_reason for choice in response.choices]
    assert reasons == [reply.finish_reason for reply in replies]
    assert [choice.index for choice in response.choices] == list(range(len(PROMPTS)))
    assert response.usage.prompt_tokens == sum(reply.prompt_tokens for reply in replies)
    assert response.usage.completion_tokens == sum(reply.generation_tokens for reply in replies)


def test_prompts_may_be_token_ids(server: Running, session: AtomSession) -> None:
    ids = session.tokenizer.encode("The river")
    texts = [
        [choice.text for choice in complete(server, prompt, temperature=0).choices]
        for prompt in ("The river", ids, [ids, ids], ["The river"])
    ]
    expected = session.generate("The river", temperature=0, max_new_tokens=16).text
    assert texts == [[expected], [expected], [expected] * 2, [expected]]


def test_a_stream_is_the_same_text(server: Running, session: AtomSession) -> None:
    chunks = list(
        complete(
            server,
            ["The river", "A"],
            max_tokens=20,
            stream=True,
            stream_options={"include_usage": True},
            **SAMPLED,
        )
    )
    *parts, last = chunks
    replies = session.generate_batch(["The river", "A"], max_new_tokens=20, **SAMPLED)
    for index, reply in enumerate(replies):
        own = [choice for part in parts for choice in part.choices if choice.index == index]
        assert "".join(choice.text for choice in own) == reply.text
        assert [c.finish_reason for c in own if c.finish_reason] == [reply.finish_reason]
    assert len(parts) >= 4, "the first and the last of each come by themselves"
    assert all(part.usage is None for part in parts)
    assert last.choices == []
    assert last.usage.completion_tokens == sum(reply.generation_tokens for reply in replies)
    assert len({chunk.id for chunk in chunks}) == 1


def test_several_replies_to_a_prompt(server: Running, session: AtomSession) -> None:
    response = complete(server, ["The", "A"], n=3, max_tokens=12, temperature=0.9, seed=5)
    expected = [
        session.generate(prompt, max_new_tokens=12, temperature=0.9, seed=seed).text
        for prompt in ("The", "A")
        for seed in (5, 6, 7)
    ]
    assert [choice.text for choice in response.choices] == expected
    ids = sum(len(session.tokenizer.encode(prompt)) for prompt in ("The", "A"))
    assert response.usage.prompt_tokens == ids


def test_echo_rates_the_prompt(server: Running, session: AtomSession) -> None:
    text = "The river is wide"
    response = complete(server, text, echo=True, logprobs=2, max_tokens=3, temperature=0)
    (choice,) = response.choices
    reply = session.generate(text, temperature=0, max_new_tokens=3, logprobs=2)
    assert choice.text == text + reply.text
    rated = choice.logprobs
    ids = [*session.tokenizer.encode(text), *reply.token_ids]
    assert rated.tokens == [session.tokenizer.token_text(token) for token in ids]
    assert "".join(rated.tokens) == choice.text
    ends = [*rated.text_offset[1:], len(choice.text)]
    pieces = [choice.text[a:b] for a, b in zip(rated.text_offset, ends, strict=True)]
    assert pieces == rated.tokens
    assert rated.token_logprobs[0] is None
    assert rated.top_logprobs[0] is None
    for end in range(1, len(ids)):
        (entry,) = session.generate(ids[:end], temperature=0, max_new_tokens=1, logprobs=2).logprobs
        top = rated.top_logprobs[end]
        for token, logprob in entry.top:
            assert top[session.tokenizer.token_text(token)] == pytest.approx(logprob, abs=1e-4)
        assert top[rated.tokens[end]] == rated.token_logprobs[end]
    assert rated.token_logprobs[-3:] == pytest.approx(
        [entry.logprob for entry in reply.logprobs], abs=1e-4
    )
    alone = complete(server, text, echo=True, logprobs=0, max_tokens=0)
    assert alone.choices[0].text == text
    assert alone.choices[0].logprobs.token_logprobs == pytest.approx(
        rated.token_logprobs[: len(ids) - 3], abs=1e-4
    )
    assert alone.usage.completion_tokens == 0


def test_a_stream_may_echo_with_log_probabilities(server: Running) -> None:
    options: dict[str, Any] = {"echo": True, "logprobs": 1, "max_tokens": 4, "temperature": 0}
    (whole,) = complete(server, "The river", **options).choices
    parts = [
        c for chunk in complete(server, "The river", stream=True, **options) for c in chunk.choices
    ]
    assert "".join(part.text for part in parts) == whole.text
    for name in ("tokens", "text_offset"):
        joined = [item for part in parts for item in getattr(part.logprobs, name)]
        assert joined == getattr(whole.logprobs, name)


def test_many_at_once_have_each_their_own_text(server: Running, session: AtomSession) -> None:
    async def ask() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:

            async def one(number: int) -> str:
                options: dict[str, Any] = {**SAMPLED, "seed": number, "max_tokens": 5 + number % 20}
                prompt = PROMPTS[number % len(PROMPTS)]
                if number % 2:
                    reply = await client.completions.create(model=NAME, prompt=prompt, **options)
                    return reply.choices[0].text
                stream = await client.completions.create(
                    model=NAME, prompt=prompt, stream=True, **options
                )
                return "".join([part.choices[0].text async for part in stream])

            return await asyncio.gather(*map(one, range(40)))

    expected = [
        session.generate(
            PROMPTS[number % len(PROMPTS)],
            **{**SAMPLED, "seed": number, "max_new_tokens": 5 + number % 20},
        ).text
        for number in range(40)
    ]
    assert asyncio.run(ask()) == expected


@pytest.mark.parametrize(
    ("options", "param", "said"),
    [
        ({"presence_penalty": 0.5}, "presence_penalty", "not supported"),
        ({"logit_bias": {"5": 1}}, "logit_bias", "not supported"),
        ({"best_of": 3}, "best_of", "not supported"),
        ({"suffix": "x"}, "suffix", "not supported"),
        ({"extra_body": {"guided_json": {}}}, "guided_json", "not supported"),
        ({"temperature": -1}, "temperature", "temperature is -1"),
        ({"top_p": 1.5}, "top_p", "top_p is 1.5"),
        ({"max_tokens": -1}, "max_tokens", "max_new_tokens is -1"),
        ({"n": 0}, "n", "at least 1"),
        ({"prompt": []}, "prompt", "empty list"),
        ({"prompt": ["a", 5]}, "prompt", "mixes"),
        ({"prompt": [99999]}, "prompt", "token id 99999"),
        ({"extra_body": {"logprobs": "all"}}, "logprobs", "expected int"),
        ({"extra_body": {"stream_options": {}}}, "stream_options", "needs stream"),
    ],
    ids=str,
)
def test_what_cannot_be_done_is_refused_by_name(
    server: Running, options: dict[str, Any], param: str, said: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=said) as refused:
        complete(server, **{"prompt": "The", **options})
    assert refused.value.param == param


def test_what_asks_for_nothing_is_accepted(server: Running) -> None:
    options: dict[str, Any] = {"presence_penalty": 0, "logit_bias": {}, "best_of": 1, "user": "me"}
    assert complete(server, "The", **options, max_tokens=1).choices


def test_a_prompt_over_the_context_is_refused_with_both_figures(server: Running) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        complete(server, [5] * 128)
    assert refused.value.type == "exceed_context_size_error"
    assert refused.value.body["n_prompt_tokens"] == 128
    assert refused.value.body["n_ctx"] == 128
    assert complete(server, [5] * 127).usage.completion_tokens == 1


def test_a_reply_follows_a_pattern(server: Running) -> None:
    more = {"regex": "[0-9]{3}"}
    (choice,) = complete(server, "The", extra_body=more).choices
    assert re.fullmatch("[0-9]{3}", choice.text)
    with pytest.raises(openai.BadRequestError, match="regex"):
        complete(server, "The", extra_body={"regex": "("})


def test_another_model_is_not_found(server: Running) -> None:
    with pytest.raises(openai.NotFoundError, match="there is 'small'"):
        server.client().completions.create(model="smal", prompt="The")
