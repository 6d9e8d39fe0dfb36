"""Histories drawn in braille: series that stand on their axes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from xenconsole.units import fit
from xenconsole.widgets.canvas import Canvas
from xenconsole.widgets.lines import Line, Span, line

LABEL = 17


def area(points: Sequence[float], width: int, rows: int, top: float, style: str, field: str = "") -> list[Line]:
    """The last points as filled columns, two a cell, newest at the right; `top` fills all rows."""
    canvas = Canvas(width, rows)
    wide, high = canvas.dots
    shown = points[-wide:] if wide else ()
    for at, value in enumerate(shown):
        filled = min(round(value / top * high), high) if top > 0 else 0
        if value > 0 and not filled:
            filled = 1
        for y in range(filled):
            canvas.dot(wide - len(shown) + at, high - 1 - y, style, 0, field)
    return canvas.lines()


def nice(top: float, base: float = 1.0) -> float:
    """The scale's end: the next 1, 2 or 5 times a power of ten, of the power of `base` (1024 for bytes) that the top is counted in."""
    unit = 1.0
    while base > 1 and unit * base <= top:
        unit *= base
    value, step = top / unit, 1.0
    if value <= 0:
        return 1.0
    while step < value:
        step *= 10
    while step / 10 >= value:
        step /= 10
    return unit * next(step * part for part in (0.1, 0.2, 0.5, 1.0) if step * part >= value * 0.999)


@dataclass(frozen=True)
class Series:
    """What a graph shows: its name, its style, how a value is written, what it is explained by. `base`: see `nice`."""

    name: str
    style: str
    unit: Callable[[float], str]
    field: str = ""
    base: float = 1.0


def graph(series: Series, points: Sequence[float], width: int, rows: int) -> list[Line]:
    """A series with its present value and its scale at the left."""
    room = max(width - LABEL - 1, 4)
    peak = max(points[-room * 2 :], default=0.0)
    top = nice(max(peak, 1.0), series.base) if peak else 0.0
    now = points[-1] if points else 0.0
    bold, value = "bold" if now else "dim", fit(series.unit(now), LABEL - len(series.name) - 1)
    head = line(Span(f"{series.name} ", "dim", series.field), Span(value, bold, series.field))
    scale = line(Span(fit(f"≤ {series.unit(top)}" if top else "", LABEL), "dim", series.field))
    labels = [head, *[line(" " * LABEL)] * max(rows - 2, 0), scale]
    drawn = area(points, room, rows, top, series.style, field=series.field)
    return [(*label, Span("│", "rule"), *body) for label, body in zip(labels, drawn, strict=False)]
