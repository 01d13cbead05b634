"""Many replies from one model at once: sequences join a batch, and leave it, between two runs.

    join -> line of prompts -> feed a chunk -> logits -> Reply -> token -> step -> logits -> ...

A run is a step of all sequences that are being continued and a chunk of the prompts in line, so
that no reply waits for more than a chunk of another's prompt. What the cache still holds of a
sequence that has left, or of one that runs, is used again for a prompt with the same beginning.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence, Set
from time import perf_counter

import numpy as np

from atom_edge.runtimes.engines.choices import Choices, ChoosingCache
from atom_edge.runtimes.engines.interface import Engine, Ids, Logits
from atom_edge.runtimes.generation import Pace, Reply, rate_all
from atom_edge.runtimes.reply import Generation, Piece, collect, gathered
from atom_edge.runtimes.slots import Slot, Slots, Task

# The next tokens of some sequences.
Feed = dict[Slot, Sequence[int]]

# Sequences that run at once where a caller has more of them.
_SIZE = {"cpu": 64, "cuda": 4096}
# Tokens of prompts in one run, and of one prompt.
_PROMPT_TOKENS = {"cpu": 256, "cuda": 16384}
_CHUNK = {"cpu": 128, "cuda": 16384}
# Seconds for which a run may keep those waiting who come, go or read meanwhile.
_BRISK = 0.008


class Batch:
    """The sequences that share the runs of one model. It is not to be shared by threads.

    Args:
        engine: the model.
        size: sequences at most.
        brisk: seconds for which a run may keep those waiting who come, go or read meanwhile.
    """

    def __init__(self, engine: Engine, size: int, brisk: float = _BRISK) -> None:
        self._cache = engine.new_cache(size)
        # Asked once: Python takes longer for it than for most of a step's own work.
        self._choosing = self._cache if isinstance(self._cache, ChoosingCache) else None
        self._prompt_tokens = _PROMPT_TOKENS[engine.device]
        self._chunk = _CHUNK[engine.device]
        self._slots = Slots(self._cache, size, engine.copies)
        self._pace = Pace(brisk)
        self._choices: tuple[list[Task], Choices] | None = None

    def __len__(self) -> int:
        """How many tasks are in it."""
        return self._slots.busy

    @property
    def room(self) -> int:
        """How many more tasks may join."""
        return len(self._slots.all) - len(self)

    def holds(self, task: Task) -> int:
        """Tokens of a task's prompt that are in the cache, if they are worth a copy; any thread."""
        return self._slots.holds(task)

    def join(self, task: Task) -> None:
        """Give a task a sequence; there must be `room`."""
        self._slots.join(task)

    def leave(self, task: Task) -> None:
        """Free the sequence of a task; nothing comes of it any more. One that has left may."""
        self._slots.leave(task)

    def run(self) -> list[tuple[Task, Piece]]:
        """Continue all tasks; those whose piece has a finish reason have left."""
        going: Feed = {slot: [slot.next] for slot in self._slots.all if slot.next is not None}
        prompts = self._parts()
        inside = [slot for slot in (*going, *prompts) if self._chooses(slot, prompts.get(slot))]
        inside.sort(key=lambda slot: slot.index)
        chosen: Feed = {
            slot: going.pop(slot) if slot in going else prompts.pop(slot) for slot in inside
        }
        done = [*self._choose(chosen), *self._step(going), *self._feed(prompts)]
        for task, piece in done:
            if piece.finish_reason is not None:
                self.leave(task)
        return done

    def _chooses(self, slot: Slot, part: Sequence[int] | None) -> bool:
        """Whether the engine itself can choose what follows, and something is to follow `part`."""
        task = slot.task
        if self._choosing is None or task is None or task.reply.wants_logits:
            return False
        return part is None or (task.rate_prompt is None and _ends(slot, part))

    def _step(self, going: Feed) -> list[tuple[Task, Piece]]:
        """Feed the last token of each reply, and choose the next ones."""
        if not going:
            return []
        ids, counts = self._padded(going)
        if all(_is_plain(slot) for slot in going):
            tokens = self._cache.step_greedily(ids[:, 0], counts).tolist()
            done = [_add(slot, token) for slot, token in zip(going, tokens, strict=True)]
        else:
            logits = self._cache.append(ids, counts)
            done = [_take(slot, row) for slot, row in zip(going, logits, strict=True)]
        for slot, part in going.items():
            slot.tokens += part
        return done

    def _padded(self, feed: Feed) -> tuple[Ids, Ids]:
        """The tokens to feed, int64 `[B, T]`, and how many there are of each sequence, `[B]`."""
        width = max(map(len, feed.values()))
        ids = np.zeros((len(self._slots.all), width), np.int64)
        counts = np.zeros(len(self._slots.all), np.int64)
        for slot, part in feed.items():
            ids[slot.index, : len(part)] = part
            counts[slot.index] = len(part)
        return ids, counts

    def _choose(self, feed: Feed) -> list[tuple[Task, Piece]]:
        """Let the engine choose the next few tokens of each reply; one if a prompt waits."""
        if not feed:
            return []
        assert self._choosing is not None
        tasks = [slot.task for slot in feed if slot.task is not None]
        if self._choices is None or self._choices[0] != tasks:
            every = {token for task in tasks for token in task.reply.end_ids}
            self._choices = tasks, Choices([task.reply.sequel for task in tasks], every)
        steps = 1 if self._slots.line else self._pace.steps
        started = perf_counter()
        chosen = self._choosing.choose(*self._padded(feed), self._choices[1], steps)
        if not self._slots.line:
            self._pace.note(chosen.tokens.shape[1], perf_counter() - started)
        done = []
        for row, (slot, task) in enumerate(zip(feed, tasks, strict=True)):
            slot.tokens += feed[slot]
            if slot.next is None:
                self._slots.line.remove(slot)
            pieces = list(task.reply.take_chosen(chosen, row))
            appended = int(self._cache.lengths[slot.index]) - len(slot.tokens)
            slot.tokens += chosen.tokens[row, :appended].tolist()
            slot.next = pieces[-1].token_id
            done += [(task, piece) for piece in pieces]
        return done

    def _feed(self, prompts: Feed) -> list[tuple[Task, Piece]]:
        """Feed a chunk of the prompts in line, and choose the first token where one ends."""
        if not prompts:
            return []
        slots = sorted(prompts, key=lambda slot: slot.index)
        ids, counts = self._padded(prompts)
        width = ids.shape[1]
        wanted = [slot.index * width + _wanted(slot, prompts[slot]) for slot in slots]
        logits = self._cache.append(ids, counts, np.concatenate(wanted))
        done, first = [], 0
        for slot, places in zip(slots, wanted, strict=True):
            rows = logits[first : first + len(places)]
            first += len(places)
            done += self._fed(slot, prompts[slot], rows)
        return done

    def _parts(self) -> Feed:
        """The tokens to feed next, of the slots first in line."""
        parts: Feed = {}
        left = self._prompt_tokens
        for slot in self._slots.line:
            if left and not self._slots.waits(slot):
                assert slot.task is not None
                rest = slot.task.prompt[len(slot.tokens) :]
                # A chunk that leaves little would make two runs of what is one.
                whole = len(rest) <= self._chunk * 5 // 4
                parts[slot] = rest[: min(left, len(rest) if whole else self._chunk)]
                left -= len(parts[slot])
        return parts

    def _fed(self, slot: Slot, part: Sequence[int], logits: Logits) -> list[tuple[Task, Piece]]:
        assert slot.task is not None
        task = slot.task
        if task.rate_prompt is not None:
            start = len(slot.tokens) + 1
            following = np.array(task.prompt[start : start + len(part)], np.int64)
            task.prompt_logprobs += rate_all(logits[: len(following)], following, task.rate_prompt)
        slot.tokens += part
        self._slots.line.remove(slot)
        if len(slot.tokens) < len(task.prompt):
            self._slots.line.append(slot)
            return []
        return [_take(slot, logits[-1])]


