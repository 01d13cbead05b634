"""One figure of an evaluation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Result:
    """A metric of a task.

    Attributes:
        task: name of the task, with its part where it is one of several.
        metric: name of the metric.
        value: shares are between 0 and 1.
        standard_error: of `value`; NaN where it has none.
        count: items, or tokens, that it was measured on.
    """

    task: str
    metric: str
    value: float
    standard_error: float
    count: int

    @classmethod
    def of_share(cls, task: str, metric: str, right: Sequence[bool]) -> Result:
        """The share of `right` and its standard error, as the harness computes it."""
        count = len(right)
        share = sum(right) / count
        error = math.sqrt(share * (1 - share) / (count - 1)) if count > 1 else math.nan
        return cls(task, metric, share, error, count)

    @property
    def is_share(self) -> bool:
        """Whether the value is usually written in percent."""
        return self.metric in ("acc", "acc_norm", "same top token")
