"""A line chart as an SVG: a few series over a logarithmic x axis."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

Points = Sequence[tuple[float, float]]
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 640, 360, 60, 170, 40, 50
_COLOURS = ("#1f6feb", "#d29922", "#8b949e", "#a371f7", "#2ea043")


def draw(title: str, x_label: str, y_label: str, series: Mapping[str, Points]) -> str:
    """The chart. y goes from 0 to 100, or as far as the values do, by twenties; a series of one point is a mark alone."""
    every = [point for points in series.values() for point in points]
    low = 20.0 * math.floor(min(0.0, *(y for _, y in every)) / 20)
    high = 20.0 * math.ceil(max(100.0, *(y for _, y in every)) / 20)
    ticks = sorted({x for x, _ in every})
    span = math.log2(ticks[-1] / ticks[0]) or 1

    def at(x: float, y: float) -> tuple[float, float]:
        right = _LEFT + math.log2(x / ticks[0]) / span * (_WIDTH - _LEFT - _RIGHT)
        return round(right, 1), round(_TOP + (high - y) / (high - low) * (_HEIGHT - _TOP - _BOTTOM), 1)

    def text(x: float, y: float, said: str, anchor: str = "middle") -> str:
        return f'<text x="{x}" y="{y}" text-anchor="{anchor}">{escape(said)}</text>'

    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" font-size="12" fill="#57606a">',
             f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>', text(_LEFT, 22, title, "start")]  # fmt: skip
    for value in range(round(low), round(high) + 1, 20):
        left, y = at(ticks[0], value)
        parts.append(f'<path d="M{left} {y}H{_WIDTH - _RIGHT}" stroke="#d0d7de"/>{text(left - 8, y + 4, str(value), "end")}')
    bottom = _HEIGHT - _BOTTOM
    parts += [text(at(x, low)[0], bottom + 18, f"{x:g}") for x in ticks]
    parts += [text((_WIDTH - _RIGHT + _LEFT) / 2, bottom + 38, x_label), text(_LEFT, _TOP - 6, y_label, "end" if len(y_label) < 8 else "start")]
    for number, (name, points) in enumerate(series.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        places = [at(x, y) for x, y in points]
        if len(places) > 1:
            way = " ".join(f"{x},{y}" for x, y in places)
            parts.append(f'<polyline points="{way}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x}" cy="{y}" r="3.5" fill="{colour}"/>' for x, y in places]
        row = _TOP + 14 + 20 * number
        parts.append(f'<circle cx="{_WIDTH - _RIGHT + 20}" cy="{row - 4}" r="4" fill="{colour}"/>{text(_WIDTH - _RIGHT + 30, row, name, "start")}')
    return "\n".join([*parts, "</svg>\n"])
