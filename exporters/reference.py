"""The PyTorch model as validation asks it: every question is answered once and remembered."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from atom_edge.modeling import AtomForCausalLM
from atom_edge.runtimes.engines.interface import Tensors

Ids = npt.NDArray[np.int64]
Logits = npt.NDArray[np.float32]


class Reference:
    """A float32 PyTorch model in evaluation mode, and what it has said so far."""

    def __init__(self, model: AtomForCausalLM) -> None:
        self.model = model
        self._logits: dict[bytes, Logits] = {}
        self._with_cache: dict[bytes, tuple[Logits, Tensors]] = {}
        self._greedy: dict[tuple[bytes, int], list[int]] = {}

    def logits(self, ids: Ids) -> Logits:
        """Logits `[T, V]` of `ids` `[T]`, without a cache."""
        key = ids.tobytes()
        if key not in self._logits:
            with torch.no_grad():
                output = self.model(torch.from_numpy(ids)[None], use_cache=False)
            self._logits[key] = output.logits[0].numpy()
        return self._logits[key]

    def with_cache(self, ids: Ids) -> tuple[Logits, Tensors]:
        """Logits `[T, V]` of `ids` `[T]`, and the cache that they leave, `[1, K, T, D]` each."""
        key = ids.tobytes()
        if key not in self._with_cache:
            with torch.no_grad():
                output = self.model(torch.from_numpy(ids)[None], use_cache=True)
            layers = output.past_key_values.layers
            cache = [part.numpy() for layer in layers for part in (layer.keys, layer.values)]
            self._with_cache[key] = output.logits[0].numpy(), cache
        return self._with_cache[key]

    def greedy(self, prompt: Ids, tokens: int) -> list[int]:
        """The tokens with which `generate` continues `prompt` `[T]`, whatever they are."""
        key = prompt.tobytes(), tokens
        if key not in self._greedy:
            inputs = torch.from_numpy(prompt)[None]
            output = self.model.generate(
                inputs,
                attention_mask=torch.ones_like(inputs),
                pad_token_id=0,
                max_new_tokens=tokens,
                do_sample=False,
                eos_token_id=None,
            )
            self._greedy[key] = output[0, len(prompt) :].tolist()
        return self._greedy[key]
