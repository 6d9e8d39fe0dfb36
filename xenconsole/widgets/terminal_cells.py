"""From cells to what Rich and Textual draw: styles, columns, words. Pure functions of the terminal view."""

from __future__ import annotations

from functools import lru_cache

from rich.cells import cell_len
from rich.color import Color, ColorType
from rich.color_triplet import ColorTriplet
from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip

from xenconsole.terminal.core import RGB, CellStyle, Line, line_text


def _color(color: int | None) -> Color | None:
    if color is None:
        return None
    if color & RGB:
        triplet = ColorTriplet(color >> 16 & 0xFF, color >> 8 & 0xFF, color & 0xFF)
        return Color(triplet.hex, ColorType.TRUECOLOR, triplet=triplet)
    return Color.from_ansi(color)


@lru_cache(maxsize=4096)
def rich_style(style: CellStyle) -> Style:
    """A cell's style for Rich; the terminal's own colours stay open."""
    return Style(
        color=_color(style.fg),
        bgcolor=_color(style.bg),
        bold=style.bold or None,
        dim=style.dim or None,
        italic=style.italic or None,
        underline=style.underline or None,
        blink=style.blink or None,
        reverse=style.reverse or None,
        strike=style.strike or None,
    )


def columns_text(line: Line, start: int, end: int) -> str:
    """The characters of a line whose first column lies in [start, end), marks with their base."""
    found: list[str] = []
    column = 0
    for char in line_text(line):
        width = cell_len(char)
        if (start <= column < end) if width else (found and start < column <= end):
            found.append(char)
        column += width
    return "".join(found)


def restyled(strip: Strip, start: int, end: int, style: Style) -> Strip:
    """Columns [start, end) with `style` on top of their own."""
    middle = Strip([Segment(text, (own or Style.null()) + style) for text, own, _ in strip.crop(start, end)])
    return Strip.join([strip.crop(0, start), middle, strip.crop(end)])


def word_at(line: Line, x: int) -> tuple[int, int]:
    """Columns of the word at column x: what stands between blanks."""
    columns = "".join(char * cell_len(char) for char in line_text(line))
    if x >= len(columns) or columns[x].isspace():
        return x, x + 1
    start = max(columns.rfind(" ", 0, x) + 1, 0)
    end = columns.find(" ", x)
    return start, len(columns) if end < 0 else end
