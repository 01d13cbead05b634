"""Many requests from a file: each line of it a request, each line of the output its response.

The output has the order of the input, so that its length says how far an earlier run came: lines
that are there are not done again, and of one that was cut short nothing is kept.
"""

from __future__ import annotations

import codecs
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from atom_edge.border import parse_json
from atom_edge.errors import AtomEdgeError, RequestError
from atom_edge.runtimes.reply import Piece
from atom_edge.runtimes.server import wire
from atom_edge.runtimes.server.answers import Choice, Envelope, Json, error_object, usage
from atom_edge.runtimes.server.plan import Plan, Planner
from atom_edge.runtimes.session import AtomSession
from atom_edge.runtimes.slots import Task

# Lines that may wait for an earlier one, as a multiple of the replies at once.
_AHEAD = 4
_MOST_REPLIES = 1_000  # of one line
_KINDS: dict[str, type[wire.CompletionRequest | wire.ChatRequest]] = {
    "/v1/completions": wire.CompletionRequest,
    "/v1/chat/completions": wire.ChatRequest,
}


class _Written(msgspec.Struct):
    """What is read again of a line of the output."""

    line: int
    custom_id: str | None = None
    error: dict[str, Any] | None = None


@dataclass(eq=False)
class _Line:
    """A request: its plan, and what has come of it; or what is wrong with it."""

    number: int
    end: int
    custom_id: str | None = None
    plan: Plan | None = None
    error: RequestError | None = None
    pieces: dict[Choice, list[Piece]] = field(default_factory=lambda: defaultdict(list))
    going: int = 0

    def output(self) -> Json:
        """The line for it."""
        response = None
        if self.plan is not None:
            whole = [choice.whole(self.pieces[choice]) for choice in self.plan.choices]
            counted = usage(self.plan.choices, self.plan.replies)
            body = Envelope(*self.plan.whole).around(whole, usage=counted)
            response = {"status_code": 200, "body": body}
        return {
            "line": self.number,
            "custom_id": self.custom_id,
            "response": response,
            "error": None if self.error is None else error_object(self.error)["error"],
        }


@dataclass
class Progress:
    """How far a file is.

    Attributes:
        done: bytes of the input that are done.
        lines: requests that are done, those of earlier runs included.
        failed: how many of them are errors.
        tokens: made by this run.
    """

    done: int = 0
    lines: int = 0
    failed: int = 0
    tokens: int = 0


def run_file(
    session: AtomSession,
    name: str,
    source: Path,
    target: Path,
    *,
    parallel: int,
    progress: Callable[[Progress], None] = lambda _: None,
) -> Progress:
    """Answer all requests of a file, or those that an earlier run left.

    Args:
        session: the model.
        name: by which requests may call it.
        source: JSON lines; each is the body of a request for `/v1/completions`, or for
            `/v1/chat/completions` if it has messages, with or without a `custom_id`; or a line as
            OpenAI's batches have it, with `url` and `body`. Empty lines are passed over.
        target: JSON lines with `line`, `custom_id`, `response` and `error`.
        parallel: replies at once.
        progress: told when a line is done.

    Returns:
        how far it came: all of it.

    Raises:
        AtomEdgeError: if the output is that of another input, or a file is none; or the model
            fails.
        OSError: if a file cannot be read or written.
    """
    planner = Planner(session, [name])
    _check_files(source, target)
    with source.open("rb") as given, target.open("a+b") as out:
        state = Progress()
        numbered = _lines(given)
        _skip(out, numbered, target, state)
        progress(state)
        for line in _answer(session, numbered, planner, parallel):
            out.write(msgspec.json.encode(line.output()) + b"\n")
            out.flush()
            state.done = line.end
            state.lines += 1
            state.failed += line.error is not None
            if line.plan is not None:
                state.tokens += sum(choice.tokens for choice in line.plan.choices)
            progress(state)
        return state


def _check_files(source: Path, target: Path) -> None:
    """Raise `AtomEdgeError` unless one is a regular file, and the other is, or can be, another."""
    for path in (source, target):
        if path.exists() and not path.is_file():
            raise AtomEdgeError(f"{path} is not a regular file.")
    if target.exists() and target.samefile(source):
        raise AtomEdgeError(f"{target} is the input. Choose another output.")


