"""What is evaluated, behind one interface of arrays: a bundle's graphs, or a PyTorch snapshot."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from transformers import DynamicCache

from atom_edge.bundle import MANIFEST, Bundle, open_bundle
from atom_edge.checkpoint import Snapshot, open_snapshot
from atom_edge.modeling import AtomForCausalLM
from atom_edge.runtimes.decoder import (
    Cache,
    Decoder,
    Graph,
    Ids,
    Logits,
    PortableDecoder,
    PortableGraph,
)
from atom_edge.runtimes.providers import open_graph, usable_cores
from atom_edge.runtimes.static_cache import StaticCache
from atom_edge.runtimes.static_decoder import StaticDecoder
from atom_edge.runtimes.static_graphs import StaticGraphs
from atom_edge.tokenizer import Tokenizer


class Predictor(Protocol):
    """A model's predictions for batches, and for one sequence; threads may share it.

    B is the batch, P the tokens before, T the new ones, V the vocabulary.

    Attributes:
        batches: whether a sequence's predictions are the same whatever runs beside it.
    """

    batches: bool

    def prefill(self, ids: Ids) -> Cache:
        """The cache of beginnings `[B, P]`: `[B, K, P, D]`, key and value of each layer.

        Where a beginning is padded on the right, so is its cache.
        """
        ...

    def logits(self, ids: Ids, places: Ids, cache: Cache, lengths: Ids) -> Logits:
        """Logits float32 `[N, V]` of what follows chosen tokens.

        Args:
            ids: int64 `[B, T]`, padded on the right.
            places: int64 `[N]`, which of them, as `b * T + t`.
            cache: what `prefill` returned, for each of the B; empty when nothing is before.
            lengths: int64 `[B]`, tokens of each before; P + T must not exceed the context.
        """
        ...

    def new_decoder(self) -> Decoder:
        """One sequence, with no tokens yet."""
        ...


class StaticPredictor:
    """The fast pair of a bundle: the graphs that a session runs.

    An int8 product of many rows quantizes all of them by one scale. For a session they are the
    rows of one sequence, and so they are here: other sequences would change the scores.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.batches = bundle.manifest["quantization"] == "none"
        self._graphs = StaticGraphs.of(bundle, threads=1)
        self._context_length = bundle.context_length

    def prefill(self, ids: Ids) -> Cache:
        """See `Predictor`."""
        cache = StaticCache(self._graphs, ids.shape[1], len(ids))
        cache.append(ids, places=np.zeros(0, np.int64))
        return list(cache.read(ids.shape[1]))

    def logits(self, ids: Ids, places: Ids, cache: Cache, lengths: Ids) -> Logits:
        """See `Predictor`."""
        before = cache[0].shape[2] if cache else 0
        static = StaticCache(self._graphs, before + ids.shape[1], len(ids))
        if cache:
            static.write(cache, lengths)
        return static.append(ids, places=places)

    def new_decoder(self) -> StaticDecoder:
        """See `Predictor`."""
        return StaticDecoder(self._graphs, self._context_length)


class GraphPredictor:
    """A graph whose cache grows: a bundle without the fast pair, or a PyTorch model."""

    batches = True

    def __init__(self, graph: Graph, context_length: int) -> None:
        self._graph = graph
        self._context_length = context_length

    def prefill(self, ids: Ids) -> Cache:
        """See `Predictor`."""
        # Tokens after a row's own are not seen by them, and `logits` masks them.
        positions = np.tile(np.arange(ids.shape[1]), (len(ids), 1))
        empty = self._graph.empty_cache(len(ids))
        return self._graph.run(ids, np.ones_like(ids), empty, positions)[1]

    def logits(self, ids: Ids, places: Ids, cache: Cache, lengths: Ids) -> Logits:
        """See `Predictor`."""
        cache = cache or self._graph.empty_cache(len(ids))
        held = np.arange(cache[0].shape[2]) < lengths[:, None]
        mask = np.concatenate([held, np.ones(ids.shape, bool)], axis=1).astype(np.int64)
        positions = lengths[:, None] + np.arange(ids.shape[1])
        logits, _ = self._graph.run(ids, mask, cache, positions)
        return logits.reshape(-1, logits.shape[-1])[places]

    def new_decoder(self) -> PortableDecoder:
        """See `Predictor`."""
        return PortableDecoder(self._graph, self._context_length)


