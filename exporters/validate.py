"""Validation: the exported graph against the PyTorch model it came from, on real text.

Every check runs on every export. What is compared: logits and cache of prefill at many lengths, in
batches with padding, of a prompt continued on its cache, and of decode token by token; greedy text;
and over held-out text the divergence of the predictions, in prefill and in decode.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from atom_edge.bundle import open_bundle
from atom_edge.checkpoint import Snapshot, open_snapshot
from atom_edge.errors import ValidationError
from atom_edge.evaluation.divergence import Divergence
from atom_edge.evaluation.heldout import heldout_text
from atom_edge.exporters.portable import PortableGraph
from atom_edge.exporters.reference import Ids, Logits, Reference
from atom_edge.exporters.report import Limits, Report
from atom_edge.exporters.static import StaticGraph
from atom_edge.reference import checkpoint_path
from atom_edge.runtimes.doctor import runs
from atom_edge.runtimes.engines.interface import Device
from atom_edge.tokenizer import Tokenizer

LENGTHS = (1, 2, 3, 7, 16, 33, 64, 127, 256, 511, 512)
PREFILL_WINDOWS = 40
DECODE_WINDOWS = 8
GREEDY_PROMPTS = 8
GREEDY_TOKENS = 48
PROMPT_TOKENS = 16

Graph = PortableGraph | StaticGraph


def validate(
    graph: Graph,
    reference: Reference,
    encode: Callable[[str], list[int]],
    limits: Limits,
    progress: Callable[[str], None] = lambda _: None,
) -> Report:
    """Compare `graph` with the PyTorch model on held-out text.

    Args:
        graph: the exported graph, opened.
        reference: the PyTorch model.
        encode: text to token ids, the snapshot's tokenizer.
        limits: kept in the report; nothing is raised here.
        progress: told the name of each check as it begins.

    Raises:
        ValidationError: when the tokenizer makes too little of the text to fill one window.
    """
    context = reference.model.config.max_position_embeddings
    windows = _windows(encode(heldout_text()), min(context, 512))
    window = windows[0]
    differences: list[tuple[float, float]] = []

    progress("prefill")
    lengths = [length for length in LENGTHS if length <= len(window)]
    differences += [_compare(graph, reference, [window[:length]]) for length in lengths]
    progress("batches")
    for length in lengths[1::3]:
        rows = [windows[row % len(windows)][: max(1, length // (row + 1))] for row in range(3)]
        differences.append(_compare(graph, reference, rows))
    progress("cache")
    splits = ((1, 2), (5, 45), (200, 217), (300, len(window)))
    differences += [
        _compare_continued(graph, reference, window[:total], past)
        for past, total in splits
        if past < total <= len(window)
    ]

    progress("divergence in prefill")
    prefill, decode = Divergence(), Divergence()
    for ids in windows[:PREFILL_WINDOWS]:
        prefill.add(reference.logits(ids)[:-1], graph.run(ids[None])[0][0, :-1], ids[1:])
    progress("divergence in decode")
    for ids in windows[:DECODE_WINDOWS]:
        expected, logits = reference.logits(ids), _token_by_token(graph, ids)
        differences.append((_largest(expected - logits), 0.0))
        decode.add(expected[:-1], logits[:-1], ids[1:])
    progress("greedy text")
    prompts = [windows[i % len(windows)][:PROMPT_TOKENS] for i in range(GREEDY_PROMPTS)]
    return Report(
        max_logit_diff=max(logits for logits, _ in differences),
        max_cache_diff=max(cache for _, cache in differences),
        greedy_match=float(np.mean([_greedy_match(graph, reference, ids) for ids in prompts])),
        prefill=prefill,
        decode=decode,
        limits=limits,
    )


def validate_bundle(
    path: Path,
    against: str | Path | None = None,
    *,
    max_perplexity_ratio: float = 1.01,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Report]:
    """Validate a finished bundle against a snapshot, the reference checkpoint when None.

    Raises:
        BundleError: the bundle cannot be opened.
        SnapshotError: the snapshot cannot be opened.
    """
    progress("verify the bundle")
    bundle = open_bundle(path)
    progress("open the snapshot")
    snapshot = open_snapshot(checkpoint_path() if against is None else against)
    if snapshot.tokenizer_file.read_bytes() != bundle.tokenizer_file.read_bytes():
        raise ValidationError(
            f"{path} and {snapshot.path} have different tokenizers: the bundle was made from "
            "another snapshot. Name that one with --against."
        )
    return validate_graphs(
        {role: bundle.graph(role) for role in bundle.roles},
        snapshot,
        Limits.for_quantization(bundle.manifest.quantization, max_perplexity_ratio),
        progress,
    )


def validate_graphs(
    files: Mapping[str, Path],
    snapshot: Snapshot,
    limits: Limits,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Report]:
    """Validate every path through a bundle's graphs, its `files` by role.

    Returns:
        the report of `model`, the portable graph; where there are graphs over a static cache, of
        `static`; and where those are two, of `columns`, the one that CPUs without fast products of
        int8 blocks use for everything; of `check`, the one that runs guessed tokens; and of `cuda`,
        which runs on the CPU where there is no GPU.
    """
    threads = torch.get_num_threads()
    paths: dict[str, Graph] = {"model": PortableGraph(files["model"], threads)}
    context = snapshot.config.max_position_embeddings
    if "prefill" in files:
        paths["static"] = StaticGraph.on_cpu(
            files["prefill"], files.get("decode"), context, threads
        )
        if "decode" in files:
            paths["columns"] = StaticGraph.on_cpu(files["prefill"], None, context, threads)
        if "check" in files:
            paths["check"] = StaticGraph.on_cpu(files["check"], None, context, threads)
    if "cuda" in files:
        device: Device = "cuda" if runs("CUDAExecutionProvider") else "cpu"
        paths["cuda"] = StaticGraph.of_cuda(files["cuda"], device, context)
    reference = Reference(snapshot.model)
    encode = Tokenizer.from_file(snapshot.tokenizer_file).encode

    def report(name: str, graph: Graph) -> Report:
        within = limits.in_half_precision() if name == "cuda" else limits
        return validate(
            graph, reference, encode, within, lambda step: progress(f"validate {name} {step}")
        )

    return {name: report(name, graph) for name, graph in paths.items()}


def _windows(ids: Sequence[int], width: int) -> list[Ids]:
    count = len(ids) // width
    if count == 0:
        raise ValidationError(
            f"The tokenizer makes {len(ids)} tokens of the validation text, fewer than the "
            f"{width} of one window. Check that tokenizer.json belongs to the checkpoint."
        )
    return list(np.asarray(ids[: count * width], np.int64).reshape(count, width))


def _largest(difference: npt.NDArray[np.float32]) -> float:
    # A NaN stays one, and fails every limit.
    return float(np.max(np.abs(difference))) if difference.size else 0.0


def _compare(graph: Graph, reference: Reference, rows: Sequence[Ids]) -> tuple[float, float]:
    """Largest difference of logits and cache over `rows`, run as one batch padded on the left."""
    width = max(len(row) for row in rows)
    ids = np.zeros((len(rows), width), np.int64)
    mask = np.zeros_like(ids)
    for index, row in enumerate(rows):
        ids[index, width - len(row) :] = row
        mask[index, width - len(row) :] = 1
    logits, cache = graph.run(ids, mask)
    differences = []
    for index, row in enumerate(rows):
        expected, expected_cache = reference.with_cache(row)
        start = width - len(row)
        differences.append(
            (
                _largest(logits[index, start:] - expected),
                max(
                    _largest(ours[index, :, start:] - theirs[0])
                    for ours, theirs in zip(cache, expected_cache, strict=True)
                ),
            )
        )
    return max(d for d, _ in differences), max(d for _, d in differences)


def _compare_continued(
    graph: Graph, reference: Reference, ids: Ids, past: int
) -> tuple[float, float]:
    """Like `_compare`, with the first `past` tokens of `ids` already in the cache."""
    _, cache = graph.run(ids[None, :past])
    logits, cache = graph.run(ids[None, past:], past=cache)
    expected, expected_cache = reference.with_cache(ids)
    return _largest(logits[0] - expected[past:]), max(
        _largest(ours - theirs) for ours, theirs in zip(cache, expected_cache, strict=True)
    )


def _token_by_token(graph: Graph, ids: Ids) -> Logits:
    cache, rows = None, []
    for token in ids:
        logits, cache = graph.run(np.array([[token]]), past=cache)
        rows.append(logits[0, 0])
    return np.stack(rows)


def _greedy_match(graph: Graph, reference: Reference, prompt: Ids) -> float:
    tokens = min(GREEDY_TOKENS, reference.model.config.max_position_embeddings - len(prompt))
    expected = reference.greedy(prompt, tokens)
    logits, cache = graph.run(prompt[None])
    for count, token in enumerate(expected):
        if int(logits[0, -1].argmax()) != token:
            return count / tokens
        logits, cache = graph.run(np.array([[token]]), past=cache)
    return 1.0
