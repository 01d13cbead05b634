"""Bar charts: as SVG without a plotting library, and as PNG with one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from atom_edge.errors import MissingExtraError
from atom_edge.staging import staged_file, write_file

_WIDTH, _ROW, _LEFT, _RIGHT, _TOP = 760, 26, 250, 90, 44


@dataclass(frozen=True)
class Bar:
    """One bar: its label, its length, and half of what its error line spans."""

    label: str
    value: float
    error: float = 0.0
    highlighted: bool = False


def bar_chart(title: str, unit: str, bars: Sequence[Bar]) -> str:
    """An SVG picture of horizontal bars, readable on light and on dark pages."""
    longest = max((bar.value + bar.error for bar in bars), default=0) or 1
    scale = (_WIDTH - _LEFT - _RIGHT) / longest
    height = _TOP + _ROW * len(bars) + 12
    rows = [_row(bar, _TOP + _ROW * index, scale) for index, bar in enumerate(bars)]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
            f'width="{_WIDTH}" height="{height}" font-family="sans-serif" font-size="13" '
            'fill="#57606a">',
            f'<text x="12" y="24" font-size="15">{escape(title)} ({escape(unit)})</text>',
            *rows,
            "</svg>\n",
        ]
    )


def draw_chart(title: str, unit: str, bars: Sequence[Bar], path: Path) -> None:
    """Write the picture of horizontal bars to a file: PNG where its name ends in `.png`, else SVG.

    Raises:
        MissingExtraError: for a PNG, without the package that draws it.
    """
    if path.suffix != ".png":
        write_file(path, bar_chart(title, unit, bars).encode())
        return
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("A picture as PNG", "picture", "matplotlib") from error
    figure = Figure(figsize=(7.6, 0.6 + 0.26 * len(bars)), dpi=150, layout="constrained")
    axes = figure.subplots()
    drawn = axes.barh(
        [bar.label for bar in bars],
        [bar.value for bar in bars],
        xerr=[bar.error for bar in bars],
        color=[_color(bar) for bar in bars],
    )
    axes.bar_label(drawn, [_number(bar) for bar in bars], padding=4)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set_title(f"{title} ({unit})", loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    with staged_file(path) as file:
        figure.savefig(file, format="png")


def _color(bar: Bar) -> str:
    return "#2da44e" if bar.highlighted else "#8c959f"


def _number(bar: Bar) -> str:
    return f"{bar.value:,.0f}" if bar.value >= 100 else f"{bar.value:.3g}"


def _row(bar: Bar, top: float, scale: float) -> str:
    length, middle = bar.value * scale, top + _ROW / 2
    low, high = _LEFT + length - bar.error * scale, _LEFT + length + bar.error * scale
    return (
        f'<text x="{_LEFT - 8}" y="{middle + 4}" text-anchor="end">{escape(bar.label)}</text>'
        f'<rect x="{_LEFT}" y="{top + 4}" width="{length:.1f}" height="{_ROW - 8}" rx="2" '
        f'fill="{_color(bar)}"/>'
        f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{middle}" y2="{middle}" stroke="#24292f"/>'
        f'<text x="{high + 8:.1f}" y="{middle + 4}">{_number(bar)}</text>'
    )
