"""`/v1/chat/completions` through the `openai` client, and the keys of a server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import openai
import pytest

from atom_edge.runtimes.session import AtomSession
from tests.runtimes.server.conftest import NAME, Running

MESSAGES = [
    {"role": "developer", "content": "Be short."},
    {
        "role": "user",
        "content": [{"type": "text", "text": "Where is "}, {"type": "text", "text": "the river?"}],
    },
]
PROMPT = "<system>Be short.\n<user>Where is the river?\n<assistant>"
OPTIONS: dict[str, Any] = {"temperature": 0.8, "seed": 3}


def chat(server: Running, **options: Any) -> Any:
    asked = {"model": NAME, "messages": MESSAGES, **OPTIONS, **options}
    return server.client("secret").chat.completions.create(**asked)


@pytest.fixture(scope="module")
def chat_session(chat_bundle: Path) -> AtomSession:
    return AtomSession.from_pretrained(chat_bundle, threads=1)


def test_the_template_makes_the_prompt(chat_server: Running, chat_session: AtomSession) -> None:
    response = chat(chat_server, max_completion_tokens=12, logprobs=True, top_logprobs=2)
    reply = chat_session.generate(PROMPT, max_new_tokens=12, logprobs=2, **OPTIONS)
    (choice,) = response.choices
    assert (choice.message.role, choice.message.content) == ("assistant", reply.text)
    assert response.usage.prompt_tokens == reply.prompt_tokens
    entries = choice.logprobs.content
    for entry, own in zip(entries, reply.logprobs, strict=True):
        assert entry.token == chat_session.tokenizer.token_text(own.token_id)
        assert entry.logprob == pytest.approx(own.logprob, abs=1e-4)
        assert len(entry.top_logprobs) == 2
        assert entry.bytes is None or bytes(entry.bytes).decode() == entry.token


def test_a_stream_begins_with_the_role(chat_server: Running, chat_session: AtomSession) -> None:
    chunks = list(chat(chat_server, max_tokens=12, stream=True))
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert [delta.role for delta in deltas if delta.role] == ["assistant"]
    assert deltas[0].role == "assistant"
    text = "".join(delta.content or "" for delta in deltas)
    assert text == chat_session.generate(PROMPT, max_new_tokens=12, **OPTIONS).text
    assert chunks[-1].choices[0].finish_reason == "length"


def test_without_a_limit_the_context_is_one(chat_server: Running) -> None:
    usage = chat(chat_server, temperature=0).usage
    assert usage.total_tokens <= 128


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.role"),
        ({"max_tokens": 1, "max_completion_tokens": 2}, "max_completion_tokens"),
    ],
    ids=str,
)
def test_what_cannot_be_done_is_refused_by_name(
    chat_server: Running, options: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        chat(chat_server, **options)
    assert refused.value.param == param


def test_a_reply_follows_a_schema(chat_server: Running) -> None:
    schema = {"type": "object", "properties": {"size": {"enum": [1, 2]}}, "required": ["size"]}
    wanted = {"name": "size", "schema": {**schema, "additionalProperties": False}}
    response = chat(chat_server, response_format={"type": "json_schema", "json_schema": wanted})
    assert json.loads(response.choices[0].message.content)["size"] in (1, 2)


def test_a_base_model_has_no_chat(server: Running) -> None:
    with pytest.raises(openai.BadRequestError, match="no chat template"):
        chat(server)


def test_every_route_but_health_needs_the_key(chat_server: Running) -> None:
    import httpx

    with httpx.Client(base_url=chat_server.url) as client:
        assert client.get("/health").json() == {"status": "ok"}
        for path in ("/v1/models", "/metrics", "/tokenizer_info", "/nowhere"):
            assert client.get(path).status_code == 401
        for path in ("/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize"):
            refused = client.post(path, headers={"Authorization": "Bearer secre"})
            assert refused.status_code == 401
            assert refused.json()["error"]["code"] == "invalid_api_key"
        headers = {"Authorization": "Bearer secret"}
        assert client.get("/metrics", headers=headers).status_code == 200
