"""The PyTorch model as validation asks it: logits, and how far float32 itself is from float64."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from atom_edge.errors import ValidationError
from atom_edge.evaluation.divergence import log_softmax
from atom_edge.exporters.prompts import Prompt

Ids = npt.NDArray[np.int64]
Logits = npt.NDArray[np.float32]

# Bytes of logits that are remembered, and bytes of those in float64.
_REMEMBERED = 256 * 2**20
_EXACT = 32 * 2**20
_EXACT_WINDOWS = 2


@dataclass(frozen=True)
class Noise:
    """What rounding to float32 does to the PyTorch model.

    Attributes:
        error: the largest difference of a float32 logit from the same in float64.
        largest: the largest absolute logit.
        exact: logits in float64, `[T, V]` of the first tokens of the first windows.
    """

    error: float
    largest: float
    exact: tuple[npt.NDArray[np.float64], ...]


class Reference:
    """A float32 PyTorch model in evaluation mode, over windows of text.

    Args:
        model: a causal language model.
        windows: token ids, `[W]` each; W fits into the model's context.
        prompts: texts as token ids, ours and transformers'.
    """

    def __init__(
        self, model: nn.Module, windows: Sequence[Ids], prompts: Sequence[Prompt] = ()
    ) -> None:
        self.windows = windows
        self.prompts = prompts
        self._model = model
        self._remembered: OrderedDict[int, Logits] = OrderedDict()
        self._background = ThreadPoolExecutor(max_workers=1)
        self._begun: dict[int, Future[Logits]] = {}
        self._log_likelihoods: dict[tuple[int, ...], float] = {}

    def begin(self, window: int) -> None:
        """Start to compute a window's logits, on another core than a graph that runs meanwhile."""
        if window not in self._remembered and window not in self._begun:
            self._begun[window] = self._background.submit(self.run, self.windows[window])

    def logits(self, window: int) -> Logits:
        """Logits `[W, V]` of a window. The latest are remembered, as far as memory is bounded.

        Raises:
            ValidationError: if they are not finite.
        """
        if window in self._remembered:
            self._remembered.move_to_end(window)
        else:
            self.begin(window)
            self._remembered[window] = self._begun.pop(window).result()
            held = sum(logits.nbytes for logits in self._remembered.values())
            while held > _REMEMBERED and len(self._remembered) > 1:
                held -= self._remembered.popitem(last=False)[1].nbytes
        return self._remembered[window]

    def run(self, ids: Ids) -> Logits:
        """Logits `[T, V]` of `ids` `[T]`, without a cache.

        Raises:
            ValidationError: if they are not finite.
        """
        logits: Logits = _run(self._model, ids).numpy()
        if not np.isfinite(logits).all():
            raise ValidationError(
                "The PyTorch model's own logits are not finite on plain text, so no graph can be "
                "compared with them. Look for huge values in the checkpoint's weights."
            )
        return logits

    def log_likelihood(self, ids: Ids) -> float:
        """Of tokens `[T]` after the first, in nats; computed once, as every graph is asked it.

        Raises:
            ValidationError: if logits are not finite.
        """
        tokens = tuple(ids.tolist())
        if tokens not in self._log_likelihoods:
            self._log_likelihoods[tokens] = log_likelihood(self.run(ids), ids)
        return self._log_likelihoods[tokens]

    @cached_property
    def noise(self) -> Noise:
        """How far float32 is from float64 on the first windows, measured once."""
        wide = copy.deepcopy(self._model).double()
        error, largest, exact = 0.0, 0.0, []
        for window, ids in enumerate(self.windows[:_EXACT_WINDOWS]):
            narrow = self.logits(window)
            tokens = max(16, _EXACT // (8 * narrow.shape[1]))
            logits = _run(wide, ids[:tokens]).numpy()
            exact.append(logits)
            error = max(error, float(np.abs(narrow[: len(logits)] - logits).max()))
            largest = max(largest, float(np.abs(logits).max()))
        return Noise(error, largest, tuple(exact))


def log_likelihood(logits: Logits, ids: Ids) -> float:
    """Of tokens `[T]` after the first, by logits `[T, V]`, in nats."""
    ahead = np.arange(len(ids) - 1), ids[1:]
    return float(log_softmax(logits[:-1])[ahead].sum())


@torch.no_grad()
def _run(model: nn.Module, ids: Ids) -> torch.Tensor:
    tokens = torch.from_numpy(ids)[None]
    # Without a mask some classes of transformers would warn of padding.
    output = model(tokens, attention_mask=torch.ones_like(tokens), use_cache=False)
    logits: torch.Tensor = output.logits
    return logits[0]
