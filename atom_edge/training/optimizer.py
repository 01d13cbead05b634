"""Muon for the matrices, AdamW for the rest, and the schedule of their learning rates."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn

from atom_edge.training.recipe import Optimizer

# Coefficients of the quintic Newton-Schulz iteration (Jordan et al., "Muon: An optimizer for
# hidden layers in neural networks", 2024), chosen for the steepest slope at zero.
_QUINTIC = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5


def orthogonalize(matrices: Tensor) -> Tensor:
    """Bring all singular values of each matrix near 1, leaving its singular vectors.

    Args:
        matrices: `[N, rows, columns]`; computed in bfloat16 on a GPU.
    """
    wide = matrices.shape[1] <= matrices.shape[2]
    x = matrices if wide else matrices.mT
    if x.is_cuda:
        x = x.bfloat16()
    x = x / x.flatten(1).norm(dim=1).clamp(min=1e-7)[:, None, None]
    a, b, c = _QUINTIC
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x if wide else x.mT


class Muon(torch.optim.Optimizer):
    """`torch.optim.Muon`'s update with all matrices of one shape orthogonalized at once.

    A small model has many small matrices; one at a time, they would cost more than the model
    itself. Momentum is Nesterov's, weight decay is decoupled, and tall matrices get steps longer
    by the root of their aspect ratio.
    """

    def __init__(
        self, params: list[nn.Parameter], lr: float, momentum: float, weight_decay: float
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # no closure is ever given
        """Update every matrix that has a gradient."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape[parameter.shape].append(parameter)
            for shape, parameters in by_shape.items():
                self._step(group, shape, parameters)

    def _step(
        self, group: dict[str, Any], shape: torch.Size, parameters: list[nn.Parameter]
    ) -> None:
        gradients = [p.grad for p in parameters if p.grad is not None]
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter]["momentum"] = torch.zeros_like(parameter)
        buffers = [self.state[parameter]["momentum"] for parameter in parameters]
        torch._foreach_lerp_(buffers, gradients, 1 - group["momentum"])
        ahead = torch._foreach_lerp(gradients, buffers, group["momentum"])
        updates = orthogonalize(torch.stack(ahead)).float().unbind()
        weights: list[torch.Tensor] = list(parameters)
        torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
        rate = group["lr"] * max(1.0, shape[0] / shape[1]) ** 0.5
        torch._foreach_add_(weights, updates, alpha=-rate)


def make_optimizers(
    model: nn.Module, settings: Optimizer
) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
    """Muon over the layers' matrices; AdamW (fused on a GPU) over embeddings and norms."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    for name, parameter in model.named_parameters():
        plain = parameter.ndim != 2 or id(parameter) in embeddings or "lm_head" in name
        (others if plain else matrices).append(parameter)
    on_gpu = others[0].device.type == "cuda"
    first, second = settings.adamw_betas
    return (
        Muon(matrices, settings.muon_lr, settings.muon_momentum, settings.muon_weight_decay),
        torch.optim.AdamW(
            others, settings.adamw_lr, betas=(first, second), weight_decay=0.0, fused=on_gpu
        ),
    )


def rate_factor(step: int, steps: int, settings: Optimizer) -> float:
    """Return the factor of the learning rates at `step` of `steps`: rise, constant, fall."""
    rise = min(1.0, (step + 1) / max(1, settings.warmup_steps))
    left = min(1.0, (steps - step) / max(1.0, settings.decay_share * steps))
    return min(rise, settings.final_rate + (1 - settings.final_rate) * left)
