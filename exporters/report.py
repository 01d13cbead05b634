"""The result of a validation, and what it must hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from atom_edge.errors import ValidationError
from atom_edge.evaluation.divergence import Divergence, Estimate

HALF_LOGIT_DIFF = 0.25
HALF_PERPLEXITY_RATIO = 1.001


@dataclass(frozen=True)
class Limits:
    """What an export must hold; a limit of None is not applied."""

    max_logit_diff: float | None = None
    same_greedy_text: bool = False
    max_perplexity_ratio: float | None = None

    @classmethod
    def for_quantization(cls, quantization: str, max_perplexity_ratio: float = 1.01) -> Limits:
        """The limits of `none` (the same model) and of `int8` (a close one)."""
        if quantization == "none":
            return cls(max_logit_diff=1e-4, same_greedy_text=True)
        return cls(max_perplexity_ratio=max_perplexity_ratio)

    def in_half_precision(self) -> Limits:
        """The limits of the same model in float16, whose logits have a thousandth of precision."""
        if self.max_logit_diff is None:
            return self
        return Limits(max_logit_diff=HALF_LOGIT_DIFF, max_perplexity_ratio=HALF_PERPLEXITY_RATIO)


@dataclass(frozen=True)
class Report:
    """The result of a validation; `as_dict` is what manifests and `--json` hold.

    Attributes:
        max_logit_diff: largest absolute difference of a logit, over all comparisons.
        max_cache_diff: likewise of a value in the cache.
        greedy_match: share of the greedy tokens before the first difference, over the prompts.
        prefill: divergence over whole windows of text.
        decode: divergence over windows fed token by token.
    """

    max_logit_diff: float
    max_cache_diff: float
    greedy_match: float
    prefill: Divergence
    decode: Divergence
    limits: Limits

    def failures(self) -> list[str]:
        """The limits that do not hold, each as a sentence."""
        found = []
        limit = self.limits.max_logit_diff
        # Written so that a NaN fails.
        if limit is not None and not self.max_logit_diff <= limit:
            found.append(
                f"the largest logit difference is {self.max_logit_diff:.3g}, over {limit:g}"
            )
        if self.limits.same_greedy_text and self.greedy_match < 1:
            found.append(f"greedy text is the same in only {self.greedy_match:.1%} of the tokens")
        ratio_limit = self.limits.max_perplexity_ratio
        for name, divergence in (("prefill", self.prefill), ("decode", self.decode)):
            ratio = divergence.perplexity_ratio.value
            if ratio_limit is not None and not ratio <= ratio_limit:
                found.append(f"the perplexity ratio in {name} is {ratio:.4f}, over {ratio_limit:g}")
        return found

    def check(self) -> None:
        """Raise `ValidationError` unless every limit holds."""
        if failures := self.failures():
            raise ValidationError(
                "The graph does not compute what the PyTorch model computes: "
                + "; ".join(failures)
                + ". An export with this result writes no bundle. If it is int8 that loses too "
                "much, raise --max-perplexity-ratio or use --quantize none."
            )

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers: the worse of prefill and decode on top, then each with its errors."""
        parts = {"prefill": self.prefill, "decode": self.decode}
        return {
            "max_logit_diff": self.max_logit_diff,
            "max_cache_diff": self.max_cache_diff,
            "greedy_match": self.greedy_match,
            "mean_kl": max(part.mean_kl.value for part in parts.values()),
            "perplexity_ratio": max(part.perplexity_ratio.value for part in parts.values()),
            "same_top_token": min(part.same_top_token.value for part in parts.values()),
            **{name: _figures(part) for name, part in parts.items()},
            "limits": asdict(self.limits),
        }


def _figures(divergence: Divergence) -> dict[str, Any]:
    estimates: dict[str, Estimate] = {
        "mean_kl": divergence.mean_kl,
        "perplexity": divergence.perplexity,
        "reference_perplexity": divergence.reference_perplexity,
        "perplexity_ratio": divergence.perplexity_ratio,
        "same_top_token": divergence.same_top_token,
    }
    return {"tokens": divergence.tokens, **{name: asdict(e) for name, e in estimates.items()}}


def summary(reports: Mapping[str, Report]) -> dict[str, Any]:
    """The reports as manifests and `--json` hold them: the portable graph's, the others within."""
    others = {name: report.as_dict() for name, report in reports.items() if name != "model"}
    return {**reports["model"].as_dict(), **others}
