"""Bars as SVG: medians, with a line from the least to the most. No library is needed for that."""
# ruff: noqa: INP001

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from html import escape
from typing import Final

__all__ = ["chart"]

_WIDTH: Final = 820
_LEFT: Final = 150
_RIGHT: Final = 90
_TOP: Final = 64
_ROW: Final = 34
_OURS: Final = "#1f6feb"
_THEIRS: Final = "#8c959f"


def chart(values: Mapping[str, Sequence[float]], unit: str, subtitle: str) -> str:
    """A horizontal bar for each name, from the longest to the shortest; those of ours in another colour."""
    ordered = sorted(values, key=lambda name: -statistics.median(values[name]))
    most = max((max(values[name]) for name in ordered), default=1.0) or 1.0
    scale = (_WIDTH - _LEFT - _RIGHT) / most
    height = _TOP + _ROW * len(ordered) + 16
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif">',
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="16" y="26" font-size="17" font-weight="bold">{escape(unit)}</text>',
        f'<text x="16" y="46" font-size="11" fill="#57606a">{escape(subtitle)}</text>',
    ]
    for number, name in enumerate(ordered):
        middle, least, largest = statistics.median(values[name]), min(values[name]), max(values[name])
        top = _TOP + number * _ROW
        line = top + 11
        end = _LEFT + middle * scale
        colour = _OURS if name.startswith("trips") else _THEIRS
        lines += [
            f'<text x="{_LEFT - 10}" y="{top + 16}" font-size="13" text-anchor="end">{escape(name)}</text>',
            f'<rect x="{_LEFT}" y="{top}" width="{middle * scale:.1f}" height="22" fill="{colour}"/>',
            f'<path d="M {_LEFT + least * scale:.1f} {line} H {_LEFT + largest * scale:.1f}" stroke="#24292f"/>',
            f'<text x="{max(end, _LEFT + largest * scale) + 8:.1f}" y="{top + 16}" font-size="12">{middle:,.0f}</text>',
        ]
    return "\n".join([*lines, "</svg>\n"])
