"""A plugin of `llm` (https://llm.datasette.io), found by it through an entry point.

llm install 'atom-edge[cpu]'
llm -m atom-edge 'The water cycle is'
llm -m atom-edge -o bundle my-bundle -o temperature 0 'Hello'
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import llm

from atom_edge.errors import AtomEdgeError
from atom_edge.runtimes.options import Options
from atom_edge.runtimes.session import AtomSession


class AtomEdge(llm.Model):
    """The model "atom-edge": the reference bundle, or the one of the option `bundle`.

    A bundle with a chat template gets the messages of the conversation; a base model goes on from
    their text.
    """

    model_id = "atom-edge"
    can_stream = True

    class Options(llm.Options):
        """What `-o NAME VALUE` may set; see `GenerationOptions`."""

        bundle: str | None = None
        max_new_tokens: int | None = None
        temperature: float | None = None
        top_k: int | None = None
        top_p: float | None = None
        min_p: float | None = None
        repetition_penalty: float | None = None
        seed: int | None = None
        stop: str | None = None

    def __init__(self) -> None:
        self._sessions: dict[str | None, AtomSession] = {}

    def execute(
        self,
        prompt: llm.Prompt,
        stream: bool,
        response: llm.Response,
        conversation: llm.Conversation | None,
    ) -> Iterator[str]:
        """The pieces of a reply."""
        given: dict[str, Any] = prompt.options.model_dump(exclude_none=True)
        try:
            session = self._session(given.pop("bundle", None))
            piece = None
            for piece in session.stream(_prompt(session, prompt), **cast(Options, given)):
                yield piece.text
        except AtomEdgeError as error:
            raise llm.ModelError(str(error)) from error
        if piece is not None:
            response.set_usage(input=piece.prompt_tokens, output=piece.generation_tokens)

    def _session(self, bundle: str | None) -> AtomSession:
        if bundle not in self._sessions:
            self._sessions[bundle] = AtomSession.from_pretrained(bundle)
        return self._sessions[bundle]


def _prompt(session: AtomSession, prompt: llm.Prompt) -> str | list[int]:
    """What the model is given: the messages by its template, or one text."""
    messages = [
        {
            "role": message.role,
            "content": "".join(getattr(part, "text", "") for part in message.parts),
        }
        for message in prompt.messages
    ]
    if session.is_chat:
        return session.chat_prompt(messages)
    texts = [message["content"] for message in messages if message["role"] != "system"]
    exchanges = ["".join(texts[start : start + 2]) for start in range(0, len(texts), 2)]
    return "\n\n".join(exchanges)


def _register(register: Any) -> None:
    register(AtomEdge())


register_models = llm.hookimpl(_register)
