"""Bulk text on many machines, through Ray Data (extra `[ray]`).

    import ray
    from atom_edge.ray import generate

    prompts = ray.data.read_parquet("prompts")
    generate(prompts, workers=8, max_new_tokens=64).write_parquet("texts")

Ray starts the workers, gives them blocks of the data set, and does a block again whose worker was
lost; each worker holds a model and batches its rows. The bundle must lie in the same folder on all
machines; the reference model comes with the package.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray
from ray.data import ActorPoolStrategy, Dataset

from atom_edge.runtimes.options import GenerationOptions, Options
from atom_edge.runtimes.providers import Provider
from atom_edge.runtimes.session import AtomSession
from atom_edge.runtimes.slots import Task

Columns = dict[str, NDArray[Any]]


def generate(
    data: Dataset,
    bundle: str | Path | None = None,
    *,
    prompts: str = "prompt",
    workers: int = 1,
    provider: Provider = "cpu",
    rows: int = 256,
    **options: Unpack[Options],
) -> Dataset:
    """Continue every row's prompt.

    Args:
        data: with a column of texts, or of token ids.
        bundle: folder of a bundle; the reference bundle when None.
        prompts: name of that column.
        workers: processes with a model each; one CPU core, or one GPU, for each.
        provider: where they run; with "cuda" each has a GPU.
        rows: that a worker takes at a time.
        options: see `GenerationOptions`. With a seed a row that is done again has the same text.

    Returns:
        the rows with the columns `text`, `finish_reason` and `generation_tokens` added.

    Raises:
        GenerationError: for an option outside its range.
    """
    GenerationOptions.of(options)  # here, and not on a worker
    arguments: dict[str, Any] = {"bundle": _plain(bundle), "provider": provider}
    arguments |= {"prompts": prompts, "options": options}
    return _map(data, _Generator, arguments, workers, provider, rows)


def score(
    data: Dataset,
    bundle: str | Path | None = None,
    *,
    texts: str = "text",
    workers: int = 1,
    provider: Provider = "cpu",
    rows: int = 256,
) -> Dataset:
    """Rate every row's text; arguments as of `generate`.

    Returns:
        the rows with the columns `logprob`, the sum of the natural log-probabilities of the tokens
        after the first, and `tokens`, how many these are. Of a text longer than the context the
        end is rated.
    """
    arguments = {"bundle": _plain(bundle), "provider": provider, "texts": texts}
    return _map(data, _Scorer, arguments, workers, provider, rows)


def _map(
    data: Dataset,
    worker: type[Any],
    arguments: Mapping[str, Any],
    workers: int,
    provider: Provider,
    rows: int,
) -> Dataset:
    return data.map_batches(
        worker,
        fn_constructor_kwargs=dict(arguments),
        batch_size=rows,
        compute=ActorPoolStrategy(size=workers),
        num_cpus=1,
        num_gpus=1 if provider == "cuda" else None,
    )


def _plain(bundle: str | Path | None) -> str | None:
    return None if bundle is None else str(bundle)


class _Generator:
    """A worker of `generate`."""

    def __init__(
        self, bundle: str | None, provider: Provider, prompts: str, options: Options
    ) -> None:
        self._session = AtomSession.from_pretrained(bundle, 1, provider)
        self._prompts = prompts
        self._options = options

    def __call__(self, rows: Columns) -> Columns:
        prompts = [one if isinstance(one, str) else one.tolist() for one in rows[self._prompts]]
        replies = self._session.generate_batch(prompts, **self._options)
        return {
            **rows,
            "text": np.array([reply.text for reply in replies], object),
            "finish_reason": np.array([reply.finish_reason for reply in replies], object),
            "generation_tokens": np.array([reply.generation_tokens for reply in replies]),
        }


class _Scorer:
    """A worker of `score`."""

    def __init__(self, bundle: str | None, provider: Provider, texts: str) -> None:
        self._session = AtomSession.from_pretrained(bundle, 1, provider)
        self._texts = texts

    def __call__(self, rows: Columns) -> Columns:
        tasks = [
            Task(self._session.new_reply(text, max_new_tokens=1, temperature=0), rate_prompt=0)
            for text in rows[self._texts].tolist()
        ]
        batch = self._session.new_batch(32)
        waiting = list(reversed(tasks))
        while waiting or len(batch):
            while waiting and batch.room:
                batch.join(waiting.pop())
            batch.run()
        rated = [[entry.logprob for entry in task.prompt_logprobs] for task in tasks]
        return {
            **rows,
            "logprob": np.array([sum(each) for each in rated], np.float64),
            "tokens": np.array([len(each) for each in rated]),
        }
