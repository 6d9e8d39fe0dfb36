"""The host strip: two lines on the machine itself, repainted only when their text changes."""

from __future__ import annotations

from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual.geometry import Size
from textual.strip import Strip
from textual.widget import Widget

from emulator.control.views import Overview
from xenconsole.rates import Rates
from xenconsole.units import gauge, printable, size, span
from xenconsole.widgets.columns import state_style

Piece = tuple[str, str]
"""(style name, text)."""

BARS = " ▁▂▃▄▅▆▇█"


class HostStrip(Widget):
    """Line 1: who and what state the display is in. Line 2: physical CPUs, memory pool, engine."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "host--text",
        "host--name",
        "host--dim",
        "host--full",
        "host--hot",
        "host--rule",
        "host--flag",
        "host--bad",
    }
    DEFAULT_CSS = """
    HostStrip {
        height: 2; background: $background; color: $foreground;
        & > .host--text { color: $foreground; }
        & > .host--name { color: $primary; text-style: bold; }
        & > .host--dim { color: $dim; }
        & > .host--full { color: $graph; }
        & > .host--hot { color: $graph-high; text-style: bold; }
        & > .host--rule { color: $rule; }
        & > .host--flag { color: $notice; text-style: bold reverse; }
        & > .host--bad { color: $trouble; text-style: bold; }
    }
    """

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._lines: tuple[tuple[Piece, ...], ...] = ((), ())
        self._styles: dict[str, Style] = {}

    def show(self, overview: Overview, rates: Rates, flags: tuple[str, ...], lost: str) -> None:
        """Take a new overview. `flags` are shown reversed (READ-ONLY, FROZEN, a filter); `lost` replaces the second line."""
        lines = (self._first(overview, flags), _lost(lost) if lost else self._second(overview, rates))
        for y, (old, new) in enumerate(zip(self._lines, lines, strict=True)):
            if old != new:
                self.refresh(self.region.reset_offset.translate((0, y)).crop_size(Size(self.size.width, 1)))
        self._lines = lines

    def _first(self, overview: Overview, flags: tuple[str, ...]) -> tuple[Piece, ...]:
        host = overview.host
        left: list[Piece] = [("name", "xenconsole")]
        if host.name:
            left.append(("dim", f"  {printable(host.name)}"))
        wide = self.size.width >= 100
        left.append(("dim", f"  Xen {host.xen_version}" + (f"  {host.scheduler} scheduler" if host.scheduler and wide else "")))
        for flag in flags:
            left += [("text", "  "), ("flag", f" {flag} ")]
        right: list[Piece] = [("dim", _census(overview) + "  "), ("text", f"up {span(host.uptime_ns / 1e9)}")]
        space = self.size.width - 2 - sum(len(t) for _, t in left) - sum(len(t) for _, t in right)
        if space < 1:
            right, space = right[1:], space + len(right[0][1])
        return (*left, ("text", " " * max(space, 1)), *right)

    def _second(self, overview: Overview, rates: Rates) -> tuple[Piece, ...]:
        host, wide = overview.host, self.size.width >= 100
        if not host.total_kib:
            return (("dim", "waiting for the engine"),)
        bar = min(max((self.size.width - 70) // 4, 6), 20)
        used = host.total_kib - host.free_kib
        memory: list[Piece] = [("dim", "memory "), *_gauge(used / host.total_kib, bar, 0.95)]
        memory.append(("text", f" {size(used, long=wide)}"))
        memory.append(("dim", f" of {size(host.total_kib, long=wide)}"))
        engine: list[Piece] = [
            ("dim", "engine "),
            ("text", f"{rates.engine_cpu:3.0f} %"),
            ("dim", f" {size(host.engine_rss_kib, long=wide)}"),
        ]
        rest = self.size.width - 2 - sum(len(t) for _, t in (*memory, *engine)) - 6
        return (*_cpus(rates.cpus, bar, rest), ("text", "   "), *memory, ("text", "   "), *engine)

    def notify_style_update(self) -> None:
        super().notify_style_update()
        self._styles.clear()

    def _style(self, name: str) -> Style:
        if name not in self._styles:
            self._styles[name] = self.get_component_rich_style(f"host--{name}", partial=True)
        return self._styles[name]

    def render_line(self, y: int) -> Strip:
        base = self.rich_style
        pieces = self._lines[y] if y < len(self._lines) else ()
        segments = [Segment(" "), *(Segment(text, self._style(style)) for style, text in pieces)]
        return Strip(segments).adjust_cell_length(self.size.width, base).apply_style(base)


def _gauge(share: float, width: int, hot: float) -> tuple[Piece, ...]:
    full, empty = gauge(share, width)
    return (("hot" if share >= hot else "full", full), ("rule", empty))


def _cpus(busy: tuple[float, ...], bar: int, room: int) -> tuple[Piece, ...]:
    """A gauge each while they fit, else one bar character each, else their mean."""
    each = bar + 12
    if busy and each * len(busy) <= room:
        pieces: list[Piece] = []
        for cpu, percent in enumerate(busy):
            pieces += [
                ("dim", f"{'  ' if cpu else ''}CPU {cpu} "),
                *_gauge(percent / 100, bar, 2.0),
                ("text", f"{percent:4.0f}%"),
            ]
        return tuple(pieces)
    mean = sum(busy) / len(busy) if busy else 0.0
    row: tuple[Piece, ...] = ()
    if len(busy) + 12 <= room:
        row = (("full", "".join(BARS[round(min(p, 100) / 100 * 8)] for p in busy) + " "),)
    return (("dim", f"{len(busy)} CPUs "), *row, ("text", f"{mean:.0f}%"))


def _census(overview: Overview) -> str:
    guests = [view for view in overview.domains if view.domid]
    counts: dict[str, int] = {}
    for view in guests:
        style = state_style(view)
        counts[style] = counts.get(style, 0) + 1
    odd = [f"{counts[s]} {s}" for s in ("paused", "crashed", "down") if s in counts]
    return f"{len(guests)} guest{'' if len(guests) == 1 else 's'}" + (f", {', '.join(odd)}" if odd else "")


def _lost(why: str) -> tuple[Piece, ...]:
    return (("bad", f"engine lost: {printable(why)}"), ("text", "   :restart-engine starts a new one"))
