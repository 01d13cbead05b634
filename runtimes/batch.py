"""Many replies from one model at once: sequences join a batch, and leave it, between two runs.

    join -> line of prompts -> feed a chunk -> logits -> Reply -> token -> step -> logits -> ...

A run is a step of all sequences that are being continued and then a chunk of the prompts in line,
so that no reply waits for more than a chunk of another's prompt. What the cache still holds of a
sequence that has left, or of one that runs, is used again for a prompt with the same beginning.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np

from atom_edge.runtimes.engines.choices import Choices, ChoosingCache
from atom_edge.runtimes.engines.interface import Engine, Ids, Logits
from atom_edge.runtimes.generation import Pace, Reply, rate_all
from atom_edge.runtimes.reply import Generation, Piece, TokenLogprob, collect

# Sequences that run at once where a caller has more of them.
_SIZE = {"cpu": 64, "cuda": 4096}
# Tokens of prompts in one run, and of one prompt.
_PROMPT_TOKENS = {"cpu": 256, "cuda": 16384}
_CHUNK = {"cpu": 128, "cuda": 16384}
# Tokens of a beginning that are worth a copy, or to wait until another prompt has been fed.
_WORTH_A_COPY = 16


@dataclass(eq=False)
class Task:
    """A prompt and its reply, as part of a batch.

    Attributes:
        reply: what is made.
        rate_prompt: None, or for each token of the prompt its log-probability is wanted and those
            of so many likeliest ones.
        prompt_logprobs: these, from the second token on: all when the first piece comes.
        cached_tokens: tokens of the prompt that a cache held already.
    """

    reply: Reply
    rate_prompt: int | None = None
    prompt_logprobs: list[TokenLogprob] = field(default_factory=list)
    cached_tokens: int = 0

    @property
    def prompt(self) -> Sequence[int]:
        """Token ids of the prompt."""
        return self.reply.prompt.token_ids


@dataclass(eq=False)
class _Slot:
    """A sequence of the cache.

    Attributes:
        index: which.
        tokens: what the cache holds of it.
        task: what it works on; None when it is free.
        next: the token to feed; None as long as there is a prompt.
        leader: a slot whose prompt begins in the same way and is worth waiting for.
        shared: tokens that the beginning has.
        used: when a task took it last.
    """

    index: int
    tokens: list[int] = field(default_factory=list)
    task: Task | None = None
    next: int | None = None
    leader: _Slot | None = None
    shared: int = 0
    used: int = 0


class Batch:
    """The sequences that share the runs of one model. It is not to be shared by threads.

    Args:
        engine: the model.
        size: sequences at most.
    """

    def __init__(self, engine: Engine, size: int) -> None:
        self._cache = engine.new_cache(size)
        # Asked once: Python takes longer for it than for most of a step's own work.
        self._choosing = self._cache if isinstance(self._cache, ChoosingCache) else None
        self._copies = engine.copies
        self._prompt_tokens = _PROMPT_TOKENS[engine.device]
        self._chunk = _CHUNK[engine.device]
        self._slots = [_Slot(index) for index in range(size)]
        self._line: deque[_Slot] = deque()
        self._pace = Pace()
        self._choices: tuple[list[Task], Choices] | None = None
        self._turn = 0

    def __len__(self) -> int:
        """How many tasks are in it."""
        return sum(slot.task is not None for slot in self._slots)

    @property
    def room(self) -> int:
        """How many more tasks may join."""
        return len(self._slots) - len(self)

    def join(self, task: Task) -> None:
        """Give a task a sequence; there must be `room`."""
        slot = self._place(task)
        self._turn += 1
        for other in self._slots:
            if other.leader is slot:
                other.leader = None
        slot.task, slot.next, slot.used = task, None, self._turn
        self._line.append(slot)

    def leave(self, task: Task) -> None:
        """Free the sequence of a task; nothing comes of it any more. One that has left may."""
        for slot in self._slots:
            if slot.task is task:
                slot.task = slot.next = slot.leader = None
                if slot in self._line:
                    self._line.remove(slot)

    def run(self) -> list[tuple[Task, Piece]]:
        """Continue all tasks; those whose piece has a finish reason have left."""
        done = [*self._step(), *self._feed()]
        for task, piece in done:
            if piece.finish_reason is not None:
                self.leave(task)
        return done

    # Where a task goes

    def _place(self, task: Task) -> _Slot:
        """The slot for a task, with as much of its prompt in the cache as can be had."""
        free = [slot for slot in self._slots if slot.task is None]
        oldest = min(free, key=lambda slot: (bool(slot.tokens), slot.used))
        wanted = task.prompt[:-1] if task.rate_prompt is None else ()
        known = self._slots if self._copies else free
        best = max(known, key=lambda slot: _shared(slot.tokens, wanted))
        shared = _shared(best.tokens, wanted)
        # Its tokens would be lost for the next prompt that goes on from them.
        in_place = best.task is None and (2 * shared >= len(best.tokens) or not self._copies)
        slot = best if in_place else oldest
        if slot is best:
            self._crop(slot, shared)
        elif self._copies and shared >= _WORTH_A_COPY:
            self._copy(best, slot, shared)
        else:
            self._crop(slot, 0)
        self._follow(slot, wanted)
        task.cached_tokens = len(slot.tokens)
        return slot

    def _follow(self, slot: _Slot, wanted: Sequence[int]) -> None:
        """Wait for a prompt in line whose beginning is the same."""
        slot.leader, slot.shared = None, len(slot.tokens) + _WORTH_A_COPY - 1
        for other in self._line if self._copies else ():
            assert other.task is not None
            shared = _shared(other.task.prompt, wanted)
            if shared > slot.shared:
                slot.leader, slot.shared = other, shared

    def _waits(self, slot: _Slot) -> bool:
        leader = slot.leader
        if leader is None or slot.task is None:
            return False
        there = _shared(leader.tokens, slot.task.prompt[: slot.shared])
        if leader in self._line and there < slot.shared:
            return True
        if there - len(slot.tokens) >= _WORTH_A_COPY:
            self._copy(leader, slot, there)
            slot.task.cached_tokens = there
        slot.leader = None
        return False

    def _copy(self, source: _Slot, target: _Slot, length: int) -> None:
        self._cache.copy(source.index, target.index, length)
        target.tokens = source.tokens[:length]

    def _crop(self, slot: _Slot, length: int) -> None:
        lengths = self._cache.lengths.copy()
        lengths[slot.index] = length
        self._cache.crop(lengths)
        del slot.tokens[length:]

    # Runs of the model

    def _step(self) -> list[tuple[Task, Piece]]:
        """Feed the last token of each reply, and choose the next ones."""
        going = [slot for slot in self._slots if slot.next is not None]
        inside = going if self._choosing else []
        inside = [slot for slot in inside if slot.task and not slot.task.reply.wants_logits]
        outside = [slot for slot in going if slot not in inside]
        return [*self._choose(inside), *self._step_outside(outside)]

    def _step_outside(self, going: list[_Slot]) -> list[tuple[Task, Piece]]:
        if not going:
            return []
        ids, counts = self._last_tokens(going)
        if all(_is_plain(slot) for slot in going):
            tokens = self._cache.step_greedily(ids, counts).tolist()
            return [_add(slot, token) for slot, token in zip(going, tokens, strict=True)]
        logits = self._cache.append(ids[:, None], counts)
        return [_take(slot, row) for slot, row in zip(going, logits, strict=True)]

    def _last_tokens(self, going: list[_Slot]) -> tuple[Ids, Ids]:
        """The tokens to feed, int64 `[B]`, and 1 for each sequence that has one."""
        ids = np.zeros(len(self._slots), np.int64)
        counts = np.zeros(len(self._slots), np.int64)
        for slot in going:
            assert slot.next is not None
            ids[slot.index] = slot.next
            slot.tokens.append(slot.next)
            counts[slot.index] = 1
        return ids, counts

    def _choose(self, going: list[_Slot]) -> list[tuple[Task, Piece]]:
        """Let the engine choose the next few tokens of each reply; one if a prompt waits."""
        if not going:
            return []
        assert self._choosing is not None
        ids, counts = self._last_tokens(going)
        tasks = [slot.task for slot in going if slot.task is not None]
        if self._choices is None or self._choices[0] != tasks:
            every = {token for task in tasks for token in task.reply.end_ids}
            self._choices = tasks, Choices([task.reply.sequel for task in tasks], every)
        room = min(task.reply.room for task in tasks)
        steps = 1 if self._line else min(self._pace.steps, room)
        started = perf_counter()
        chosen = self._choosing.choose(ids[:, None], counts, self._choices[1], steps)
        self._pace.note(perf_counter() - started)
        done = []
        for row, (slot, task) in enumerate(zip(going, tasks, strict=True)):
            pieces = list(task.reply.take_chosen(chosen, row))
            appended = int(self._cache.lengths[slot.index]) - len(slot.tokens)
            slot.tokens += chosen.tokens[row, :appended].tolist()
            slot.next = pieces[-1].token_id
            done += [(task, piece) for piece in pieces]
        return done

    def _feed(self) -> list[tuple[Task, Piece]]:
        """Feed a chunk of the prompts in line, and choose the first token where one ends."""
        parts = self._parts()
        if not parts:
            return []
        slots = sorted(parts, key=lambda slot: slot.index)
        width = max(len(part) for part in parts.values())
        ids = np.zeros((len(self._slots), width), np.int64)
        counts = np.zeros(len(self._slots), np.int64)
        wanted = []
        for slot in slots:
            part = parts[slot]
            ids[slot.index, : len(part)] = part
            counts[slot.index] = len(part)
            wanted.append(slot.index * width + _wanted(slot, len(part)))
        logits = self._cache.append(ids, counts, np.concatenate(wanted))
        done, first = [], 0
        for slot, places in zip(slots, wanted, strict=True):
            rows = logits[first : first + len(places)]
            first += len(places)
            done += self._fed(slot, parts[slot], rows)
        return done

    def _parts(self) -> dict[_Slot, Sequence[int]]:
        """The tokens to feed next, of the slots first in line."""
        parts = {}
        left = self._prompt_tokens
        for slot in self._line:
            if left and not self._waits(slot):
                assert slot.task is not None
                start = len(slot.tokens)
                parts[slot] = slot.task.prompt[start : start + min(left, self._chunk)]
                left -= len(parts[slot])
        return parts

    def _fed(self, slot: _Slot, part: Sequence[int], logits: Logits) -> list[tuple[Task, Piece]]:
        assert slot.task is not None
        task = slot.task
        if task.rate_prompt is not None:
            start = len(slot.tokens) + 1
            following = np.array(task.prompt[start : start + len(part)], np.int64)
            task.prompt_logprobs += rate_all(logits[: len(following)], following, task.rate_prompt)
        slot.tokens += part
        self._line.remove(slot)
        if len(slot.tokens) < len(task.prompt):
            self._line.append(slot)
            return []
        return [_take(slot, logits[-1])]


def generate_batch(engine: Engine, replies: Sequence[Reply], end_ids: Set[int]) -> list[Generation]:
    """Make all replies, and return them in the same order."""
    pieces: list[list[Piece]] = [[] for _ in replies]
    for number, piece in stream_batch(engine, replies):
        pieces[number].append(piece)
    return [collect(each, end_ids) for each in pieces]


def stream_batch(engine: Engine, replies: Sequence[Reply]) -> Iterator[tuple[int, Piece]]:
    """Make all replies; yield their pieces as they come, each with the number of its reply."""
    if not replies:
        return
    batch = Batch(engine, min(len(replies), _SIZE[engine.device]))
    numbers = {Task(reply): number for number, reply in enumerate(replies)}
    waiting = deque(numbers)
    while waiting or len(batch):
        for _ in range(min(batch.room, len(waiting))):
            batch.join(waiting.popleft())
        for task, piece in batch.run():
            yield numbers[task], piece


def _shared(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens both begin with."""
    for place, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return place
    return min(len(first), len(second))


def _wanted(slot: _Slot, count: int) -> Ids:
    """Which of the next `count` tokens' logits are wanted: all, the last of a prompt, or none."""
    assert slot.task is not None
    if slot.task.rate_prompt is not None:
        return np.arange(count)
    ends = len(slot.tokens) + count == len(slot.task.prompt)
    return np.arange(count - 1 if ends else count, count)


def _is_plain(slot: _Slot) -> bool:
    """Whether the likeliest token is all that is wanted."""
    assert slot.task is not None
    options = slot.task.reply.options
    return options.is_greedy and options.logprobs is None


def _take(slot: _Slot, logits: Logits) -> tuple[Task, Piece]:
    assert slot.task is not None
    piece = slot.task.reply.take(logits)
    slot.next = piece.token_id
    return slot.task, piece


def _add(slot: _Slot, token: int) -> tuple[Task, Piece]:
    assert slot.task is not None
    slot.next = token
    return slot.task, slot.task.reply.add(token)
