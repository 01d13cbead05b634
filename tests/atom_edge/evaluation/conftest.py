"""The small model as it is evaluated, and a float64 reference that runs one sequence at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from atom_edge.evaluation.models import Model, open_model
from atom_edge.modeling import AtomForCausalLM

CONTEXT = 128

# Log-probabilities [N] of the last N tokens of a sequence, and the likeliest tokens [N] there.
Exact = Callable[[Sequence[int], int], tuple[torch.Tensor, torch.Tensor]]


@pytest.fixture(scope="session")
def snapshot_model(small_snapshot: Path) -> Model:
    return open_model(small_snapshot, threads=2)


@pytest.fixture(scope="session")
def bundle_model(small_bundle: Path) -> Model:
    return open_model(small_bundle, threads=2)


@pytest.fixture(scope="session")
def int8_model(small_int8_bundle: Path) -> Model:
    return open_model(small_int8_bundle, threads=2)


@pytest.fixture(scope="session")
def exact(small_snapshot: Path) -> Exact:
    model = AtomForCausalLM.from_pretrained(small_snapshot).eval().double()

    @torch.no_grad()
    def rate(tokens: Sequence[int], count: int) -> tuple[torch.Tensor, torch.Tensor]:
        fed, wanted = torch.tensor([tokens[:-1]]), torch.tensor(tokens[-count:])
        logits = model(input_ids=fed).logits[0, -count:]
        return logits.log_softmax(dim=-1)[torch.arange(count), wanted], logits.argmax(dim=-1)

    return rate
