"""The figures of a validation as tables show them: label, value, limit, and whether it holds."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

from atom_edge.errors import ValidationError
from atom_edge.manifest import Figure, Measured, Validation

Row = tuple[str, str, str, str]


def figure_rows(validation: Validation, everything: bool) -> Iterator[Row]:
    """Label, value, limit and verdict of each figure; those of a graph follow a row of its name.

    Of a bundle that an older release wrote there are none.

    Args:
        validation: with the figures.
        everything: each figure, not the one of a kind that is nearest to its limit.
    """
    for measured in validation.measured:
        yield from _titles(f"graph '{measured.path}'", measured)
        if everything:
            yield from map(_row, measured.figures)
        else:
            yield from map(_row, _telling(measured.figures))
            yield _count(measured.figures)
    for measured in validation.left_out:
        yield from _titles(f"left out: graph '{measured.path}'", measured)
        yield from map(_row, measured.figures[-1:])


def _telling(figures: Sequence[Figure]) -> Iterator[Figure]:
    """Of each kind of figure the one nearest to its limit, and the share of same top tokens."""
    kinds: dict[str, list[Figure]] = {}
    for figure in figures:
        kinds.setdefault(figure.name.partition(".")[0], []).append(figure)
    for kind, alike in kinds.items():
        limited = [figure for figure in alike if figure.limit is not None]
        if limited:
            yield max(limited, key=_nearness)
        elif kind == "same_top_token":
            yield min(alike, key=lambda figure: figure.value or 0.0)


def _nearness(figure: Figure) -> float:
    """The value as a share of the limit; of what does not hold, infinity."""
    if not figure.holds or figure.value is None:
        return math.inf
    return figure.value / figure.limit if figure.limit else 0.0


def _count(figures: Sequence[Figure]) -> Row:
    checked = [figure for figure in figures if figure.limit is not None or not figure.holds]
    failed = sum(not figure.holds for figure in checked)
    verdict = "FAILED" if failed else "passed" if checked else ""
    return "  checks", f"{len(checked) - failed} of {len(checked)} hold", "", verdict


def _titles(title: str, measured: Measured) -> Iterator[Row]:
    yield title, "", "", ""
    if measured.scheme:
        yield f"  {measured.scheme}", "", "", ""


def _row(figure: Figure) -> Row:
    value = "not a finite number"
    if figure.value is not None:
        value = f"{figure.value:,.5g}"
        if figure.standard_error is not None:
            value = f"{figure.value:.5f} ± {figure.standard_error:.5f}"
    limit = "" if figure.limit is None else f"{figure.limit:.5g}"
    verdict = "FAILED" if not figure.holds else "passed" if limit else ""
    return f"  {figure.label}", value, limit, verdict


def figure_table(validation: Validation, title: str, everything: bool = False) -> Any:
    """The rows as a table; see `figure_rows`."""
    from rich.table import Table
    from rich.text import Text

    from atom_edge.printing import printable

    table = Table(
        "figure", "value", "limit", "", title=Text(printable(title)), title_justify="left"
    )
    for column in table.columns[1:3]:
        column.justify = "right"
    for label, value, limit, verdict in figure_rows(validation, everything):
        style = {"FAILED": "red", "passed": "green"}.get(verdict, "")
        table.add_row(Text(printable(label)), value, limit, Text(verdict, style))
    return table


@contextlib.contextmanager
def show_figures_of_failure(as_json: bool) -> Iterator[None]:
    """Print what was measured of a validation that fails, before its error is."""
    try:
        yield
    except ValidationError as error:
        if error.validation is not None and as_json:
            from atom_edge.border import format_json

            print(format_json({"error": str(error), "validation": error.validation}).decode())
        elif error.validation is not None:
            from rich.console import Console

            Console().print(figure_table(error.validation, "validation against PyTorch: FAILED"))
        raise
