"""Conversations: what the model is given each time, and what is forgotten first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from atom_edge.errors import BundleError, GenerationError
from atom_edge.runtimes.chat import Conversation
from atom_edge.runtimes.options import Options
from atom_edge.runtimes.session import AtomSession

CONTEXT = 128
GREEDY: Options = {"temperature": 0, "max_new_tokens": 8}


@pytest.fixture(scope="module")
def chat_session(chat_bundle: Path) -> AtomSession:
    return AtomSession.from_pretrained(chat_bundle, threads=1)


def said(conversation: Conversation, message: str) -> str:
    return "".join(piece.text for piece in conversation.say(message))


def test_a_base_model_s_conversation_is_one_text(session: AtomSession) -> None:
    conversation = Conversation(session, GREEDY)
    first = said(conversation, "The water")
    assert first == session.generate("The water", **GREEDY).text
    second = said(conversation, "A new day")
    assert second == session.generate(f"The water{first}\n\nA new day", **GREEDY).text
    assert conversation.text == f"The water{first}\n\nA new day{second}"
    assert not conversation.is_chat


def test_an_empty_message_lets_a_base_model_write_on(session: AtomSession) -> None:
    conversation = Conversation(session, GREEDY)
    first = said(conversation, "The water")
    assert said(conversation, "") == session.generate("The water" + first, **GREEDY).text
    fresh = Conversation(session, GREEDY)
    assert said(fresh, "") == session.generate("", **GREEDY).text


def test_a_reply_that_is_cut_short_is_remembered_as_far_as_it_came(session: AtomSession) -> None:
    conversation = Conversation(session, GREEDY)
    pieces = conversation.say("The water")
    begun = next(pieces).text + next(pieces).text
    pieces.close()
    assert conversation.text == "The water" + begun
    assert said(conversation, "") == session.generate("The water" + begun, **GREEDY).text


def test_the_oldest_text_is_forgotten_and_room_for_the_reply_is_kept(session: AtomSession) -> None:
    conversation = Conversation(session, GREEDY)
    for number in range(30):
        said(conversation, f"This is the sentence number {number}")
        assert conversation.last is not None
        assert conversation.last.generation_tokens == 8
        assert conversation.last.prompt_tokens <= CONTEXT - 8
    assert conversation.last.prompt_tokens == CONTEXT - 8
    conversation.options = {"temperature": 0, "max_new_tokens": 10_000}
    said(conversation, "on")
    assert conversation.last.prompt_tokens == CONTEXT // 2


def test_reset_forgets(session: AtomSession) -> None:
    conversation = Conversation(session, GREEDY)
    first = said(conversation, "The water")
    conversation.reset()
    assert conversation.text == ""
    assert conversation.last is None
    assert said(conversation, "The water") == first


def test_a_template_gives_each_message_its_role(chat_session: AtomSession) -> None:
    conversation = Conversation(chat_session, GREEDY)
    assert conversation.is_chat
    first = said(conversation, "Hi")
    assert first == chat_session.generate("u: Hi\na:", **GREEDY).text
    second = said(conversation, "Why?")
    assert second == chat_session.generate(f"u: Hi\na: {first}\nu: Why?\na:", **GREEDY).text
    assert [message["role"] for message in conversation.messages] == ["user", "assistant"] * 2


def test_the_oldest_exchanges_are_forgotten_and_the_system_message_is_not(
    chat_session: AtomSession,
) -> None:
    conversation = Conversation(chat_session, GREEDY)
    conversation.messages.append({"role": "system", "content": "Be brief."})
    for number in range(12):
        said(conversation, f"Number {number}")
    *_, newest = conversation.messages[:-1]
    kept = conversation._recent(conversation.messages, CONTEXT - 8)
    text = chat_session.tokenizer.decode(kept)
    assert text.startswith("s: Be brief.\nu: Number ")
    assert "Number 0\n" not in text
    assert newest["content"] in text
    assert len(kept) <= CONTEXT - 8


def test_one_message_too_long_for_the_context_keeps_its_end(chat_session: AtomSession) -> None:
    conversation = Conversation(chat_session, GREEDY)
    said(conversation, "word " * 300)
    assert conversation.last is not None
    assert conversation.last.prompt_tokens == CONTEXT - 8
    assert conversation.last.generation_tokens == 8


def test_an_option_outside_its_range_leaves_the_conversation_as_it_was(
    session: AtomSession,
) -> None:
    conversation = Conversation(session, {"temperature": -1})
    with pytest.raises(GenerationError, match="temperature"):
        said(conversation, "The water")
    assert conversation.messages == []


def test_a_system_message_is_kept(chat_session: AtomSession) -> None:
    conversation = Conversation(chat_session, GREEDY)
    conversation.system = "Be brief."
    said(conversation, "Hello")
    conversation.system = "Be kind."
    assert [message["role"] for message in conversation.messages] == ["system", "user", "assistant"]
    conversation.reset()
    assert conversation.messages == [{"role": "system", "content": "Be kind."}]
    conversation.system = ""
    assert conversation.messages == []


def test_another_reply_takes_the_place_of_the_last(chat_session: AtomSession) -> None:
    conversation = Conversation(chat_session, {**GREEDY, "temperature": 2.0})
    first = said(conversation, "Hello")
    second = "".join(piece.text for piece in conversation.retry())
    assert first != second
    assert [message["content"] for message in conversation.messages] == ["Hello", second]
    conversation.options = {"top_p": 7}
    with pytest.raises(GenerationError, match="top_p"):
        list(conversation.retry())
    assert [message["content"] for message in conversation.messages] == ["Hello", second]


def test_undo_of_a_base_model_takes_back_what_it_wrote_on(session: AtomSession) -> None:
    conversation = Conversation(session, GREEDY)
    said(conversation, "The water")
    text = conversation.text
    said(conversation, "")
    assert conversation.undo() == ""
    assert conversation.text == text
    assert conversation.undo() == "The water"
    with pytest.raises(GenerationError, match="Nothing was said"):
        conversation.undo()


@pytest.mark.parametrize(
    ("roles", "problem"),
    [
        (["user", "dog"], "no role 'dog'"),
        (["user"], "take turns"),
        (["assistant", "user"], "take turns"),
        (["user", "assistant", "system", "user", "assistant"], "take turns"),
    ],
)
def test_messages_in_a_wrong_order_are_refused(
    chat_session: AtomSession, roles: list[str], problem: str
) -> None:
    conversation = Conversation(chat_session, GREEDY)
    said(conversation, "Hello")
    before = list(conversation.messages)
    with pytest.raises(GenerationError, match=problem):
        conversation.load([{"role": role, "content": "x"} for role in roles])
    assert conversation.messages == before


def test_a_session_answers_messages(chat_session: AtomSession, session: AtomSession) -> None:
    messages = [{"role": "user", "content": "Hello"}]
    reply = chat_session.chat(messages, **GREEDY)
    assert reply.text == chat_session.generate("u: Hello\na:", **GREEDY).text
    with pytest.raises(BundleError, match="has no chat template"):
        session.chat(messages)


@pytest.mark.parametrize("messages", ["Hello", ["Hello"], [{"content": "Hello"}], None, 7])
def test_what_is_no_message_is_refused(chat_session: AtomSession, messages: Any) -> None:
    with pytest.raises(GenerationError, match=r"messages|no message"):
        chat_session.chat(messages)
