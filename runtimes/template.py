"""A chat model's template: messages to the text that the model was trained on.

The template is a program that comes with the model. It runs in Jinja's immutable sandbox, which
lets it read the messages and nothing else.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from atom_edge.errors import BundleError, MissingExtraError

Message = Mapping[str, str]

_SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token")


class ChatTemplate:
    """A Jinja template with the names that transformers gives to chat templates."""

    def __init__(self, source: str, tokenizer_config: Mapping[str, Any]) -> None:
        try:
            from jinja2 import TemplateError
            from jinja2.ext import loopcontrols
            from jinja2.sandbox import ImmutableSandboxedEnvironment
        except ImportError as error:
            raise MissingExtraError("A chat template", "chat", "jinja2") from error
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = _now
        self._failure = TemplateError
        self._tokens = {
            name: _token_text(tokenizer_config[name])
            for name in _SPECIAL_TOKENS
            if tokenizer_config.get(name) is not None
        }
        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise BundleError(f"The bundle's chat template cannot be read: {error}") from error

    def render(self, messages: Sequence[Message]) -> str:
        """The text of a conversation, up to where the model's next message begins.

        Args:
            messages: each with `role` ("system", "user" or "assistant") and `content`.

        Raises:
            BundleError: if the template fails or refuses the messages.
        """
        try:
            return self._template.render(
                messages=messages, add_generation_prompt=True, **self._tokens
            )
        except (self._failure, TypeError, ValueError) as error:
            raise BundleError(f"The bundle's chat template failed: {error}") from error


def _token_text(token: Any) -> str:
    return str(token["content"] if isinstance(token, dict) else token)


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise(message: str) -> NoReturn:
    from jinja2 import TemplateError

    raise TemplateError(message)


def _now(pattern: str) -> str:
    return datetime.datetime.now().strftime(pattern)
