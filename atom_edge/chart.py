"""Bar charts as SVG, for pictures that need no plotting library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

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


def _row(bar: Bar, top: float, scale: float) -> str:
    length, middle = bar.value * scale, top + _ROW / 2
    color = "#2da44e" if bar.highlighted else "#8c959f"
    low, high = _LEFT + length - bar.error * scale, _LEFT + length + bar.error * scale
    number = f"{bar.value:,.0f}" if bar.value >= 100 else f"{bar.value:.3g}"
    return (
        f'<text x="{_LEFT - 8}" y="{middle + 4}" text-anchor="end">{escape(bar.label)}</text>'
        f'<rect x="{_LEFT}" y="{top + 4}" width="{length:.1f}" height="{_ROW - 8}" rx="2" '
        f'fill="{color}"/>'
        f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{middle}" y2="{middle}" stroke="#24292f"/>'
        f'<text x="{high + 8:.1f}" y="{middle + 4}">{number}</text>'
    )
