"""Lines of text in styles: what panes are built of, without an app.

A line is a tuple of spans (text, style, field). A style is a few words: attributes (`bold`, `reverse`, `underline`, `italic`,
`strike`) and at most one theme variable as foreground (`dim`, `changed`, `state-running`, …); `on-NAME` takes a variable as
background. A span with a `field` can be explained (`xenconsole.explain`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from rich.cells import cell_len, set_cell_size
from rich.style import Style
from textual.color import Color, ColorParseError

from xenconsole.units import printable

ATTRIBUTES = frozenset({"bold", "reverse", "underline", "italic", "strike"})


class Span(NamedTuple):
    """A piece of a line in one style. `field` is a key of the table in `xenconsole.explain`, empty for none."""

    text: str
    style: str = ""
    field: str = ""


Line = tuple[Span, ...]
EMPTY: Line = ()


def line(*parts: str | Span | tuple[str, str]) -> Line:
    """A line of plain strings and spans; empty ones are dropped."""
    spans = (part if isinstance(part, Span) else Span(part) if isinstance(part, str) else Span(*part) for part in parts)
    return tuple(span for span in spans if span.text)


def width_of(spans: Iterable[Span]) -> int:
    """Cells that the spans take."""
    return sum(cell_len(span.text) for span in spans)


def cut(spans: Line, width: int) -> Line:
    """The line within `width` cells, an ellipsis at its end where it was cut."""
    if width_of(spans) <= width:
        return spans
    if width <= 0:
        return EMPTY
    out: list[Span] = []
    room = width - 1
    for span in spans:
        length = cell_len(span.text)
        if length > room:
            out.append(span._replace(text=set_cell_size(span.text, room) + "…"))
            return tuple(out)
        out.append(span)
        room -= length
    return tuple(out)


def pad(spans: Line, width: int) -> Line:
    """The line in exactly `width` cells."""
    short = width - width_of(spans)
    return (*spans, Span(" " * short)) if short > 0 else cut(spans, width)


def beside(left: Sequence[Line], right: Sequence[Line], width: int, gap: int = 2) -> list[Line]:
    """Two columns as one: `left` in `width` cells, then `gap` blanks, then `right`."""
    out: list[Line] = []
    for row in range(max(len(left), len(right))):
        first = left[row] if row < len(left) else EMPTY
        second = right[row] if row < len(right) else EMPTY
        out.append((*pad(first, width), Span(" " * gap), *second) if second else first)
    return out


def plain(lines: Iterable[Line]) -> str:
    """The lines as bare text, as a person without colours reads them."""
    return "\n".join("".join(span.text for span in spans).rstrip() for spans in lines)


def harmless(spans: Line) -> Line:
    """The line without characters that could steer a terminal: much of what panes show was written by a guest."""
    if all(span.text.isprintable() for span in spans):
        return spans
    return tuple(span._replace(text=printable(span.text)) for span in spans)


def resolve(name: str, variables: dict[str, str]) -> Style:
    """The Rich style of a span's style words under these theme variables; an unknown variable leaves the default colour."""
    attributes: dict[str, bool] = {}
    front: Color | None = None
    back: Color | None = None
    for word in name.split():
        if word in ATTRIBUTES:
            attributes[word] = True
            continue
        value = variables.get(word.removeprefix("on-") if word.startswith("on-") else word, "")
        try:
            colour = Color.parse(value) if value else None
        except ColorParseError:
            colour = None
        if word.startswith("on-"):
            back = colour or back
        else:
            front = colour or front
    return Style(
        color=front.rich_color if front else None,
        bgcolor=back.rich_color if back else None,
        bold=attributes.get("bold"),
        reverse=attributes.get("reverse"),
        underline=attributes.get("underline"),
        italic=attributes.get("italic"),
        strike=attributes.get("strike"),
    )
