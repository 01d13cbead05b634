"""Several prompts at once: one run of the model continues all of them by a token.

    prompts -> append -> logits [B, V] -> choose -> tokens [B] -> step -> logits [B, V] -> ...

Each reply is chosen as if it were alone. A sequence that has ended is still run, over the same
place of its cache again and again, until all have.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np

from atom_edge.runtimes.engines.interface import Cache, Ids, Logits
from atom_edge.runtimes.generation import chooser, rate
from atom_edge.runtimes.options import GenerationOptions
from atom_edge.runtimes.prompt import Prompt
from atom_edge.runtimes.reply import FinishReason, Generation, TokenLogprob
from atom_edge.runtimes.sampling import Sampler
from atom_edge.runtimes.text import TextStream


@dataclass
class _Reply:
    """What has become of one prompt."""

    prompt: Prompt
    choose: Sampler
    text: TextStream
    room: int
    shown: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish: FinishReason | None = None
    seconds: float = 0.0

    def take(self, token: int, end_ids: Set[int]) -> None:
        """Add a token, or end the reply."""
        if token in end_ids:
            self.finish = "stop"
            return
        self.token_ids.append(token)
        self.shown += self.text.push(token)
        if self.text.stopped:
            self.finish = "stop"
        elif len(self.token_ids) == self.room:
            self.shown += self.text.flush()
            self.finish = "stop" if self.text.stopped else "length"


def generate_batch(
    cache: Cache,
    prompts: Sequence[Prompt],
    options: GenerationOptions,
    new_text: Callable[[Prompt], TextStream],
    *,
    end_ids: Set[int],
    context_length: int,
) -> list[Generation]:
    """Continue every prompt, and return the replies in the same order.

    Args:
        cache: empty, of as many sequences as there are prompts.
        prompts: token ids that fit the context.
        options: of every reply.
        new_text: makes what turns the tokens of the reply to a prompt into text.
        end_ids: tokens that end a reply.
        context_length: tokens of a prompt with its reply at most.
    """
    replies = [
        _Reply(
            prompt,
            chooser(prompt, options),
            new_text(prompt),
            min(options.max_new_tokens, context_length - len(prompt.token_ids)),
        )
        for prompt in prompts
    ]
    # The likeliest tokens may stay on a GPU, where the next step wants them.
    needs_logits = not options.is_greedy or options.logprobs is not None
    started = perf_counter()
    logits = cache.append(*_padded(prompts))
    tokens = _choose(replies, logits, options)
    prompt_seconds = perf_counter() - started
    started = perf_counter()
    while True:
        _take(replies, tokens, end_ids, perf_counter() - started)
        if all(reply.finish for reply in replies):
            break
        if needs_logits:
            tokens = _choose(replies, cache.step(tokens), options)
        else:
            tokens = cache.step_greedily(tokens)
        # A sequence that has ended stays where it is; it never fills the context.
        cache.crop(cache.lengths - np.array([reply.finish is not None for reply in replies]))
    return [_finished(reply, prompt_seconds) for reply in replies]


def _padded(prompts: Sequence[Prompt]) -> tuple[Ids, Ids]:
    counts = np.array([len(prompt.token_ids) for prompt in prompts])
    ids = np.zeros((len(prompts), int(counts.max())), np.int64)
    for row, prompt in zip(ids, prompts, strict=True):
        row[: len(prompt.token_ids)] = prompt.token_ids
    return ids, counts


def _choose(replies: Sequence[_Reply], logits: Logits, options: GenerationOptions) -> Ids:
    """The next token of each reply, int64 `[B]`; 0 for one that has ended."""
    tokens = np.zeros(len(replies), np.int64)
    for row, reply in enumerate(replies):
        if reply.finish is None:
            tokens[row] = reply.choose(logits[row])
            if options.logprobs is not None:
                chosen = rate(logits[row], int(tokens[row]), options.logprobs)
                reply.logprobs.append(chosen)
    return tokens


def _take(replies: Sequence[_Reply], tokens: Ids, end_ids: Set[int], seconds: float) -> None:
    for reply, token in zip(replies, tokens.tolist(), strict=True):
        if reply.finish is None:
            reply.take(token, end_ids)
            reply.seconds = seconds


def _finished(reply: _Reply, prompt_seconds: float) -> Generation:
    assert reply.finish is not None
    count, following = len(reply.token_ids), len(reply.token_ids) - 1
    return Generation(
        text=reply.shown + reply.text.flush(),
        token_ids=tuple(reply.token_ids),
        finish_reason=reply.finish,
        prompt_tokens=len(reply.prompt.token_ids),
        truncated_tokens=reply.prompt.truncated_tokens,
        generation_tokens=count,
        prompt_tps=len(reply.prompt.token_ids) / prompt_seconds,
        generation_tps=following / reply.seconds if following > 0 else 0.0,
        logprobs=tuple(reply.logprobs[:count]) if reply.logprobs else None,
    )
