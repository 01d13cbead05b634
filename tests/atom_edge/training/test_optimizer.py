"""Muon against PyTorch's, and the schedule of the rates."""

from __future__ import annotations

import pytest
import torch

from atom_edge.training.optimizer import Muon, orthogonalize, rate_factor
from atom_edge.training.recipe import Optimizer


def test_muon_is_the_reference_muon() -> None:
    torch.manual_seed(0)
    values = [torch.randn(6, 4), torch.randn(6, 4), torch.randn(4, 6), torch.randn(5, 5)]
    ours = [torch.nn.Parameter(value.clone()) for value in values]
    theirs = [torch.nn.Parameter(value.clone()) for value in values]
    optimizers = (
        Muon(ours, lr=0.02, momentum=0.9, weight_decay=0.1),
        torch.optim.Muon(theirs, lr=0.02, momentum=0.9, weight_decay=0.1),
    )
    for _ in range(4):
        for one, other in zip(ours, theirs, strict=True):
            one.grad = torch.randn_like(one)
            other.grad = one.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for one, other in zip(ours, theirs, strict=True):
        # The reference iterates in bfloat16.
        torch.testing.assert_close(one, other, rtol=0, atol=4e-3)


def test_orthogonalized_matrices_have_singular_values_near_one() -> None:
    torch.manual_seed(0)
    for shape in ((3, 16, 16), (2, 32, 8), (2, 8, 32)):
        values = torch.linalg.svdvals(orthogonalize(torch.randn(shape)))
        assert 0.3 < values.min() < values.max() < 1.3


def test_rates_rise_hold_and_fall_to_zero() -> None:
    settings = Optimizer(warmup_steps=10, decay_share=0.5)
    factors = [rate_factor(step, 100, settings) for step in range(101)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[9:51] == [1.0] * 42
    assert factors[75] == pytest.approx(0.5)
    assert factors[100] == 0


def test_rates_may_end_above_zero_for_another_stage_to_go_on_from() -> None:
    settings = Optimizer(warmup_steps=10, decay_share=0.5, final_rate=0.4)
    factors = [rate_factor(step, 100, settings) for step in range(101)]
    assert factors[9:51] == [1.0] * 42
    assert factors[75] == pytest.approx(0.7)
    assert factors[100] == pytest.approx(0.4)
