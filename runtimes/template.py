"""A chat model's template: messages to the text that the model was trained on.

The template is a program that comes with the model. It runs in Jinja's immutable sandbox, which
lets it read the messages and nothing else, in a process of its own, whose time and memory are
limited; see `template_worker.py`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import sys
import threading
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atom_edge.errors import BundleError, MissingExtraError

if TYPE_CHECKING:
    import subprocess

Message = Mapping[str, Any]

TIME_LIMIT = 5.0
"""Seconds of processor time that a template may take; most take thousandths."""
# A machine may be busy with other things. Windows has no limit of processor time.
_WALL = 1 if sys.platform == "win32" else 10

_SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token")
_WORKER = Path(__file__).with_name("template_worker.py")


class ChatTemplate:
    """A Jinja template with the names that transformers gives to chat templates.

    Threads may share one. Its process ends with it, or with this process.

    Args:
        source: the template.
        tokenizer_config: of the model; the texts of its special tokens are read.

    Raises:
        BundleError: if it is no Jinja template, or if reading it takes too long; or if a special
            token is none.
        MissingExtraError: without Jinja.
    """

    def __init__(self, source: str, tokenizer_config: Mapping[str, Any]) -> None:
        if importlib.util.find_spec("jinja2") is None:
            raise MissingExtraError("A chat template", "chat", "jinja2")
        self._source = source
        self._tokens = {
            name: _token_text(name, tokenizer_config[name])
            for name in _SPECIAL_TOKENS
            if tokenizer_config.get(name) is not None
        }
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._ask(None)

    def render(self, messages: Sequence[Message]) -> str:
        """The text of a conversation, up to where the model's next message begins.

        Args:
            messages: each with `role` ("system", "user" or "assistant") and `content`, and what
                else the template looks at.

        Raises:
            BundleError: if the template fails, refuses the messages, or takes too long.
        """
        return self._ask(list(messages))

    def _ask(self, messages: list[Message] | None) -> str:
        request = {"seconds": TIME_LIMIT, "template": self._source, "messages": messages}
        request["names"] = self._tokens
        with self._lock:
            answer = self._answer(json.dumps(request))
        if "unreadable" in answer:
            raise BundleError(f"The bundle's chat template cannot be read: {answer['unreadable']}")
        if "failed" in answer:
            raise BundleError(f"The bundle's chat template failed: {answer['failed']}")
        return answer["text"]

    def _answer(self, request: str) -> dict[str, str]:
        if self._process is None:
            self._process = _start()
            self._ending = weakref.finalize(self, _stop, self._process)
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        timer = threading.Timer(_WALL * TIME_LIMIT, process.kill)
        timer.start()
        try:
            process.stdin.write(request + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except OSError:  # it ended before it had read the request
            line = ""
        finally:
            timer.cancel()
        if line:
            answer: dict[str, str] = json.loads(line)
            return answer
        self._process = None
        self._ending()
        return {"failed": f"it took more than {TIME_LIMIT:.0f} seconds or too much memory"}


def _start() -> subprocess.Popen[str]:
    if getattr(sys, "frozen", False):
        raise BundleError(
            "A chat template needs a Python interpreter for its process, and this program is "
            "frozen. Render the messages yourself and pass the text to `stream`."
        )
    import subprocess  # most processes render no template

    process = subprocess.Popen(
        [sys.executable, "-I", "-X", "utf8", str(_WORKER)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        encoding="utf-8",
        env={name: os.environ[name] for name in ("SYSTEMROOT", "TZ") if name in os.environ},
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(sys.path) + "\n")
    return process


def _stop(process: subprocess.Popen[str]) -> None:
    process.kill()
    for pipe in (process.stdin, process.stdout):
        if pipe:
            with contextlib.suppress(OSError):  # what was not yet written cannot be
                pipe.close()
    process.wait()


def _token_text(name: str, token: Any) -> str:
    text = token.get("content") if isinstance(token, dict) else token
    if not isinstance(text, str):
        raise BundleError(
            f"tokenizer_config.json: {name}: it must be a text, or an object with its `content`."
        )
    return text
