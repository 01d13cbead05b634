"""What a run minimizes: the cross-entropy of its text, alone or with a teacher's distributions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atom_edge.modeling import AtomForCausalLM


class NextTokenLoss(nn.Module):
    """The model's mean loss over windows, as one module to compile and to distribute."""

    def __init__(
        self,
        model: AtomForCausalLM,
        teacher: AtomForCausalLM | None = None,
        teacher_share: float = 0.0,
    ) -> None:
        super().__init__()
        self.model = model
        self.teacher = teacher
        self.teacher_share = teacher_share

    def forward(self, windows: Tensor) -> Tensor:
        """Nats a token, float32 `[]`, of int64 `windows` `[B, T + 1]`."""
        seen, following = windows[:, :-1], windows[:, 1:].flatten()
        logits = self.model(seen).logits.float().flatten(0, 1)
        if self.teacher is None:
            return F.cross_entropy(logits, following)
        with torch.no_grad():
            taught = self.teacher(seen, use_cache=False).logits.float().flatten(0, 1)
        return distillation_loss(logits, taught, following, self.teacher_share)


def distillation_loss(logits: Tensor, taught: Tensor, following: Tensor, share: float) -> Tensor:
    """Mean of `share * KL(teacher || student) + (1 - share) * cross-entropy`, float32 `[]`.

    Both distributions are taken whole and at temperature 1 (Hinton et al., arXiv 1503.02531).

    Args:
        logits: the student's, float32 `[N, vocab]`.
        taught: the teacher's, float32 `[N, vocab]`.
        following: the tokens of the text, int64 `[N]`.
        share: of the teacher in the loss, 0 to 1.
    """
    student = F.log_softmax(logits, dim=-1)
    teacher = F.log_softmax(taught, dim=-1)
    soft = F.kl_div(student, teacher, reduction="batchmean", log_target=True)
    return share * soft + (1 - share) * F.nll_loss(student, following)
