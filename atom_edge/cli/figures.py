"""The figures of a validation as tables show them: label, value, limit, and whether it holds."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from atom_edge.errors import ValidationError
from atom_edge.manifest import Figure, Measured, Validation

Row = tuple[str, str, str, str]


def figure_rows(validation: Validation) -> Iterator[Row]:
    """Label, value, limit and verdict of each figure; those of a graph follow a row of its name.

    Of a bundle that an older release wrote there are none.
    """
    for measured in validation.measured:
        yield from _titles(f"graph '{measured.path}'", measured)
        yield from map(_row, measured.figures)
    for measured in validation.left_out:
        yield from _titles(f"left out: graph '{measured.path}'", measured)
        yield from map(_row, measured.figures[-1:])


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


def figure_table(validation: Validation, title: str) -> Any:
    """The rows as a table."""
    from rich.table import Table
    from rich.text import Text

    from atom_edge.printing import printable

    table = Table(
        "figure", "value", "limit", "", title=Text(printable(title)), title_justify="left"
    )
    for column in table.columns[1:3]:
        column.justify = "right"
    for label, value, limit, verdict in figure_rows(validation):
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
