"""Lookahead: several tokens in one run where a text repeats itself, and never another token.

A run reads all weights of the model, for one token as for a few. When the last tokens have come
before, those that followed them then are a guess at what follows now (prompt lookup decoding). The
graph `check` runs the token that was fed together with the guessed ones, and the logits after each
are kept: as long as what is fed next is what was guessed, they are there already. Of a wrong guess
the cache rows are written over.

The logits must be those of a step to the last bit, so that no choice of a token can change. So they
are with onnxruntime's kernels on the CPUs that were tried, but nobody promises it: each process
first compares them with those of steps, and does without lookahead where they differ.

Source: speculative decoding, Leviathan et al., arXiv 2211.17192, with guesses from the text itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from atom_edge.runtimes.static_cache import Logits, StaticCache
from atom_edge.runtimes.static_graphs import StaticGraphs

# Tokens that must have come before, in this order.
_NGRAM = 3
# Guessed tokens of a check, and of one after a check of which all were right.
_FEW, _MANY = 3, 7
# Tokens without a guess after a wrong one; twice as many after each further one.
_SHORTEST_PAUSE, _LONGEST_PAUSE = 4, 64
# Tokens that must have been guessed right before `check` is opened: that takes as long as 50 steps,
# and a short reply would not win them back.
_FORESEEN = 32
# Guessed tokens, by how many were guessed at once, whose logits must equal those of steps before
# any are used: a kernel may sum in another order where it has other rows beside.
_TRIALS = {_FEW: _FEW, _MANY: _MANY}


class Lookahead:
    """The steps of one sequence over its cache, some of them ahead of time."""

    def __init__(self, graphs: StaticGraphs, cache: StaticCache, context_length: int) -> None:
        self._graphs, self._cache = graphs, cache
        self._context_length = context_length
        self._followers = _Followers()
        self._ahead: deque[tuple[int, Logits]] = deque()
        self._width = self._checked = _FEW
        self._pause = self._wait = 0
        self._expected: list[int] = []

    def step(self, history: Sequence[int]) -> Logits:
        """Append the last token of `history` to the cache, which holds those before it.

        Returns:
            logits float32 `[V]` of what follows; the next call may overwrite them.
        """
        if self._graphs.foreseen < _FORESEEN:
            self._graphs.foreseen += history[-1:] == self._expected
            self._expected = self._followers.of_last(history, 1)
            return self._cache.step_first(history[-1])
        taken = self._take(history[-1])
        checked = self._check(history) if taken is None else None
        known = checked if taken is None else taken
        if known is not None and self._graphs.lookahead_is_exact:
            self._cache.skip()
            return known
        logits = self._cache.step_first(history[-1])
        if known is not None:
            guessed = 0 if taken is None else self._checked
            self._graphs.compare(known, logits, guessed=guessed, trials=_TRIALS)
        return logits

    def forget(self) -> None:
        """Drop what is ahead: something else than the next token comes."""
        self._ahead.clear()

    def _take(self, token: int) -> Logits | None:
        """The logits after `token`, if it was guessed."""
        if not self._ahead:
            return None
        guessed, logits = self._ahead.popleft()
        if guessed != token:
            self._ahead.clear()
            self._width = _FEW
            self._wait = self._pause = min(max(2 * self._pause, _SHORTEST_PAUSE), _LONGEST_PAUSE)
            return None
        if not self._ahead:
            self._width, self._pause = _MANY, 0
        return logits

    def _check(self, history: Sequence[int]) -> Logits | None:
        """The logits after the last token, with those after guessed ones ahead, if any are."""
        if self._wait:
            self._wait -= 1
            return None
        if len(history) + self._width > self._context_length:
            return None
        guess = self._followers.of_last(history, self._width)
        if not guess:
            return None
        rows = self._cache.check([history[-1], *guess])
        self._checked = self._width
        self._ahead.extend(zip(guess, rows[1:], strict=True))
        first: Logits = rows[0]
        return first


class _Followers:
    """Where each `_NGRAM` tokens came last, and what followed."""

    def __init__(self) -> None:
        self._places: dict[tuple[int, ...], int] = {}
        self._seen = 0

    def of_last(self, history: Sequence[int], count: int) -> list[int]:
        """`count` tokens that follow the last ones of `history` if it repeats itself; or none."""
        length = len(history)
        for end in range(max(min(self._seen, length), _NGRAM), length):
            self._places[tuple(history[end - _NGRAM : end])] = end
        self._seen = length
        last = tuple(history[-_NGRAM:])
        place = self._places.get(last)
        # What was written down may have been forgotten and written over since.
        if place is None or place >= length or tuple(history[place - _NGRAM : place]) != last:
            return []
        followers = list(history[place : place + count])
        while len(followers) < count:  # the repetition is shorter than the guess
            followers.append(followers[len(followers) - (length - place)])
        return followers
