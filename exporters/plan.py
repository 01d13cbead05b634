"""The steps of an export or a validation in order, and how long each takes beside the others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from atom_edge.exporters.graphs import NATIVE, Form
from atom_edge.manifest import Effort

OPEN, WRITE, SPEED = "open the snapshot", "write the bundle", "measure speed"
_OPEN, _TRACE, _MAKE, _WRITE, _SPEED = 4, 16, 8, 1, 4
# Of the int8 graphs of a model of 135 million weights, in seconds.
_CHECKS: dict[Effort, dict[str, float]] = {
    "quick": {
        "prompts": 3,
        "whole windows": 12,
        "lengths": 6,
        "continued": 6,
        "batches": 12,
        "steps": 5,
        "greedy text": 8,
        "prefill": 12,
        "decode": 20,
    }
}
_CHECKS["full"] = _CHECKS["quick"] | {"prefill": 150, "decode": 320}

Plan = Sequence[tuple[str, float]]


def making(form: Form) -> str:
    """The step that makes the graphs of a form."""
    return f"make the {form.label}"


def validating(form: Form, check: str) -> str:
    """The step of a validation that runs one of its checks."""
    return f"validate the {form.label}: {check}"


def plan_of_export(forms: Sequence[Form], effort: Effort) -> Plan:
    """The steps of an export where the first candidate of each of `forms` holds."""
    steps: list[tuple[str, float]] = [(OPEN, _OPEN)]
    trace = _TRACE
    for form in forms:
        steps.append((making(form), _MAKE if form is NATIVE else _MAKE + trace))
        trace = trace if form is NATIVE else 0  # the model is traced once
        steps += _checks(form, effort)
    return [*steps, (WRITE, _WRITE), (SPEED, _SPEED)]


def plan_of_validation(forms: Iterable[Form], effort: Effort) -> Plan:
    """The steps of the validation of a finished bundle."""
    return [(OPEN, _OPEN), *(step for form in forms for step in _checks(form, effort))]


def _checks(form: Form, effort: Effort) -> Iterator[tuple[str, float]]:
    for check, seconds in _CHECKS[effort].items():
        yield validating(form, check), seconds
