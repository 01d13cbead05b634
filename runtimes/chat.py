"""A conversation that stays within the context.

With a chat template in the bundle, messages are rendered by it; when they no longer fit, the
oldest exchanges are forgotten. A base model has no roles: the conversation is one text, each
message begins a new paragraph of it and the model writes on; when it no longer fits, its oldest
tokens are forgotten. Either way `max_new_tokens`, but at most half of the context, stays free for
the reply.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence

from atom_edge.runtimes.options import GenerationOptions, Options
from atom_edge.runtimes.reply import Piece
from atom_edge.runtimes.session import AtomSession
from atom_edge.runtimes.template import ChatTemplate, Message


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
        source = session.bundle.chat_template
        self._template = (
            None if source is None else ChatTemplate(source, session.bundle.tokenizer_config)
        )
        self.is_chat = self._template is not None

    @property
    def text(self) -> str:
        """The conversation of a base model: one text."""
        paragraphs: list[str] = []
        for message in self.messages:
            if message["role"] == "user":
                paragraphs.append(message["content"])
            else:
                paragraphs[-1] += message["content"]
        return "\n\n".join(paragraphs)

    def reset(self) -> None:
        """Forget everything that was said."""
        self.messages.clear()
        self.last = None

    def say(self, message: str) -> Generator[Piece]:
        """Add a message and yield the reply; what was yielded of it is remembered.

        An empty message lets a base model write on where its last reply ended.
        """
        free = GenerationOptions.of(self.options).max_new_tokens
        if message or self.is_chat or not self.messages:
            self.messages.append({"role": "user", "content": message})
        prompt = self._prompt(free)
        reply: list[str] = []
        pieces = self.session.stream(prompt, decoder=self._decoder, **self.options)
        try:
            for piece in pieces:
                reply.append(piece.text)
                self.last = piece
                yield piece
        finally:
            self.messages.append({"role": "assistant", "content": "".join(reply)})

    def _prompt(self, free: int) -> str | list[int]:
        context = self.session.context_length
        budget = context - min(free, context // 2)
        if self._template is None:
            return self._end_of(self.text, budget)
        return self._recent(self._template, budget)

    def _end_of(self, text: str, budget: int) -> str | list[int]:
        ids = self.session.tokenizer.encode(text)
        return text if len(ids) <= budget else ids[-budget:]

    def _recent(self, template: ChatTemplate, budget: int) -> list[int]:
        """Token ids of the system message and of as many last exchanges as fit the budget.

        Of a single message that is too long, the end.
        """
        system = [message for message in self.messages if message["role"] == "system"]
        others = [message for message in self.messages if message["role"] != "system"]
        starts = [i for i, message in enumerate(others) if message["role"] == "user"]
        ids: list[int] = []
        for start in starts:
            ids = self._encode(template, [*system, *others[start:]])
            if len(ids) <= budget:
                break
        return ids[-budget:]

    def _encode(self, template: ChatTemplate, messages: Sequence[Message]) -> list[int]:
        return self.session.tokenizer.encode(template.render(messages))
