"""What is evaluated, behind one function of arrays: a bundle's graph, or a PyTorch snapshot."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DynamicCache

from atom_edge.bundle import MANIFEST, open_bundle
from atom_edge.checkpoint import open_snapshot
from atom_edge.modeling import AtomForCausalLM
from atom_edge.runtimes.decoder import PortableGraph
from atom_edge.runtimes.providers import open_graph, usable_cores
from atom_edge.tokenizer import Tokenizer

Ids = NDArray[np.int64]
Logits = NDArray[np.float32]
Cache = list[NDArray[Any]]


class Graph(Protocol):
    """The portable graph's contract: logits and the extended cache from tokens and a cache."""

    def empty_cache(self, batch_size: int = 1) -> Cache:
        """A cache of no tokens."""
        ...

    def run(
        self, input_ids: Ids, attention_mask: Ids, cache: Cache, position_ids: Ids
    ) -> tuple[Logits, Cache]:
        """Logits `[B, T, V]` and the cache `[B, K, S, D]` after T new tokens."""
        ...


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
        graph: its predictions.
        tokenizer: its tokenizer.
        context_length: tokens that it takes at most.
        prefix_token: stands before a text that has nothing before it: the token that ends
            documents, after which a document begins.
    """

    name: str
    graph: Graph
    tokenizer: Tokenizer
    context_length: int
    prefix_token: int


def open_model(target: str | Path, threads: int | None = None) -> Model:
    """Open a bundle (a folder with a manifest), or else a snapshot.

    Args:
        target: bundle folder, snapshot folder, or hub id of a snapshot.
        threads: of one run; all usable cores when None.
    """
    threads = threads or usable_cores()
    if (Path(target) / MANIFEST).is_file():
        bundle = open_bundle(target)
        quantization = bundle.manifest["quantization"]
        tokenizer = Tokenizer.from_file(bundle.tokenizer_file)
        return Model(
            name=f"ONNX {'fp32' if quantization == 'none' else quantization}",
            graph=PortableGraph(open_graph(bundle.graph(), threads=threads)),
            tokenizer=tokenizer,
            context_length=bundle.context_length,
            prefix_token=_prefix_token(tokenizer, bundle.generation_config),
        )
    snapshot = open_snapshot(target)
    torch.set_num_threads(threads)
    tokenizer = Tokenizer.from_file(snapshot.tokenizer_file)
    return Model(
        name="PyTorch fp32",
        graph=TorchGraph(snapshot.model),
        tokenizer=tokenizer,
        context_length=snapshot.config.max_position_embeddings,
        prefix_token=_prefix_token(tokenizer, snapshot.generation_config),
    )


def _prefix_token(tokenizer: Tokenizer, generation_config: dict[str, Any]) -> int:
    """<|endoftext|> where there is one, else beginning of sequence, else end of sequence."""
    found = tokenizer.token_to_id("<|endoftext|>")
    if found is not None:
        return found
    for name in ("bos_token_id", "eos_token_id"):
        value = generation_config.get(name)
        if value is not None:
            return int(value[0] if isinstance(value, list) else value)
    return 0
