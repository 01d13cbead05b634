"""Which sequence of a cache works on which task, and what of it is used again.

A task that joins gets the sequence that holds most of its prompt already, or a copy of it; where
another prompt in line begins in the same way, it waits until that has been fed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from atom_edge.runtimes.engines.interface import Cache
from atom_edge.runtimes.generation import Reply
from atom_edge.runtimes.reply import TokenLogprob

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
class Slot:
    """A sequence of the cache.

    Attributes:
        index: which.
        tokens: what the cache holds of it.
        task: what it works on; None when it is free.
        next: the token to feed; None as long as there is a prompt.
        leader: a slot whose prompt begins in the same way and is worth waiting for.
        shared: tokens that the beginning has.
    """

    index: int
    tokens: list[int] = field(default_factory=list)
    task: Task | None = None
    next: int | None = None
    leader: Slot | None = None
    shared: int = 0


class Slots:
    """The sequences of a cache.

    Args:
        cache: whose sequences they are.
        size: how many it has.
        copies: whether a copy in it costs less than to feed the tokens again.

    Attributes:
        all: each sequence.
        line: those whose prompts are fed, the next ones first.
    """

    def __init__(self, cache: Cache, size: int, copies: bool) -> None:
        self._cache = cache
        self._copies = copies
        self.all = [Slot(index) for index in range(size)]
        self.line: deque[Slot] = deque()
        # Dictionaries for their order: of thousands of sequences each is found at once.
        self._working: dict[Task, Slot] = {}
        self._unused = dict.fromkeys(self.all)
        self._left: dict[Slot, None] = {}

    @property
    def busy(self) -> int:
        """How many work on a task."""
        return len(self._working)

    def holds(self, task: Task) -> int:
        """Tokens of a task's prompt that some sequence holds; 0 if they are not worth a copy."""
        wanted = _reusable(task)
        shared = max(_shared(slot.tokens, wanted) for slot in self.all)
        return shared if shared >= _WORTH_A_COPY else 0

    def join(self, task: Task) -> None:
        """Give a task a sequence; one must be free."""
        slot = self._place(task)
        for other in self.line if self._copies else ():
            if other.leader is slot:
                other.leader = None
        self._unused.pop(slot, None)
        self._left.pop(slot, None)
        self._working[task] = slot
        slot.task, slot.next = task, None
        self.line.append(slot)

    def leave(self, task: Task) -> None:
        """Free the sequence of a task; nothing comes of it any more. One that has left may."""
        slot = self._working.pop(task, None)
        if slot is None:
            return
        if slot.next is None:
            self.line.remove(slot)
        slot.task = slot.next = slot.leader = None
        free = self._left if slot.tokens else self._unused
        free[slot] = None

    def _place(self, task: Task) -> Slot:
        """The slot for a task, with as much of its prompt in the cache as can be had."""
        oldest = next(iter(self._unused or self._left))
        wanted = _reusable(task)
        known = (*self._left, *self._working.values()) if self._copies else self._left
        best = max(known, key=lambda slot: _shared(slot.tokens, wanted), default=oldest)
        shared = _shared(best.tokens, wanted)
        if shared == 0:
            best = oldest
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

    def _follow(self, slot: Slot, wanted: Sequence[int]) -> None:
        """Wait for a prompt in line whose beginning is the same."""
        slot.leader, slot.shared = None, len(slot.tokens) + _WORTH_A_COPY - 1
        for other in self.line if self._copies else ():
            assert other.task is not None
            shared = _shared(other.task.prompt, wanted)
            if shared > slot.shared:
                slot.leader, slot.shared = other, shared

    def waits(self, slot: Slot) -> bool:
        """Whether a prompt is not fed yet, since the beginning of another's will be copied."""
        leader = slot.leader
        if leader is None or slot.task is None:
            return False
        there = _shared(leader.tokens, slot.task.prompt[: slot.shared])
        if leader in self.line and there < slot.shared:
            return True
        if there - len(slot.tokens) >= _WORTH_A_COPY:
            self._copy(leader, slot, there)
            slot.task.cached_tokens = there
        slot.leader = None
        return False

    def _copy(self, source: Slot, target: Slot, length: int) -> None:
        self._cache.copy(source.index, target.index, length)
        target.tokens = source.tokens[:length]

    def _crop(self, slot: Slot, length: int) -> None:
        if length == len(slot.tokens):
            return
        lengths = self._cache.lengths.copy()
        lengths[slot.index] = length
        self._cache.crop(lengths)
        del slot.tokens[length:]


def _reusable(task: Task) -> Sequence[int]:
    """The tokens of a prompt that need not be fed if a cache holds them."""
    return task.prompt[:-1] if task.rate_prompt is None else ()


def _shared(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens both begin with."""
    for place, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return place
    return min(len(first), len(second))