def _lines(given: BinaryIO) -> Iterator[tuple[int, bytes, int]]:
    """Number, content, and place of the end of each line that is not empty."""
    end = 0
    for number, content in enumerate(given, start=1):
        end += len(content)
        if number == 1:
            content = content.removeprefix(codecs.BOM_UTF8)
        if content.strip():
            yield number, content, end


def _skip(
    out: BinaryIO, numbered: Iterator[tuple[int, bytes, int]], target: Path, state: Progress
) -> None:
    """Pass over what an earlier run has done, and cut off the line that it was in."""
    out.seek(0)
    kept = 0
    for content in out:
        if not content.endswith(b"\n"):
            break
        where = f"{target}: line {state.lines + 1}"
        written = parse_json(content, _Written, where, AtomEdgeError)
        number, asked, state.done = next(numbered, (0, b"{}", 0))
        if number != written.line or _custom_id(asked) != written.custom_id:
            raise AtomEdgeError(
                f"{where} does not answer the input. Was it made from another one? Choose another "
                "output, or remove this one."
            )
        kept += len(content)
        state.lines += 1
        state.failed += written.error is not None
    out.truncate(kept)


def _custom_id(content: bytes) -> str | None:
    """The `custom_id` of a line, if it has one that can be read."""
    try:
        line = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
    found = line.get("custom_id") if isinstance(line, dict) else None
    return found if isinstance(found, str) else None


def _answer(
    session: AtomSession,
    numbered: Iterator[tuple[int, bytes, int]],
    planner: Planner,
    parallel: int,
) -> Iterator[_Line]:
    """The lines in their order, each when it and all before it are done."""
    batch = session.new_batch(parallel)
    order: deque[_Line] = deque()
    waiting: deque[Task] = deque()
    owners: dict[Task, tuple[_Line, Choice]] = {}
    rest: Iterator[tuple[int, bytes, int]] | None = numbered
    while rest or order:
        while rest and len(waiting) < parallel and len(order) < _AHEAD * parallel:
            found = next(rest, None)
            if found is None:
                rest = None
                break
            line = _parse(*found, planner)
            order.append(line)
            for choice in line.plan.choices if line.plan is not None else ():
                owners[choice.task] = (line, choice)
                waiting.append(choice.task)
                line.going += 1
        while waiting and batch.room:
            batch.join(waiting.popleft())
        if len(batch):
            for task, piece in batch.run():
                line, choice = owners[task]
                line.pieces[choice].append(piece)
                if piece.finish_reason is not None:
                    line.going -= 1
                    del owners[task]
        while order and not order[0].going:
            yield order.popleft()


def _parse(number: int, content: bytes, end: int, planner: Planner) -> _Line:
    line = _Line(number, end, _custom_id(content))
    try:
        request = parse_json(content, dict[str, Any], "request", RequestError)
        line.plan = planner.plan(_request(request))
    except RequestError as error:
        line.error = error
    return line


def _request(line: dict[str, Any]) -> wire.CompletionRequest | wire.ChatRequest:
    if not isinstance(line.pop("custom_id", None), str | None):
        raise RequestError("custom_id must be a text.", param="custom_id")
    body = line
    kind = _KINDS["/v1/chat/completions" if "messages" in body else "/v1/completions"]
    if "body" in line:
        url, method, body = line.pop("url", None), line.pop("method", "POST"), line.pop("body")
        if url not in _KINDS:
            raise RequestError(f"url must be one of {', '.join(_KINDS)}.", param="url")
        if method != "POST" or line:
            wrong = "method" if method != "POST" else next(iter(line))
            raise RequestError(f"{wrong} is not supported.", param=wrong)
        kind = _KINDS[url]
    parsed = wire.parse(msgspec.json.encode(body), kind)
    if parsed.asked > _MOST_REPLIES:
        raise RequestError(
            f"n is {parsed.n}; a line may ask for {_MOST_REPLIES:,} replies.", param="n"
        )
    if parsed.stream:
        raise RequestError("A line cannot be streamed.", param="stream")
    return parsed
