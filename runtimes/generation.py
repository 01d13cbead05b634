"""The loop: prefill, choose, decode, until something says stop.

    prompt ids -> prefill -> logits -> choose -> token -> decode -> logits -> choose -> ...

It knows neither the engine (`Decoder`), nor how text is written (`TextStream`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from time import perf_counter

import numpy as np

from atom_edge.errors import GenerationError
from atom_edge.runtimes.decoder import Decoder
from atom_edge.runtimes.engines.interface import Logits
from atom_edge.runtimes.options import GenerationOptions
from atom_edge.runtimes.prompt import Prompt
from atom_edge.runtimes.reply import FinishReason, Piece, TokenLogprob
from atom_edge.runtimes.sampling import (
    Sampler,
    log_probabilities,
    make_sampler,
    penalize_repetition,
)
from atom_edge.runtimes.text import TextStream


def generate(
    decoder: Decoder,
    prompt: Prompt,
    options: GenerationOptions,
    text: TextStream,
    *,
    end_ids: Set[int],
    context_length: int,
) -> Iterator[Piece]:
    """Yield the reply to a prompt, one piece for each token; the last has a finish reason."""
    prompt_tokens = len(prompt.token_ids)
    room = min(options.max_new_tokens, context_length - prompt_tokens)
    choose = chooser(prompt, options)
    started = perf_counter()
    logits = decoder.begin(prompt.token_ids)
    turn = decoder.turn
    prompt_seconds = perf_counter() - started
    first, count = 0.0, 0
    finish: FinishReason | None = None
    while True:
        token = choose(logits)
        logprob = None if options.logprobs is None else rate(logits, token, options.logprobs)
        now = perf_counter()
        first = first or now
        if token in end_ids:
            shown, finish = text.flush(), "stop"
        else:
            count += 1
            shown = text.push(token)
            if count == room:
                shown += text.flush()
                finish = "length"
        if text.stopped:
            finish = "stop"
        yield Piece(
            shown,
            token,
            logprob,
            prompt_tokens,
            count,
            prompt_seconds,
            now - first,
            finish,
            prompt.truncated_tokens,
        )
        if finish is not None:
            return
        if decoder.turn != turn:
            raise GenerationError(
                "Another reply has begun on this decoder. Give each reply that runs at the same "
                "time a decoder of its own: session.new_decoder()."
            )
        logits = decoder.feed((token,))


def chooser(prompt: Prompt, options: GenerationOptions) -> Sampler:
    """The function from logits `[vocab]` to a token that the options ask for."""
    sample = make_sampler(options)
    if options.repetition_penalty == 1:
        return sample
    return _without_repetition(sample, prompt.token_ids, options.repetition_penalty)


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
    scores = log_probabilities(logits)
    likeliest = np.argsort(-scores, kind="stable")[:alternatives] if alternatives else ()
    top = tuple((int(token_id), float(scores[token_id])) for token_id in likeliest)
    return TokenLogprob(token, float(scores[token]), top)
