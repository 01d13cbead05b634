"""The process that renders chat templates: `python template_worker.py`, by `template.py` alone.

A template is a program of a stranger. Jinja's sandbox keeps it from reading anything, and not from
running forever or filling the memory: that is what a process of its own is for. The process reads
JSON lines and answers each with one:

    [search path]                             first, where Jinja lies; no answer
    {"seconds", "template", "messages", "names"}    messages null: only read the template
    -> {"text"} or {"unreadable"} or {"failed"}
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import json
import math
import sys
import time
from typing import Any, NoReturn

MEMORY = 2**30
"""Bytes of address space of this process, where the system can limit it."""
TEXT_LIMIT = 2**24
"""Characters that a rendered text may have."""


def main() -> None:
    """Answer until standard input ends."""
    _limit_memory()
    sys.path[:] = json.loads(sys.stdin.readline())
    for line in sys.stdin:
        request = json.loads(line)
        _limit_time(request.pop("seconds"))
        print(json.dumps(answer(**request)), flush=True)


def answer(
    template: str, messages: list[dict[str, Any]] | None, names: dict[str, str]
) -> dict[str, str]:
    """Render a template, with the names that transformers gives to it."""
    try:
        compiled = _compiled(template)
    except Exception as error:
        return {"unreadable": _described(error)}
    if messages is None:
        return {"text": ""}
    given = {"tools": None, "documents": None, "add_generation_prompt": True, **names}
    try:
        text = compiled.render(messages=messages, **given)
    except Exception as error:
        return {"failed": _described(error)}
    if len(text) > TEXT_LIMIT:
        return {"failed": f"its text has more than {TEXT_LIMIT:,} characters"}
    return {"text": text}


@functools.lru_cache(maxsize=1)
def _compiled(source: str) -> Any:
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _generation_tag()]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = _now
    return environment.from_string(source)


def _generation_tag() -> Any:
    """`{% generation %}`, which marks the model's words for training: here its body, unmarked."""
    from jinja2 import nodes
    from jinja2.ext import Extension

    class Generation(Extension):
        tags = {"generation"}  # noqa: RUF012  (as Jinja declares it)

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

        def _body(self, caller: Any) -> Any:
            return caller()

    return Generation


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise(message: str) -> NoReturn:
    from jinja2 import TemplateError

    raise TemplateError(message)


def _now(pattern: str) -> str:
    return datetime.datetime.now().strftime(pattern)


def _described(error: Exception) -> str:
    from jinja2 import TemplateError

    if isinstance(error, TemplateError):
        return str(error)
    return f"{type(error).__name__} {error}".strip()


def _limit_memory() -> None:
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def _limit_time(seconds: float) -> None:
    """End this process when it has computed for so long from now on."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_CPU)
        resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(time.process_time() + seconds), most))


if __name__ == "__main__":
    main()