def generate_batch(engine: Engine, replies: Sequence[Reply], end_ids: Set[int]) -> list[Generation]:
    """Make all replies, and return them in the same order."""
    gathering = [reply.gather() for reply in replies]
    pieces: list[list[Piece]] = [[] for _ in replies]
    for number, piece in stream_batch(engine, replies, math.inf if all(gathering) else _BRISK):
        if gathering[number]:
            pieces[number].clear()
        pieces[number].append(piece)
    return [
        gathered(each[-1], reply.token_ids) if gathers else collect(each, end_ids)
        for reply, gathers, each in zip(replies, gathering, pieces, strict=True)
    ]


def stream_batch(
    engine: Engine, replies: Sequence[Reply], brisk: float = _BRISK
) -> Iterator[tuple[int, Piece]]:
    """Make all replies; yield their pieces as they come, each with the number of its reply."""
    if not replies:
        return
    batch = Batch(engine, min(len(replies), _SIZE[engine.device]), brisk)
    numbers = {Task(reply): number for number, reply in enumerate(replies)}
    waiting = deque(numbers)
    while waiting or len(batch):
        for _ in range(min(batch.room, len(waiting))):
            batch.join(waiting.popleft())
        for task, piece in batch.run():
            yield numbers[task], piece


def _wanted(slot: Slot, part: Sequence[int]) -> Ids:
    """Which of the next tokens' logits are wanted: all, the last of a prompt, or none."""
    assert slot.task is not None
    count = len(part)
    if slot.task.rate_prompt is not None:
        return np.arange(count)
    return np.arange(count - 1 if _ends(slot, part) else count, count)


def _ends(slot: Slot, part: Sequence[int]) -> bool:
    """Whether a prompt is at its end with its next tokens `part`."""
    return slot.task is not None and len(slot.tokens) + len(part) == len(slot.task.prompt)


def _is_plain(slot: Slot) -> bool:
    """Whether the likeliest token is all that is wanted."""
    assert slot.task is not None
    options = slot.task.reply.options
    return options.is_greedy and options.logprobs is None


def _take(slot: Slot, logits: Logits) -> tuple[Task, Piece]:
    assert slot.task is not None
    piece = slot.task.reply.take(logits)
    slot.next = piece.token_id
    return slot.task, piece


def _add(slot: Slot, token: int) -> tuple[Task, Piece]:
    assert slot.task is not None
    slot.next = token
    return slot.task, slot.task.reply.add(token)
