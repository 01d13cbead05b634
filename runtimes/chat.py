"""A conversation that stays within the context.

With a chat template in the bundle, messages are rendered by it; when they no longer fit, the
oldest exchanges are forgotten. A base model has no roles: the conversation is one text, each
message begins a new paragraph of it and the model writes on; when it no longer fits, its oldest
tokens are forgotten. Either way `max_new_tokens`, but at most half of the context, stays free for
the reply.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from html import escape

from atom_edge.errors import AtomEdgeError, GenerationError
from atom_edge.runtimes.options import GenerationOptions, Options
from atom_edge.runtimes.reply import Piece
from atom_edge.runtimes.session import AtomSession
from atom_edge.runtimes.template import Message

ROLES = ("system", "user", "assistant")


class Conversation:
    """What was said so far, and the cache that goes with it.

    Attributes:
        session: the model.
        options: of the next reply; may be changed between replies.
        messages: `role` and `content` of what was said, in order.
        last: the last piece of the last reply, with its counts and speeds; None before it.
        is_chat: whether the bundle has a chat template.
    """

    def __init__(self, session: AtomSession, options: Options | None = None) -> None:
        self.session = session
        self.options: Options = options or {}
        self.messages: list[dict[str, str]] = []
        self.last: Piece | None = None
        self._decoder = session.new_decoder()
        self.is_chat = session.is_chat

    def __repr__(self) -> str:
        return f"<Conversation of {len(self.messages)} messages with {self.session!r}>"

    def _repr_html_(self) -> str:
        """As a notebook shows it: who said what."""
        rows = (
            f"<tr><td><b>{escape(message['role'])}</b></td>"
            f"<td style='text-align: left'>{escape(message['content'])}</td></tr>"
            for message in self.messages
        )
        return f"<table style='white-space: pre-wrap'>{''.join(rows)}</table>"

    @property
    def text(self) -> str:
        """The conversation of a base model: one text."""
        return _joined(self.messages)

    @property
    def system(self) -> str:
        """The system message; empty where there is none."""
        first = self.messages[0] if self.messages else {"role": ""}
        return first["content"] if first["role"] == "system" else ""

    @system.setter
    def system(self, content: str) -> None:
        if not self.is_chat:
            raise GenerationError(
                "A base model has no system message: begin the text with what you want to say."
            )
        if self.system:
            del self.messages[0]
        if content:
            self.messages.insert(0, {"role": "system", "content": content})

    def reset(self) -> None:
        """Forget everything that was said, but for the system message."""
        self.messages = [message for message in self.messages if message["role"] == "system"]
        self.last = None

    def load(self, messages: Sequence[Message]) -> None:
        """Replace what was said.

        Args:
            messages: each with `role` and `content`: perhaps a system message, then messages of
                the user and of the model in turn, the model's last. A base model takes one
                message of the user after another, each with any number of replies.

        Raises:
            GenerationError: for messages in another order, or roles that do not exist.
        """
        roles = [message["role"] for message in messages]
        if unknown := [role for role in roles if role not in ROLES]:
            raise GenerationError(f"There is no role {unknown[0]!r}: it is one of {ROLES}.")
        if self.is_chat:
            rest = roles[1:] if roles[:1] == ["system"] else roles
            if rest != ["user", "assistant"] * (len(rest) // 2):
                raise GenerationError("Messages of user and assistant must take turns.")
        elif "system" in roles or roles[:1] == ["assistant"]:
            raise GenerationError("The text of a base model begins with a message of the user.")
        self.messages = [dict(message) for message in messages]
        self.last = None

    def say(self, message: str) -> Generator[Piece]:
        """Add a message and yield the reply; what was yielded of it is remembered.

        An empty message lets a base model write on where its last reply ended. A message or an
        option that is refused leaves the conversation as it was.
        """
        messages = list(self.messages)
        if message or self.is_chat or not messages:
            messages.append({"role": "user", "content": message})
        prompt = self._prompt(messages, GenerationOptions.of(self.options).max_new_tokens)
        pieces = self.session.stream(prompt, decoder=self._decoder, **self.options)
        self.messages = messages
        reply: list[str] = []
        try:
            for piece in pieces:
                reply.append(piece.text)
                self.last = piece
                yield piece
        finally:
            self.messages.append({"role": "assistant", "content": "".join(reply)})

    def undo(self) -> str:
        """Forget the last message and its reply; return the message.

        Raises:
            GenerationError: if nothing was said.
        """
        if not self.messages or self.messages[-1]["role"] != "assistant":
            raise GenerationError("Nothing was said yet.")
        self.messages.pop()
        if self.messages[-1]["role"] == "user":
            return self.messages.pop()["content"]
        return ""  # a base model had written on

    def retry(self) -> Generator[Piece]:
        """Take the last reply back and yield another one to the same message.

        Raises:
            GenerationError: if nothing was said.
        """
        said = list(self.messages)
        message = self.undo()
        try:
            yield from self.say(message)
        except AtomEdgeError:
            self.messages = said
            raise

    def _prompt(self, messages: Sequence[Message], free: int) -> str | list[int]:
        context = self.session.context_length
        budget = context - min(free, context // 2)
        if self.is_chat:
            return self._recent(messages, budget)
        return self._end_of(_joined(messages), budget)

    def _end_of(self, text: str, budget: int) -> str | list[int]:
        ids = self.session.tokenizer.encode(text)
        return text if len(ids) <= budget else ids[-budget:]

    def _recent(self, messages: Sequence[Message], budget: int) -> list[int]:
        """Token ids of the system message and of as many last exchanges as fit the budget.

        Of a single message that is too long, the end.
        """
        system = [message for message in messages if message["role"] == "system"]
        others = [message for message in messages if message["role"] != "system"]
        starts = [i for i, message in enumerate(others) if message["role"] == "user"]
        ids: list[int] = []
        for start in starts:
            ids = self.session.chat_prompt([*system, *others[start:]])
            if len(ids) <= budget:
                break
        return ids[-budget:]


def _joined(messages: Sequence[Message]) -> str:
    """The messages of a base model as one text."""
    paragraphs: list[str] = []
    for message in messages:
        if message["role"] == "user":
            paragraphs.append(message["content"])
        else:
            paragraphs[-1] += message["content"]
    return "\n\n".join(paragraphs)