class TorchGraph:
    """A PyTorch model with the portable graph's inputs and outputs."""

    def __init__(self, model: AtomForCausalLM) -> None:
        self._model = model
        config = model.config
        self._layers = config.num_hidden_layers
        self._shape = (config.num_key_value_heads, 0, config.head_dim)

    def empty_cache(self, batch_size: int = 1) -> Cache:
        """A cache of no tokens: `[B, K, 0, D]`, key and value of each layer."""
        return [np.zeros((batch_size, *self._shape), np.float32) for _ in range(2 * self._layers)]

    @torch.no_grad()
    def run(
        self, input_ids: Ids, attention_mask: Ids, cache: Cache, position_ids: Ids
    ) -> tuple[Logits, Cache]:
        """Run the model once; see `Graph`."""
        past = DynamicCache(config=self._model.config)
        for layer in range(self._layers):
            key, value = cache[2 * layer : 2 * layer + 2]
            past.update(torch.from_numpy(key), torch.from_numpy(value), layer)
        output = self._model(
            input_ids=torch.from_numpy(input_ids),
            attention_mask=torch.from_numpy(attention_mask),
            position_ids=torch.from_numpy(position_ids),
            past_key_values=past,
            use_cache=True,
        )
        present = [
            tensor.numpy()
            for layer in output.past_key_values.layers
            for tensor in (layer.keys, layer.values)
        ]
        return output.logits.numpy(), present


@dataclass(frozen=True)
class Model:
    """A model ready to be scored.

    Attributes:
        name: "PyTorch fp32", "ONNX fp32" or "ONNX int8".
        predictor: its predictions.
        tokenizer: its tokenizer.
        context_length: tokens that it takes at most.
        prefix_token: stands before a text that has nothing before it: the token that ends
            documents, after which a document begins.
        end_tokens: those that end a reply.
        threads: that score at a time, each on runs of one thread: short runs gain less from a
            second thread than from not waiting for it.
    """

    name: str
    predictor: Predictor
    tokenizer: Tokenizer
    context_length: int
    prefix_token: int
    end_tokens: frozenset[int]
    threads: int


def open_model(target: str | Path, threads: int | None = None) -> Model:
    """Open a bundle (a folder with a manifest), or else a snapshot.

    Args:
        target: bundle folder, snapshot folder, or hub id of a snapshot.
        threads: that score at a time; as many as usable cores when None.
    """
    opened: Bundle | Snapshot
    if (Path(target) / MANIFEST).is_file():
        opened = open_bundle(target)
        quantization = opened.manifest["quantization"]
        name = f"ONNX {'fp32' if quantization == 'none' else quantization}"
        context_length = opened.context_length
        predictor = _bundle_predictor(opened)
    else:
        opened = open_snapshot(target)
        name = "PyTorch fp32"
        context_length = opened.config.max_position_embeddings
        predictor = GraphPredictor(TorchGraph(opened.model), context_length)
    torch.set_num_threads(1)
    tokenizer = Tokenizer.from_file(opened.tokenizer_file)
    return Model(
        name=name,
        predictor=predictor,
        tokenizer=tokenizer,
        context_length=context_length,
        prefix_token=_prefix_token(tokenizer, opened.generation_config),
        end_tokens=frozenset(_token_ids(opened.generation_config, "eos_token_id")),
        threads=threads or usable_cores(),
    )


def _bundle_predictor(bundle: Bundle) -> Predictor:
    if "prefill" in bundle.roles:
        return StaticPredictor(bundle)
    portable = PortableGraph(open_graph(bundle.graph(), threads=1))
    return GraphPredictor(portable, bundle.context_length)


def _prefix_token(tokenizer: Tokenizer, generation_config: dict[str, Any]) -> int:
    """<|endoftext|> where there is one, else beginning of sequence, else end of sequence."""
    found = tokenizer.token_to_id("<|endoftext|>")
    if found is not None:
        return found
    ids = [
        *_token_ids(generation_config, "bos_token_id"),
        *_token_ids(generation_config, "eos_token_id"),
    ]
    return ids[0] if ids else 0


def _token_ids(generation_config: dict[str, Any], setting: str) -> list[int]:
    value = generation_config.get(setting)
    if value is None:
        return []
    return [int(token_id) for token_id in (value if isinstance(value, list) else [value])]
