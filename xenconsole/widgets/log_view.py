"""A log: the newest lines of a journal, drawn by the line, following the end until someone scrolls up."""

from __future__ import annotations

import time
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.scroll_view import ScrollView
from textual.strip import Strip

from xenconsole.journal import Entry, Journal
from xenconsole.units import fit, printable

MARKS = {"error": "✗", "warning": "!", "ok": "✓"}


class LogView(ScrollView, can_focus=True):
    """Shows `journal`; call `sync()` after it grew. `pattern` keeps the lines that contain it."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "log--time",
        "log--source",
        "log--text",
        "log--error",
        "log--warning",
        "log--ok",
        "log--debug",
    }
    DEFAULT_CSS = """
    LogView {
        background: $background; color: $foreground; scrollbar-size-vertical: 1; overflow-x: hidden;
        &:focus { background-tint: transparent 0%; }
        & > .log--time { color: $dim; }
        & > .log--source { color: $primary; }
        & > .log--text { color: $foreground; }
        & > .log--debug { color: $dim; }
        & > .log--error { color: $trouble; text-style: bold; }
        & > .log--warning { color: $notice; }
        & > .log--ok { color: $ok; }
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "scroll_up", "Up", show=False, id="log.up"),
        Binding("down,j", "scroll_down", "Down", show=False, id="log.down"),
        Binding("pageup", "page_up", "Page up", show=False, id="log.page-up"),
        Binding("pagedown", "page_down", "Page down", show=False, id="log.page-down"),
        Binding("home,g", "scroll_home", "First", show=False, id="log.first"),
        Binding("end,G", "scroll_end", "Last", show=False, id="log.last"),
    ]

    def __init__(self, journal: Journal, *, empty: str, source_width: int = 10, utc: bool = False, id: str | None = None) -> None:
        super().__init__(id=id)
        self.journal = journal
        self._empty = empty
        self._source_width = source_width
        self._utc = utc
        self._pattern = ""
        self._shown: list[Entry] = []
        self._taken = -1
        self._styles: dict[str, Style] = {}

    def on_mount(self) -> None:
        self.sync()

    def set_pattern(self, text: str) -> None:
        """Show only lines that contain the text."""
        self._pattern, self._taken = text.lower(), -1
        self.sync()

    def sync(self) -> None:
        """Draw what came since the last time."""
        if self.journal.added == self._taken:
            return
        following = self.scroll_offset.y >= self.max_scroll_y
        self._taken = self.journal.added
        pattern = self._pattern
        self._shown = [e for e in self.journal.entries if not pattern or pattern in f"{e.source} {e.text}".lower()]
        self.virtual_size = Size(self.size.width, len(self._shown))
        if following:
            self.scroll_to(y=len(self._shown), animate=False, immediate=True)
        self.refresh()

    def on_resize(self, event: events.Resize) -> None:
        self.virtual_size = Size(event.size.width, len(self._shown))
        self.scroll_to(y=len(self._shown), animate=False)

    def notify_style_update(self) -> None:
        super().notify_style_update()
        self._styles.clear()

    def _style(self, name: str) -> Style:
        if name not in self._styles:
            self._styles[name] = self.get_component_rich_style(f"log--{name}", partial=True)
        return self._styles[name]

    def render_line(self, y: int) -> Strip:
        width, base = self.scrollable_content_region.width, self.rich_style
        place = self.scroll_offset.y + y
        if place >= len(self._shown):
            text = f" {self._empty}" if not self._shown and y == 0 else ""
            return Strip([Segment(text, self._style("debug"))]).adjust_cell_length(width, base).apply_style(base)
        entry = self._shown[place]
        when = time.gmtime(entry.time_unix) if self._utc else time.localtime(entry.time_unix)
        level = entry.level if entry.level in ("error", "warning", "ok", "debug") else "text"
        segments = [
            Segment(time.strftime(" %H:%M:%S ", when), self._style("time")),
            Segment(MARKS.get(entry.level, " ") + " ", self._style(level)),
        ]
        if self._source_width:
            segments.append(Segment(fit(printable(entry.source), self._source_width) + " ", self._style("source")))
        left = width - 12 - (self._source_width + 1 if self._source_width else 0)
        text_level = level if level in ("error", "debug") else "text"
        segments.append(Segment(fit(printable(entry.text), max(left, 1)), self._style(text_level)))
        return Strip(segments).adjust_cell_length(width, base).apply_style(base)
