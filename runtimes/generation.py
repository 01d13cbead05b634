"""The loop: prefill, choose, decode, until something says stop.

    prompt ids -> prefill -> logits -> choose -> token -> decode -> logits -> choose -> ...

An engine that chooses tokens itself is given the choice, and makes a few of them in a run.
It knows neither the engine (`Decoder`), nor how text is written (`TextStream`). What becomes of one
prompt is a `Reply`; `generate` runs one alone, and `runtimes.batch` many at once.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence, Set
from time import perf_counter

import numpy as np

from atom_edge.errors import GenerationError
from atom_edge.runtimes.decoder import Decoder
from atom_edge.runtimes.engines.choices import Choices, Chosen, Sequel
from atom_edge.runtimes.engines.interface import Ids, Logits
from atom_edge.runtimes.options import GenerationOptions, LogitsProcessor
from atom_edge.runtimes.prompt import Prompt
from atom_edge.runtimes.reply import FinishReason, Piece, TokenLogprob
from atom_edge.runtimes.sampling import (
    Sampler,
    log_probabilities,
    make_sampler,
    penalize_repetition,
    random_seed,
)
from atom_edge.runtimes.text import TextStream

# Seconds of a run of the loop inside that nobody notices, and its tokens at most.
_BRISK, _MOST_STEPS = 0.003, 16


class Reply:
    """A reply in the making: from logits to tokens and their text.

    Attributes:
        prompt: what it follows.
        options: how it is chosen, and when it ends.
        end_ids: tokens that end it.
        finish_reason: None as long as it goes on.
        started: when it was asked for, by `perf_counter`.
    """

    def __init__(
        self,
        prompt: Prompt,
        options: GenerationOptions,
        text: TextStream,
        *,
        end_ids: Set[int],
        context_length: int,
    ) -> None:
        self.prompt = prompt
        # With a seed a token is chosen alike wherever it is chosen.
        drawn = options.seed is None and options.temperature > 0
        self.options = options.with_seed(random_seed()) if drawn else options
        self.finish_reason: FinishReason | None = None
        self._text = text
        self.end_ids = end_ids
        self._choose = _chooser(prompt, self.options)
        self._token_ids: list[int] = []
        self._room = min(options.max_new_tokens, context_length - len(prompt.token_ids))
        self._count = 0
        self.started = perf_counter()
        self._prompt_seconds = 0.0
        self._first: float | None = None
        self._gathers = False

    def gather(self) -> bool:
        """Write no text before the end, if the tokens alone say where that is; whether so."""
        self._gathers = not self.options.stop_texts and self.options.logprobs is None
        return self._gathers

    @property
    def token_ids(self) -> Sequence[int]:
        """The tokens so far, without one that ends it."""
        return self._token_ids

    def take(self, logits: Logits) -> Piece:
        """Choose the next token by the logits `[V]` of what follows."""
        if self._first is None:
            self._prompt_seconds = perf_counter() - self.started
        token = self._choose(logits)
        alternatives = self.options.logprobs
        rated = None if alternatives is None else rate(logits, token, alternatives)
        return self.add(token, rated)

    @property
    def wants_logits(self) -> bool:
        """Whether what chooses is Python: an engine cannot."""
        return bool(self.options.logits_processors)

    @property
    def room(self) -> int:
        """Tokens that it may still get."""
        return self._room - self._count

    @property
    def sequel(self) -> Sequel:
        """How an engine that chooses tokens goes on with it."""
        penalized = self.options.repetition_penalty != 1
        seen = [*self.prompt.token_ids, *self._token_ids] if penalized else ()
        return Sequel(self.options, self._count, seen, self.room)

    def take_chosen(self, chosen: Chosen, row: int) -> Iterator[Piece]:
        """Go on with the tokens that an engine chose; those behind the reply's end are left.

        Of a reply that gathers comes one piece, with the last of them.
        """
        if self._gathers:
            tokens = chosen.tokens[row].tolist()
            yield self._add_all(tokens[: tokens.index(-1)] if tokens[-1] < 0 else tokens)
            return
        rated: Iterator[TokenLogprob | None] = itertools.repeat(None)
        if self.options.logprobs is not None:
            rated = _rated(chosen, row, self.options.logprobs)
        # -1 comes behind a token that ends the reply.
        for token, logprob in zip(chosen.tokens[row].tolist(), rated, strict=False):
            yield self.add(token, logprob)
            if self.finish_reason is not None:
                return

    def add(self, token: int, logprob: TokenLogprob | None = None) -> Piece:
        """Go on with a token that was chosen elsewhere."""
        if self._gathers:
            return self._add_all([token])
        finish: FinishReason | None = None
        if token in self.end_ids:
            shown, finish = self._text.flush(), "stop"
        else:
            self._count += 1
            self._token_ids.append(token)
            shown = self._text.push(token)
            if self._count == self._room:
                shown += self._text.flush()
                finish = "length"
        if self._text.stopped:
            finish = "stop"
        return self._piece(shown, token, logprob, finish)

    def _add_all(self, tokens: list[int]) -> Piece:
        """Go on with some tokens, of which only the last may end the reply."""
        finish: FinishReason | None = None
        if ended := tokens[-1] in self.end_ids:
            finish = "stop"
        self._token_ids += tokens[:-1] if ended else tokens
        self._count = len(self._token_ids)
        if not ended and self._count == self._room:
            finish = "length"
        shown = self._text.whole(self._token_ids) if finish else ""
        return self._piece(shown, tokens[-1], None, finish)

    def _piece(
        self, shown: str, token: int, logprob: TokenLogprob | None, finish: FinishReason | None
    ) -> Piece:
        now = perf_counter()
        if self._first is None:
            self._first = now
            self._prompt_seconds = self._prompt_seconds or now - self.started
        self.finish_reason = finish
        return Piece(
            shown,
            token,
            logprob,
            len(self.prompt.token_ids),
            self._count,
            self._prompt_seconds,
            now - self._first,
            finish,
            self.prompt.truncated_tokens,
        )


def generate(decoder: Decoder, reply: Reply) -> Iterator[Piece]:
    """Yield the pieces of a reply, one for each token; the last has a finish reason."""
    inside = decoder.chooses and not reply.wants_logits
    return _in_runs(decoder, reply) if inside else _one_by_one(decoder, reply)


class Pace:
    """How many tokens to choose in a run: more and more, as long as a reader sees them flow.

    Args:
        brisk: seconds of a run that nobody notices.

    Attributes:
        steps: tokens of each sequence in the next run.
    """

    def __init__(self, brisk: float) -> None:
        self.steps = 1
        self._brisk = brisk

    def note(self, steps: int, seconds: float) -> None:
        """Go by the time that the last run took for its steps."""
        fit = steps * self._brisk / seconds
        self.steps = max(1, int(min(2 * self.steps, fit, _MOST_STEPS)))


def _in_runs(decoder: Decoder, reply: Reply) -> Iterator[Piece]:
    reply.started = perf_counter()
    token_ids = decoder.rewind(reply.prompt.token_ids)
    turn = decoder.turn
    choices, pace = Choices([reply.sequel], reply.end_ids), Pace(_BRISK)
    while True:
        started = perf_counter()
        chosen = decoder.choose(token_ids, choices, pace.steps)
        pace.note(chosen.tokens.shape[1], perf_counter() - started)
        for piece in reply.take_chosen(chosen, 0):
            yield piece
            if piece.finish_reason is not None:
                return
            _check_turn(decoder, turn)
        token_ids = [piece.token_id]


def _one_by_one(decoder: Decoder, reply: Reply) -> Iterator[Piece]:
    reply.started = perf_counter()
    logits = decoder.begin(reply.prompt.token_ids)
    turn = decoder.turn
    while True:
        piece = reply.take(logits)
        yield piece
        if piece.finish_reason is not None:
            return
        _check_turn(decoder, turn)
        logits = decoder.feed((piece.token_id,))


def _check_turn(decoder: Decoder, turn: int) -> None:
    if decoder.turn != turn:
        raise GenerationError(
            "Another reply has begun on this decoder. Give each reply that runs at the same "
            "time a decoder of its own: session.new_decoder()."
        )


def _rated(chosen: Chosen, row: int, alternatives: int) -> Iterator[TokenLogprob]:
    tops = chosen.top_tokens[row, :, :alternatives].tolist()
    every = chosen.log_probabilities[row].tolist()
    for token, top, (logprob, *others) in zip(
        chosen.tokens[row].tolist(), tops, every, strict=True
    ):
        yield TokenLogprob(token, logprob, tuple(zip(top, others, strict=False)))


def _chooser(prompt: Prompt, options: GenerationOptions) -> Sampler:
    """The function from logits `[vocab]` to a token that the options ask for."""
    choose = make_sampler(options)
    if options.repetition_penalty != 1:
        choose = _without_repetition(choose, prompt.token_ids, options.repetition_penalty)
    return _processed(choose, options.logits_processors) if options.logits_processors else choose


def _processed(sample: Sampler, processors: Sequence[LogitsProcessor]) -> Sampler:
    reply: list[int] = []

    def choose(logits: Logits) -> int:
        for process in processors:
            logits = process(reply, logits)
        token = sample(logits)
        reply.append(token)
        return token

    return choose


def _without_repetition(sample: Sampler, prompt: Sequence[int], penalty: float) -> Sampler:
    seen: set[int] = set(prompt)
    ids = np.array(sorted(seen), np.intp)

    def choose(logits: Logits) -> int:
        nonlocal ids
        token = sample(penalize_repetition(logits, ids, penalty))
        if token not in seen:
            seen.add(token)
            ids = np.append(ids, token)
        return token

    return choose


def rate(logits: Logits, token: int, alternatives: int) -> TokenLogprob:
    """Log-probability of a token and of the likeliest ones under unmodified logits `[vocab]`."""
    return rate_all(logits[None], np.array([token]), alternatives)[0]


def rate_all(logits: Logits, tokens: Ids, alternatives: int) -> list[TokenLogprob]:
    """`rate` of `[N]` tokens, each under its row of logits `[N, vocab]`."""
    scores = log_probabilities(logits)
    rated = scores[np.arange(len(tokens)), tokens].tolist()
    top: Sequence[Sequence[tuple[int, float]]] = [()] * len(rated)
    if alternatives:
        likeliest = (
            scores.argmax(axis=1)[:, None]
            if alternatives == 1
            else np.argsort(-scores, axis=1, kind="stable")[:, :alternatives]
        )
        their = np.take_along_axis(scores, likeliest, axis=1)
        top = [
            list(zip(ids, each, strict=True))
            for ids, each in zip(likeliest.tolist(), their.tolist(), strict=True)
        ]
    return [
        TokenLogprob(token, logprob, tuple(each))
        for token, logprob, each in zip(tokens.tolist(), rated, top, strict=True)
    ]
