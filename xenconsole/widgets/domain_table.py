"""The domain table: one line-API widget that formats only the rows on screen and repaints only those that changed.

The cursor and the marks are domain IDs, so nothing a guest or the scheduler does can move a command to another domain. The
order is kept while a dialog is open and renewed at most once a second of the engine's time when the sorting column moves.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from emulator.control.views import DomainView, Overview
from xenconsole.rates import NO_RATES, DomainRates, Rates
from xenconsole.units import fit
from xenconsole.widgets.columns import BY_KEY, SORTABLE, Layout, Row, arrange, cells

RESORT_NS = 1_000_000_000

Drawn = tuple[bool, bool, str, tuple[tuple[str, str], ...]]
"""What decides how a line looks: cursor, marked, news, cells."""


class DomainTable(ScrollView, can_focus=True):
    """Rows of domains; posts Chosen on Enter or a double click, Moved when the cursor goes to another domain."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "table--header",
        "table--sorted",
        "table--cursor",
        "table--text",
        "table--name",
        "table--dim",
        "table--running",
        "table--blocked",
        "table--paused",
        "table--down",
        "table--crashed",
        "table--graph",
        "table--mark",
        "table--bar",
        "table--news",
    }
    DEFAULT_CSS = """
    DomainTable {
        background: $background; color: $foreground; scrollbar-size-vertical: 1; overflow-x: hidden;
        &:focus { background-tint: transparent 0%; }
        & > .table--header { color: $dim; }
        & > .table--sorted { color: $primary; text-style: bold; }
        & > .table--cursor { background: $cursor-row; }
        & > .table--text { color: $foreground; }
        & > .table--name { color: $foreground; text-style: bold; }
        & > .table--dim { color: $dim; }
        & > .table--running { color: $state-running; text-style: bold; }
        & > .table--blocked { color: $state-blocked; }
        & > .table--paused { color: $state-paused; text-style: bold; }
        & > .table--down { color: $state-down; }
        & > .table--crashed { color: $state-crashed; text-style: bold; }
        & > .table--graph { color: $graph; }
        & > .table--mark { color: $mark; text-style: bold; }
        & > .table--bar { color: $primary; text-style: bold; }
        & > .table--news { color: $notice; text-style: bold; }
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "Up", show=False, id="table.up"),
        Binding("down,j", "move(1)", "Down", show=False, id="table.down"),
        Binding("pageup", "page(-1)", "Page up", show=False, id="table.page-up"),
        Binding("pagedown", "page(1)", "Page down", show=False, id="table.page-down"),
        Binding("home,g", "edge(-1)", "First", show=False, id="table.first"),
        Binding("end,G", "edge(1)", "Last", show=False, id="table.last"),
        Binding("enter", "choose", "Open", show=False, id="table.open"),
        Binding("space", "mark", "Mark", show=False, id="table.mark"),
    ]

    class Chosen(Message):
        """Open this domain."""

        def __init__(self, domid: int) -> None:
            super().__init__()
            self.domid = domid

    class Moved(Message):
        """The cursor is on another domain."""

        def __init__(self, domid: int) -> None:
            super().__init__()
            self.domid = domid

    def __init__(self, *, sort: str = "id", id: str | None = None) -> None:
        super().__init__(id=id)
        self.sort_key = sort if sort in BY_KEY else "id"
        self.descending = BY_KEY[self.sort_key].descending
        self.filter_text = ""
        self._pattern: re.Pattern[str] | None = None
        self._inverse = False
        self.cursor = -1
        self.marks: set[int] = set()
        self.hold = False
        self._views: dict[int, DomainView] = {}
        self._order: list[int] = []
        self._widest_id = 1
        self._sorted_at = -1
        self._uptime_ns = 0
        self._now_unix = 0.0
        self._rates: Rates | None = None
        self._news: Mapping[int, str] = {}
        self._layout_of = (0, 0)
        self._arranged = arrange(80)
        self._drawn: list[Drawn | None] = []
        self._styles: dict[str, Style] = {}

    # data

    def show(self, overview: Overview, rates: Rates, news: Mapping[int, str]) -> None:
        """Take a new overview and repaint the lines that differ."""
        self._views = {view.domid: view for view in overview.domains}
        self._widest_id = len(str(max(self._views, default=0)))
        self._rates, self._news = rates, news
        self._uptime_ns = overview.host.uptime_ns
        self._now_unix = overview.host.started_unix + overview.host.uptime_ns / 1e9
        self.marks &= self._views.keys()
        self._reorder()
        self._repaint()

    @property
    def order(self) -> tuple[int, ...]:
        """Domain IDs from top to bottom, those filtered out left out."""
        return tuple(self._order)

    @property
    def targets(self) -> tuple[int, ...]:
        """What a command acts on: the marked domains, else the one under the cursor."""
        marked = tuple(domid for domid in self._order if domid in self.marks)
        return marked or ((self.cursor,) if self.cursor >= 0 else ())

    def _rates_of(self, domid: int) -> DomainRates:
        return self._rates.of(domid) if self._rates is not None else NO_RATES

    def _row(self, domid: int) -> Row:
        history = self._rates.history(domid) if self._rates is not None else ()
        return Row(self._views[domid], self._rates_of(domid), history, self._now_unix, self._news.get(domid, ""))

    def _reorder(self, force: bool = False) -> None:
        known = set(self._order)
        same = known == {d for d, v in self._views.items() if self._matches(v)}
        stale = BY_KEY[self.sort_key].moving and not 0 <= self._uptime_ns - self._sorted_at < RESORT_NS
        if same and not force and (self.hold or not stale):
            return
        if self.hold and not force:  # a dialog is open: the rows keep their places, the gone leave and the new come last
            kept = [d for d in self._order if d in self._views]
            order = kept + [d for d, v in self._views.items() if d not in known and self._matches(v)]
        else:
            order = self._sorted()
            self._sorted_at = self._uptime_ns
        old = self._order
        self._order = order
        self._settle_cursor(old)
        size = Size(self.size.width, len(order) + 1)
        if size != self.virtual_size:
            self.virtual_size = size

    def _sorted(self) -> list[int]:
        column = BY_KEY[self.sort_key]
        rows = [self._row(domid) for domid, view in sorted(self._views.items()) if self._matches(view)]
        rows.sort(key=column.sort, reverse=self.descending)
        return [row.view.domid for row in rows]

    def _matches(self, view: DomainView) -> bool:
        if self._pattern is None:
            return True
        return bool(self._pattern.search(f"{view.domid} {view.name} {view.state}")) != self._inverse

    def _settle_cursor(self, old: list[int]) -> None:
        if self.cursor in self._views and self.cursor in self._order:
            return
        place = old.index(self.cursor) if self.cursor in old else 0
        gone, self.cursor = self.cursor, self._order[min(place, len(self._order) - 1)] if self._order else -1
        if self.cursor != gone:
            self.post_message(self.Moved(self.cursor))

    # what the user asks for

    def sort_by(self, key: str) -> None:
        """Sort by a column; the same one again turns the order round."""
        if key == self.sort_key:
            self.descending = not self.descending
        else:
            self.sort_key, self.descending = key, BY_KEY[key].descending
        self._reorder(force=True)
        self._repaint()
        self._scroll_to_cursor()

    def sort_next(self) -> None:
        """Sort by the next column on screen."""
        shown = [p.column.key for p in self._arranged.columns] or list(SORTABLE)
        place = shown.index(self.sort_key) + 1 if self.sort_key in shown else 0
        self.sort_by(shown[place % len(shown)])

    def set_filter(self, text: str) -> str:
        """Show only domains whose ID, name or state letters match the regular expression; `!` in front inverts. Returns what is
        wrong with the expression, in which case the last good one stays."""
        body = text.removeprefix("!")
        try:
            pattern = re.compile(body, re.IGNORECASE) if body else None
        except re.error as error:
            return f"no regular expression: {error}"
        self._pattern, self._inverse, self.filter_text = pattern, text.startswith("!"), text if body else ""
        self._reorder(force=True)
        self._repaint()
        return ""

    def move_to(self, domid: int) -> None:
        """Put the cursor on a domain and bring it into view."""
        if domid == self.cursor or domid not in self._order:
            return
        self.cursor = domid
        self._scroll_to_cursor()
        self._repaint()
        self.post_message(self.Moved(domid))

    def step(self, by: int) -> None:
        if self._order:
            place = self._order.index(self.cursor) if self.cursor in self._order else 0
            self.move_to(self._order[min(max(place + by, 0), len(self._order) - 1)])

    def action_move(self, by: int) -> None:
        self.step(by)

    def action_page(self, by: int) -> None:
        self.step(by * max(self.size.height - 2, 1))

    def action_edge(self, side: int) -> None:
        self.step(side * len(self._order))

    def action_choose(self) -> None:
        if self.cursor >= 0:
            self.post_message(self.Chosen(self.cursor))

    def action_mark(self) -> None:
        if self.cursor >= 0:
            self.marks ^= {self.cursor}
            self.step(1)
            self._repaint()

    def clear_marks(self) -> bool:
        """Take all marks away; says whether there were any."""
        had = bool(self.marks)
        self.marks.clear()
        self._repaint()
        return had

    # drawing

    def _scroll_to_cursor(self) -> None:
        if self.cursor not in self._order or self.size.height < 2:
            return
        place, top, rows = self._order.index(self.cursor), self.scroll_offset.y, self.size.height - 1
        if place < top:
            self.scroll_to(y=place, animate=False, immediate=True)
        elif place >= top + rows:
            self.scroll_to(y=place - rows + 1, animate=False, immediate=True)

    def _columns(self) -> Layout:
        wanted = (self.size.width - 1, self._widest_id)  # a cell is kept free for the scrollbar
        if wanted != self._layout_of:
            self._layout_of = wanted
            self._arranged = arrange(*wanted)
        return self._arranged

    def _look(self, y: int) -> Drawn | None:
        place = self.scroll_offset.y + y - 1
        if not 0 <= place < len(self._order):
            return None
        domid = self._order[place]
        if domid not in self._views:
            return None
        row = self._row(domid)
        return (domid == self.cursor, domid in self.marks, row.news, cells(row, self._columns()))

    def _repaint(self) -> None:
        """Mark the lines dirty whose look changed; line 0 is the header and changes with sorting and size only."""
        height = self.size.height
        looks = [self._look(y) for y in range(1, height)]
        header: Drawn = (self.descending, False, self.sort_key, (("", self.filter_text), ("", str(len(self._order)))))
        wanted = [header, *looks]
        if len(wanted) != len(self._drawn):
            self._drawn = wanted
            self.refresh()
            return
        dirty = [Region(0, y, self.size.width, 1) for y, look in enumerate(wanted) if look != self._drawn[y]]
        self._drawn = wanted
        if dirty:
            self.refresh(*dirty)

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        super().watch_scroll_y(old_value, new_value)
        self._drawn = []
        self._repaint()

    def on_resize(self, event: events.Resize) -> None:
        self.virtual_size = Size(event.size.width, len(self._order) + 1)
        self._drawn = []
        self._repaint()
        self._scroll_to_cursor()

    def notify_style_update(self) -> None:
        super().notify_style_update()
        self._styles.clear()

    def _style(self, name: str) -> Style:
        if name not in self._styles:
            self._styles[name] = self.get_component_rich_style(f"table--{name}", partial=name != "cursor")
        return self._styles[name]

    def render_line(self, y: int) -> Strip:
        width = self.size.width
        base = self.rich_style
        if y == 0:
            return Strip(self._header()).adjust_cell_length(width, base).apply_style(base)
        look = self._look(y)
        if look is None:
            text = "  no domain matches" if y == 1 and self._pattern is not None and not self._order else ""
            return Strip([Segment(text, self._style("dim"))]).adjust_cell_length(width, base).apply_style(base)
        at_cursor, marked, news, parts = look
        segments = [
            Segment("▌" if at_cursor else " ", self._style("bar")),
            Segment("*" if marked else "♪" if news == "bell" else "•" if news else " ", self._style("mark" if marked else "news")),
        ]
        gap = " " * self._columns().gap
        for style, text in parts:
            segments.append(Segment(text, self._style(style)))
            segments.append(Segment(gap))
        if at_cursor:
            color = self._style("cursor").bgcolor
            if color is None or color.is_default:  # a theme without a colour for it: the row is shown reversed
                segments = [Segment(segment.text, Style(reverse=True)) for segment in segments]
                base = base + Style(reverse=True)
            else:
                base = base + Style(bgcolor=color)
        return Strip(segments).adjust_cell_length(width, base).apply_style(base)

    def _header(self) -> list[Segment]:
        layout = self._columns()
        segments = [Segment("  ")]
        for placed in layout.columns:
            column = placed.column
            title = column.long_title if layout.long else column.title
            chosen = column.key == self.sort_key
            if chosen:
                arrow = "▾" if self.descending else "▴"
                title = f"{arrow}{title}" if column.right else f"{title}{arrow}"
            style = self._style("sorted" if chosen else "header")
            segments.append(Segment(fit(title, placed.width, right=column.right), style))
            segments.append(Segment(" " * layout.gap))
        return segments

    # the mouse

    def on_click(self, event: events.Click) -> None:
        if event.y == 0:
            column = self._columns().at(event.x)
            if column is not None:
                self.sort_by(column.key)
            return
        place = self.scroll_offset.y + event.y - 1
        if not 0 <= place < len(self._order):
            return
        domid = self._order[place]
        self.move_to(domid)
        if event.x < 2:
            self.marks ^= {domid}
            self._repaint()
        elif event.chain == 2:
            self.post_message(self.Chosen(domid))
