"""The panes of the domain screen: line-API widgets that repaint only the lines that changed.

`build` makes a pane's lines from its view and its size and is a pure matter of text, so a test needs no app.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import ClassVar, overload

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Region, Size
from textual.markup import escape
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget

from xenconsole.text_filter import TextFilter
from xenconsole.units import printable
from xenconsole.widgets.lines import EMPTY, Line, Span, cut, harmless, pad, resolve, width_of


class Pane(Widget, can_focus=True):
    """A framed pane of lines with its own scrolling, and explanations of its fields.

    Subclasses give `build`; whoever holds the view calls `rebuild` after it changed. The first `pinned` lines stay on top
    while the rest scrolls. With `follows` the pane stays at its end until somebody scrolls up.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j,down", "step(1)", "down", show=False, id="pane.down"),
        Binding("k,up", "step(-1)", "up", show=False, id="pane.up"),
        Binding("pagedown", "page(1)", "page down", show=False, id="pane.page-down"),
        Binding("pageup", "page(-1)", "page up", show=False, id="pane.page-up"),
        Binding("g,home", "edge(-1)", "top", show=False, id="pane.top"),
        Binding("G,end", "edge(1)", "bottom", show=False, id="pane.bottom"),
        Binding("i", "explain", "explain", show=False, id="pane.explain"),
    ]

    pinned = 0
    follows = False
    keys = ""
    """What the lower border says of this pane's own keys."""

    class Explain(Message):
        """A field was chosen to be explained; an empty one ends the explanations."""

        def __init__(self, field: str) -> None:
            super().__init__()
            self.field = field

    def __init__(self, title: str = "", *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self.lines: Sequence[Line] = []
        self.top = 0
        self.at_end = self.follows
        self.explaining = False
        self._chosen = 0
        self._painted: list[Line] = []
        self._styles_by_name: dict[str, Style] = {}
        self.place = ""
        self._title = self._subtitle = ""
        self.set_title(title)

    def build(self, width: int, height: int) -> Sequence[Line]:
        """The lines for a pane of this many cells, as many as there are (they scroll)."""
        raise NotImplementedError

    # content

    @property
    def body_height(self) -> int:
        return max(self.content_size.height - self.pinned, 1)

    @property
    def _limit(self) -> int:
        return max(len(self.lines) - self.pinned - self.body_height, 0)

    def rebuild(self) -> None:
        """Build the lines anew and repaint those that changed."""
        width, height = self.content_size
        if width <= 0 or height <= 0:
            return
        before = self._painted
        built = self.build(width, height)
        self.lines = built if isinstance(built, Rows) else list(built)
        self.top = self._limit if self.at_end else min(self.top, self._limit)
        self._repaint(before)

    def shown(self) -> list[Line]:
        """What stands in the pane now, a line a row, without a character that could steer the terminal."""
        height = self.content_size.height
        body = [*self.lines[: self.pinned], *self.lines[self.pinned + self.top : self.top + height]]
        return [harmless(spans) for spans in body[:height]] + [EMPTY] * (height - len(body))

    def _repaint(self, before: list[Line]) -> None:
        width, height = self.content_size
        after = self._painted = self.shown()
        if self.explaining or len(before) != len(after):
            self.refresh()
        else:
            changed = [Region(0, y, width, 1) for y in range(height) if before[y] != after[y]]
            if changed:
                self.refresh(*changed)
        total = len(self.lines) - self.pinned
        own = f"{self.top + 1}–{min(self.top + self.body_height, total)} of {total}" if self._limit else self.subtitle()
        subtitle = " · ".join(part for part in (self.place, own, self.keys) if part)
        if self._subtitle != subtitle:
            self._subtitle = subtitle
            self.border_subtitle = escape(printable(subtitle))

    def set_title(self, title: str) -> None:
        """The text in the upper border, taken as it is: what a guest chose may stand in it."""
        if title != self._title:
            self._title = title
            self.border_title = escape(printable(title))

    def set_place(self, place: str) -> None:
        """Where the pane stands among its tab's, shown while it is alone on the screen."""
        if place != self.place:
            self.place = place
            self.rebuild()

    def subtitle(self) -> str:
        """What stands in the lower border while nothing is scrolled."""
        return ""

    def scroll_lines(self, delta: int) -> None:
        """Scroll by so many lines within the content."""
        before = self._painted
        self.top = min(max(self.top + delta, 0), self._limit)
        self.at_end = self.follows and self.top == self._limit
        self._repaint(before)

    def on_resize(self, event: events.Resize) -> None:
        self.rebuild()
        self.refresh()

    def on_show(self) -> None:
        self.rebuild()

    # keys

    def action_step(self, delta: int) -> None:
        self.scroll_lines(delta)

    def action_page(self, delta: int) -> None:
        self.scroll_lines(delta * max(self.body_height - 1, 1))

    def action_edge(self, side: int) -> None:
        self.scroll_lines(side * len(self.lines))

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        self.scroll_lines(3)
        event.stop()

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        self.scroll_lines(-3)
        event.stop()

    # explanations

    def fields(self) -> list[tuple[int, int, int, str]]:
        """Row, column, width and key of every visible field that can be explained, in reading order."""
        found: list[tuple[int, int, int, str]] = []
        for row, spans in enumerate(self._painted):
            column = 0
            for key, run in groupby(spans, key=lambda span: span.field):
                length = width_of(run)
                if key:
                    found.append((row, column, length, key))
                column += length
        return found

    def action_explain(self) -> None:
        """Begin or end to explain fields."""
        self.explaining = not self.explaining and bool(self.fields())
        self._explain(self._chosen)

    def stop_explaining(self) -> None:
        """Leave the explanations without a message."""
        self.explaining = False
        self.refresh()

    def _explain(self, index: int) -> None:
        found = self.fields()
        self._chosen = min(max(index, 0), max(len(found) - 1, 0))
        self.post_message(self.Explain(found[self._chosen][3] if self.explaining and found else ""))
        self.refresh()

    def on_key(self, event: events.Key) -> None:
        if not self.explaining:
            return
        found = self.fields()
        self._chosen = min(self._chosen, len(found) - 1)
        if event.key == "escape" or not found:
            self.action_explain()
        elif event.key in ("right", "tab"):
            self._explain(self._chosen + 1)
        elif event.key in ("left", "shift+tab"):
            self._explain(self._chosen - 1)
        elif event.key in ("down", "up", "j", "k"):
            row, column, _, _ = found[self._chosen]
            down = event.key in ("down", "j")
            rows = sorted({r for r, *_ in found if (r > row if down else r < row)}, reverse=not down)
            if rows:
                near = min((i for i, f in enumerate(found) if f[0] == rows[0]), key=lambda i: abs(found[i][1] - column))
                self._explain(near)
        else:
            return
        event.stop()
        event.prevent_default()

    def on_click(self, event: events.Click) -> None:
        offset = event.get_content_offset(self)
        if offset is None:
            return
        if self.clicked(offset.y + (self.top if offset.y >= self.pinned else 0)):
            return
        for index, (row, column, length, _) in enumerate(self.fields()):
            if row == offset.y and column <= offset.x < column + length:
                self.explaining = True
                self._explain(index)

    def clicked(self, index: int) -> bool:
        """A click on line `index`; True when the pane took it (the others ask for an explanation)."""
        return False

    # painting

    def notify_style_update(self) -> None:
        self._styles_by_name = {}
        super().notify_style_update()

    def _style(self, name: str) -> Style:
        style = self._styles_by_name.get(name)
        if style is None:
            style = self._styles_by_name[name] = resolve(name, self.app.theme_variables)
        return style

    def render_line(self, y: int) -> Strip:
        width = self.content_size.width
        spans = self._painted[y] if y < len(self._painted) else EMPTY
        chosen = range(0)
        if self.explaining:
            found = self.fields()
            if found:
                row, start, length, _ = found[min(self._chosen, len(found) - 1)]
                chosen = range(start, start + length) if row == y else chosen
        segments, column = [], 0
        for span in cut(spans, width):
            style = self._style(span.style)
            if column in chosen:
                style += Style(reverse=True)
            segments.append(Segment(span.text, style))
            column += cell_len(span.text)
        return Strip(segments, column).extend_cell_length(width).apply_style(self.rich_style)

    def get_content_width(self, container: Size, viewport: Size) -> int:
        return container.width

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        return len(self.build(width, container.height))


class FilteredPane(Pane):
    """A pane whose lines `/` narrows. Subclasses show what `filter` lets through."""

    filter_hint = ""
    """What the filter's line says it looks at."""

    def __init__(self, title: str = "", *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(title, id=id, classes=classes)
        self.filter = TextFilter()

    def set_filter(self, text: str) -> str:
        """Keep what matches. Returns what is wrong with the text: nothing, here."""
        self.filter = TextFilter(text)
        self.filtered()
        return ""

    def filtered(self) -> None:
        """Another filter is set: show what it lets through."""
        self.rebuild()


class Rows(Sequence[Line]):
    """Lines of which only those that are looked at are made: a head, then `count` rows by `make`. For lists of thousands."""

    def __init__(self, head: Sequence[Line], count: int, make: Callable[[int], Line]) -> None:
        self._head, self._count, self._make = list(head), count, make

    def __len__(self) -> int:
        return len(self._head) + self._count

    @overload
    def __getitem__(self, at: int) -> Line: ...
    @overload
    def __getitem__(self, at: slice) -> list[Line]: ...
    def __getitem__(self, at: int | slice) -> Line | list[Line]:
        if isinstance(at, slice):
            return [self[one] for one in range(*at.indices(len(self)))]
        if not 0 <= at < len(self):
            raise IndexError(at)
        return self._head[at] if at < len(self._head) else self._make(at - len(self._head))


class ListPane(Pane):
    """A pane with a chosen row. Rows are lines after the pinned ones; `cursor` is a row's index."""

    pinned = 1

    class Chosen(Message):
        """The cursor came to another row."""

        def __init__(self, pane: ListPane, row: int) -> None:
            super().__init__()
            self.pane = pane
            self.row = row

    def __init__(self, title: str = "", *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(title, id=id, classes=classes)
        self.cursor = 0

    def rows(self) -> int:
        """How many rows there are now."""
        return max(len(self.lines) - self.pinned, 0)

    def choose(self, row: int) -> None:
        """Put the cursor on a row and scroll it into view."""
        row = min(max(row, 0), max(self.rows() - 1, 0))
        if row == self.cursor:
            return
        self.cursor = row
        height = self.body_height
        self.top = min(max(self.top, row - height + 1), row)
        self.rebuild()
        self.post_message(self.Chosen(self, row))

    def marked(self, row: int, spans: Line, width: int) -> Line:
        """The line of a row with the cursor's mark, which is seen without colour too."""
        if row != self.cursor:
            return (Span("  "), *spans)
        return tuple(span._replace(style=f"{span.style} on-cursor-row".strip()) for span in pad((Span("▸ ", "bold"), *spans), width))

    def action_step(self, delta: int) -> None:
        self.choose(self.cursor + delta)

    def action_page(self, delta: int) -> None:
        self.choose(self.cursor + delta * max(self.body_height - 1, 1))

    def action_edge(self, side: int) -> None:
        self.choose(0 if side < 0 else self.rows() - 1)

    def clicked(self, index: int) -> bool:
        row = index - self.pinned
        if 0 <= row < self.rows() and row != self.cursor:
            self.choose(row)
            return True
        return False
