"""What is evaluated: the engine of a bundle, or of a PyTorch snapshot."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from atom_edge.bundle import Bundle, open_bundle
from atom_edge.checkpoint import Snapshot, open_snapshot
from atom_edge.manifest import MANIFEST
from atom_edge.runtimes.engines import open_engine
from atom_edge.runtimes.engines.interface import Engine, Ids, Logits
from atom_edge.runtimes.engines.portable import PortableEngine, Tensors
from atom_edge.runtimes.providers import usable_cores
from atom_edge.tokenizer import Tokenizer
from atom_edge.torch_decoder import TorchDecoder


class TorchGraph:
    """A PyTorch model with the portable graph's inputs and outputs."""

    def __init__(self, decoder: TorchDecoder) -> None:
        self._decoder = decoder
        self.vocab_size: int = decoder.model.config.vocab_size

    def empty_cache(self, batch_size: int) -> Tensors:
        """A cache of no tokens: `[B, K, 0, D]`, key and value of each layer."""
        return [part.numpy() for part in self._decoder.empty_cache(batch_size)]

    @torch.no_grad()
    def run(
        self, input_ids: Ids, attention_mask: Ids, cache: Tensors, position_ids: Ids
    ) -> tuple[Logits, Tensors]:
        """Run the model once; see `Graph`."""
        inputs = (torch.from_numpy(array) for array in (input_ids, attention_mask, position_ids))
        logits, *present = self._decoder(*inputs, [torch.from_numpy(part) for part in cache])
        return logits.numpy(), [part.numpy() for part in present]


@dataclass(frozen=True)
class Model:
    """A model ready to be scored.

    Attributes:
        name: "PyTorch fp32", "ONNX fp32" or "ONNX int8".
        engine: what runs it.
        tokenizer: its tokenizer.
        context_length: tokens that it takes at most.
        prefix_token: stands before a text that has nothing before it: the token that ends
            documents, after which a document begins.
        end_tokens: those that end a reply.
        threads: that score at a time, each on runs of one thread: short runs gain less from a
            second thread than from not waiting for it.
    """

    name: str
    engine: Engine
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
    engine: Engine
    if (Path(target) / MANIFEST).is_file():
        opened = open_bundle(target)
        quantization = opened.manifest.quantization
        name = f"ONNX {'fp32' if quantization == 'none' else quantization}"
        context_length = opened.context_length
        engine = open_engine(opened, threads=1).engine
    else:
        opened = open_snapshot(target)
        name = "PyTorch fp32"
        context_length = opened.decoder.context_length
        engine = PortableEngine(TorchGraph(opened.decoder), context_length)
    torch.set_num_threads(1)
    tokenizer = Tokenizer.from_file(opened.tokenizer_file)
    return Model(
        name=name,
        engine=engine,
        tokenizer=tokenizer,
        context_length=context_length,
        prefix_token=_prefix_token(tokenizer, opened.generation_config),
        end_tokens=frozenset(_token_ids(opened.generation_config, "eos_token_id")),
        threads=threads or usable_cores(),
    )


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
