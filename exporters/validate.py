"""Validation: an exported graph against the PyTorch model it came from, on held-out text.

`measure` says what is compared, cheapest first. A graph in float32 must be as near to the model as
PyTorch in float32 is; a quantized one must predict as well, and the same however its tokens come:
at once, in a padded batch, after others on the cache, or one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from atom_edge.errors import ValidationError
from atom_edge.evaluation.divergence import Divergence, Estimate
from atom_edge.evaluation.heldout import heldout_text
from atom_edge.exporters.engine import Engine
from atom_edge.exporters.pieces import ROWS, WAYS, Pieces, Samples, run_whole
from atom_edge.exporters.reference import Ids, Logits, Reference, log_likelihood
from atom_edge.exporters.report import Limits, figure, until_failure
from atom_edge.manifest import Effort, Figure

LONGEST_WINDOW = 512
PROMPT_TOKENS = 16
# A quantized graph may lose this many times as much on tokens that come in pieces, and this part
# of the limit more: what few tokens lose varies.
_PIECES_MULTIPLE, _PIECES_PART = 2.0, 0.5
# Standard errors between an estimate and its limit that settle which is larger.
_SETTLED = 3.0


@dataclass(frozen=True)
class Sample:
    """How much text a validation runs: windows until their standard error settles the limits.

    Attributes:
        prefill_windows: fewest and most windows that are predicted at once.
        decode_windows: fewest and most windows that are predicted token by token.
        decode_tokens: tokens of each of the latter.
        greedy_prompts: prompts that are continued.
        greedy_tokens: tokens of each continuation.
    """

    prefill_windows: tuple[int, int]
    decode_windows: tuple[int, int]
    decode_tokens: int
    greedy_prompts: int
    greedy_tokens: int


SAMPLES: dict[Effort, Sample] = {
    "quick": Sample((4, 16), (2, 6), 128, 4, 32),
    "full": Sample((40, 40), (8, 8), LONGEST_WINDOW, 8, 48),
}


def heldout_windows(encode: Callable[[str], list[int]], context_length: int) -> list[Ids]:
    """The held-out text as windows of equal length, token ids `[W]` each.

    Raises:
        ValidationError: when the tokenizer makes too little of the text to fill one.
    """
    ids = encode(heldout_text())
    width = min(context_length, LONGEST_WINDOW)
    count = len(ids) // width
    if count == 0:
        raise ValidationError(
            f"The tokenizer makes {len(ids)} tokens of the validation text, fewer than the "
            f"{width} of one window. Check that tokenizer.json belongs to the checkpoint."
        )
    return list(np.asarray(ids[: count * width], np.int64).reshape(count, width))


def validate(
    engine: Engine,
    reference: Reference,
    limits: Limits,
    sample: Sample,
    progress: Callable[[str], None] = lambda _: None,
) -> tuple[Figure, ...]:
    """Compare the graph of `engine` with the PyTorch model until a figure does not hold.

    Args:
        engine: runs the graph.
        reference: the PyTorch model, and the text.
        limits: what the graph must hold.
        sample: how much text is run.
        progress: told the name of each check as it begins.
    """
    return until_failure(measure(engine, reference, limits, sample, progress))


def measure(
    engine: Engine,
    reference: Reference,
    limits: Limits,
    sample: Sample,
    progress: Callable[[str], None] = lambda _: None,
) -> Iterator[Figure]:
    """The figures of `validate`, cheapest first, each measured when it is asked for."""
    progress("prompts")
    yield from _prompts(engine, reference, limits)
    progress("whole windows")
    whole = Pieces(reference)
    prefill = Divergence()
    for row in range(min(ROWS, len(reference.windows))):
        reference.begin(row)
        logits = run_whole(engine, reference.windows[row])
        whole.add(row, 0, logits)
        _add_window(prefill, reference, row, logits)
        if _is_beyond(Estimate.of(whole.kl), limits.kl_of_few_windows):
            break
    yield figure("logit_difference.whole_windows", whole.largest, limit=limits.logits)
    yield figure("mean_kl.whole_windows", Estimate.of(whole.kl), limits.kl_of_few_windows)
    if limits.logits is not None and limits.mean_kl is None:
        yield from _against_float64(engine, reference, limits.logits)
    for name, run in WAYS:
        progress(name.replace("_", " "))
        pieces = Pieces(reference)
        run(engine, pieces)
        yield figure(f"logit_difference.{name}", pieces.largest, limit=limits.logits)
        if limits.mean_kl is not None:
            at_once = float(np.mean(pieces.same_tokens_of(whole)))
            limit = _PIECES_MULTIPLE * at_once + _PIECES_PART * limits.mean_kl
            yield figure(f"mean_kl.{name}", float(np.mean(pieces.kl)), limit=limit)
    progress("greedy text")
    yield from _greedy(engine, reference, limits, sample)
    progress("prefill")
    yield from _prefill(engine, reference, limits, sample, prefill)
    progress("decode")
    yield from _decode(engine, reference, limits, sample, prefill)


def _is_beyond(estimate: Estimate, limit: float | None) -> bool:
    return limit is not None and estimate.value - limit > _SETTLED * estimate.standard_error


def _add_window(into: Divergence, reference: Reference, window: int, logits: Logits) -> None:
    into.add(reference.logits(window)[:-1], logits[:-1], reference.windows[window][1:])


def _prompts(engine: Engine, reference: Reference, limits: Limits) -> Iterator[Figure]:
    """Texts as a session takes them, beside transformers: its tokenizer, and PyTorch's logits.

    What is compared last is the log-likelihood of each text's tokens after its first.
    """
    if not reference.prompts:
        return
    same = [np.array_equal(prompt.ours, prompt.theirs) for prompt in reference.prompts]
    yield figure("prompts_with_other_token_ids", same.count(False), limit=0)
    context, vocabulary = reference.logits(0).shape
    differences = [0.0]
    for prompt in reference.prompts:
        ids = prompt.ours[:context]
        # Added tokens may lie behind the embedding: sessions refuse a prompt that holds one.
        if len(ids) > 1 and ids.max() < vocabulary:
            ours = log_likelihood(run_whole(engine, ids), ids)
            theirs = reference.log_likelihood(prompt.theirs[:context])
            differences.append(abs(ours - theirs) / len(ids))
    # Each logarithm of a softmax moves by as much as two logits do.
    limit = None if limits.logits is None else 2 * limits.logits
    yield figure("log_likelihood_difference.prompts", max(differences), limit=limit)


def _against_float64(engine: Engine, reference: Reference, limit: float) -> Iterator[Figure]:
    noise = reference.noise
    errors = [
        float(np.max(np.abs(run_whole(engine, ids[: len(exact)]) - exact)))
        for ids, exact in zip(reference.windows, noise.exact, strict=False)
    ]
    yield figure("float64_error.graph", float(np.max(errors)), limit=limit)
    yield figure("float64_error.pytorch", noise.error)


def _greedy(
    engine: Engine, reference: Reference, limits: Limits, sample: Sample
) -> Iterator[Figure]:
    """Text of likeliest tokens: each is PyTorch's likeliest too, or in a tie with it.

    Where float32 noise decides between two tokens, either is right; the gap between their logits in
    PyTorch says whether it could.
    """
    same, gaps = [], []
    for prompt in range(min(sample.greedy_prompts, len(reference.windows))):
        ids = reference.windows[prompt]
        ids = ids[: min(PROMPT_TOKENS, len(ids) - 1)]
        tokens = min(sample.greedy_tokens, len(reference.windows[prompt]) - len(ids))
        text = _continue(engine, ids, tokens)
        logits = reference.run(np.concatenate([ids, text[:-1]]))[len(ids) - 1 :]
        likeliest = logits.max(axis=1)
        chosen = logits[np.arange(tokens), text]
        same.append(chosen == likeliest)
        gaps.append(likeliest - chosen)
    yield figure("greedy_agreement", Estimate.of(np.concatenate(same)))
    tie = None if limits.logits is None else 2 * limits.logits
    yield figure("greedy_gap", float(np.max(np.concatenate(gaps))), limit=tie)


def _continue(engine: Engine, prompt: Ids, tokens: int) -> Ids:
    cache = engine.new_cache(1)
    text = [int(cache.append(prompt[None])[0].argmax())]
    while len(text) < tokens:
        text.append(int(cache.step(np.array(text[-1:]))[0].argmax()))
    return np.array(text)


def _prefill(
    engine: Engine, reference: Reference, limits: Limits, sample: Sample, divergence: Divergence
) -> Iterator[Figure]:
    """Whole windows, beyond those in `divergence` already."""
    fewest, most = sample.prefill_windows
    for window in range(ROWS, min(most, len(reference.windows))):
        estimates = divergence.perplexity_ratio, divergence.mean_kl
        if window >= fewest and _are_settled(limits, *estimates):
            break
        reference.begin(window)
        logits = run_whole(engine, reference.windows[window])
        _add_window(divergence, reference, window, logits)
    yield figure("tokens.prefill", divergence.tokens)
    yield figure("perplexity.prefill", divergence.perplexity)
    yield figure("perplexity.pytorch", divergence.reference_perplexity)
    ratio, kl = limits.perplexity_ratio, limits.mean_kl
    yield figure("perplexity_ratio.prefill", divergence.perplexity_ratio, ratio)
    yield figure("mean_kl.prefill", divergence.mean_kl, kl)
    yield figure("same_top_token.prefill", divergence.same_top_token)


def _decode(
    engine: Engine, reference: Reference, limits: Limits, sample: Sample, prefill: Divergence
) -> Iterator[Figure]:
    """Windows fed one token at a time.

    Few of them are enough: the estimate is prefill's, on its many windows, and the mean difference
    of the same tokens in decode, which varies much less than what either loses.
    """
    fewest, most = sample.decode_windows
    stepped = Divergence()
    places: list[Ids] = []
    for window in range(min(most, len(reference.windows))):
        if window >= fewest and _are_settled(limits, *_of_decode(prefill, stepped, places)[:2]):
            break
        if prefill.tokens < (window + 1) * (len(reference.windows[window]) - 1):
            # Prefill was settled with fewer windows.
            logits = run_whole(engine, reference.windows[window])
            _add_window(prefill, reference, window, logits)
        reference.begin(window)
        ids = reference.windows[window][: sample.decode_tokens + 1]
        count = len(ids) - 1
        cache = engine.new_cache(1)
        logits = np.stack([cache.step(ids[at : at + 1])[0].copy() for at in range(count)])
        stepped.add(reference.logits(window)[:count], logits, ids[1:])
        places.append(window * (len(reference.windows[window]) - 1) + np.arange(count))
    ratio, kl, same = _of_decode(prefill, stepped, places)
    yield figure("tokens.decode", stepped.tokens)
    yield figure("perplexity_ratio.decode", ratio, limits.perplexity_ratio)
    yield figure("mean_kl.decode", kl, limits.mean_kl)
    yield figure("same_top_token.decode", same)


def _of_decode(
    prefill: Divergence, stepped: Divergence, places: Sequence[Ids]
) -> tuple[Estimate, Estimate, Estimate]:
    """Perplexity ratio, KL and same top token; `places` are those of the steps in prefill."""
    same_tokens = np.concatenate(places)

    def estimate(all_at_once: Samples, one_by_one: Samples) -> Estimate:
        return Estimate.of(all_at_once) + Estimate.of(one_by_one - all_at_once[same_tokens])

    return (
        estimate(prefill.log_ratio_samples, stepped.log_ratio_samples).exp(),
        estimate(prefill.kl_samples, stepped.kl_samples),
        estimate(prefill.same_top_samples, stepped.same_top_samples),
    )


def _are_settled(limits: Limits, ratio: Estimate, kl: Estimate) -> bool:
    pairs = ((limits.perplexity_ratio, ratio), (limits.mean_kl, kl))
    return all(
        limit is None or abs(estimate.value - limit) >= _SETTLED * estimate.standard_error
        for limit, estimate in pairs
    )
