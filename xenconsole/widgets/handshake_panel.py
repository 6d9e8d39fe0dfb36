"""The devices tab: how the two ends of each device found each other, as two lanes of states over time, and who waits for whom.

Most steps follow each other in milliseconds and then nothing happens for hours: a lane gives each stretch of time room by the logarithm
of its length, so that both can be seen, and the lower pane has the figures.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from datetime import datetime
from itertools import groupby
from typing import Final

from emulator.control.handshakeviews import HandshakeStepView, HandshakeView
from xenconsole.units import counted, fit, printable, span
from xenconsole.widgets.lines import EMPTY, Line, Span, cut, line
from xenconsole.widgets.pane import ListPane, Pane

SIDES: Final = ("frontend", "backend")
DRIVERS: Final = {"vbd": ("blkfront", "blkback"), "vif": ("netfront", "netback"), "console": ("the console's front end", "xenconsoled")}
STYLES: Final = {"connected": "ok", "initialised": "graph", "init-wait": "graph-low", "closing": "trouble", "closed": "dim", "unknown": "dim"}
STATES: Final = ("unknown", "initialising", "init-wait", "initialised", "connected", "closing", "closed")
LANE: Final = 10
LEAST_CELLS: Final = 4


def drivers(kind: str) -> tuple[str, str]:
    """What people call the two ends."""
    return DRIVERS.get(kind, ("the front end", "the back end"))


def sentence(view: HandshakeView, now_unix: float) -> tuple[str, str]:
    """Who waits for whom and since when, in one line; and its style."""
    front, back = drivers(view.kind)
    since = f", for {span(now_unix - view.since_unix)}" if view.since_unix and now_unix >= view.since_unix else ""
    if view.waits:
        said = printable(view.waits).replace("the frontend", front).replace("the backend", back)
        return f"{said}{since}", "trouble" if view.trouble else "notice"
    if view.frontend == view.backend == "connected":
        return f"both ends are content{since}", "ok"
    return f"nobody waits: the device is {view.backend or 'gone'}{since}", "dim"


def moments(view: HandshakeView) -> list[float]:
    """When something changed, oldest first, each moment once."""
    return sorted({step.time_unix for step in view.steps})


def lanes(view: HandshakeView, now_unix: float, width: int) -> list[Line]:
    """The states of both ends from left to right, and the moments below. A state's name stands where it begins."""
    times = moments(view)
    room = width - LANE
    if not times or room < LEAST_CELLS * 2:
        return [line(Span(fit(side, LANE), "dim"), Span(getattr(view, side) or "–", "")) for side in SIDES]
    times = times[-(room // LEAST_CELLS) :]
    ends = [*times[1:], max(now_unix, times[-1])]
    weights = [math.log2(2 + max(end - start, 0.0) * 1000) for start, end in zip(times, ends, strict=True)]
    spare = room - LEAST_CELLS * len(times)
    edges = [0.0]
    for weight in weights:
        edges.append(edges[-1] + LEAST_CELLS + spare * weight / sum(weights))
    at = [round(edge) for edge in edges]
    out = [_lane(view, side, times, at) for side in SIDES]
    marks, axis = "", " " * LANE
    for place, moment in zip(at, times, strict=False):
        mark = f"╵{_after(moment - times[0])}"
        if place >= len(marks):
            marks += " " * (place - len(marks)) + (mark if place + len(mark) <= room else "╵")
    out.append(line((axis + marks[:room], "dim")))
    return out


def _lane(view: HandshakeView, side: str, times: Sequence[float], at: Sequence[int]) -> Line:
    """One end's states; `at` has the cell where each moment begins, and the end."""
    changes = [(step.time_unix, step.before, step.after) for step in view.steps if step.who in (side, "toolstack")]
    state = next((before for when, before, _ in changes if when >= times[0]), getattr(view, side))
    states = []
    for moment in times:
        state = next((after for when, _, after in reversed(changes) if when == moment), state)
        states.append(state)
    spans, place = [Span(fit(side, LANE), "dim", f"xenbus:{side}")], 0
    for state, run in groupby(states):
        past = place + len(list(run))
        cells = at[past] - at[place]
        style = STYLES.get(state, "") + (" bold" if state == "connected" else "")
        spans.append(Span(fit(f"▏{state}", cells).rstrip().ljust(cells, "─"), style, _key(state)))
        place = past
    return tuple(spans)


def _key(state: str) -> str:
    return f"xenbus:{state.replace('-', '_')}" if state in STATES else ""


def _after(seconds: float) -> str:
    """A stretch of time after the first step."""
    if seconds < 0.0005:
        return "0"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 60 else span(seconds)


class DeviceList(ListPane):
    """Every device with its two lanes and its sentence; a row is five lines high."""

    pinned = 0
    HEIGHT: Final = 5

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__("devices: how their two ends found each other", id=id)
        self.views: tuple[HandshakeView, ...] = ()
        self.now_unix = 0.0

    def show(self, views: tuple[HandshakeView, ...], now_unix: float) -> None:
        self.views, self.now_unix = views, now_unix
        self.cursor = min(self.cursor, max(len(views) - 1, 0))
        self.rebuild()

    @property
    def chosen(self) -> HandshakeView | None:
        return self.views[self.cursor] if self.cursor < len(self.views) else None

    def rows(self) -> int:
        return len(self.views)

    def subtitle(self) -> str:
        waiting = sum(bool(view.waits) for view in self.views)
        return f"{counted(len(self.views), 'device')}, {waiting} waiting" if self.views else ""

    def choose(self, row: int) -> None:
        super().choose(row)
        first = self.cursor * self.HEIGHT
        self.top = min(max(self.top, first + self.HEIGHT - self.body_height), first)
        self.rebuild()

    def clicked(self, index: int) -> bool:
        row = index // self.HEIGHT
        if 0 <= row < len(self.views) and row != self.cursor:
            self.choose(row)
            return True
        return False

    def build(self, width: int, height: int) -> Sequence[Line]:
        if not self.views:
            return [line("no device"), line(("disk=[…] and vif=[…] in the cfg bring some; :block-attach and :network-attach plug them in", "dim"))]
        out: list[Line] = []
        for row, view in enumerate(self.views):
            said, style = sentence(view, self.now_unix)
            front, back = drivers(view.kind)
            head = line(Span(fit(view.device, 10) + " ", "bold", f"xenbus:{view.kind}" if view.kind in DRIVERS else ""),
                        Span(f"{front} – {back}  ", "dim"), Span(said, style, "xenbus:waits"))  # fmt: skip
            out.append(self.marked(row, cut(head, width - 2), width))
            body = lanes(view, self.now_unix, width - 2)
            out += [(Span("  "), *spans) for spans in body]
            out += [EMPTY] * (self.HEIGHT - 1 - len(body))
        return out


class HandshakePane(Pane):
    """The chosen device step by step: when, whose state, and what that end wrote for it."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__("step by step", id=id)
        self.view: HandshakeView | None = None
        self.said = ("", "")

    def show(self, view: HandshakeView | None, now_unix: float) -> None:
        said = sentence(view, now_unix) if view is not None else ("", "")
        if (view, said) != (self.view, self.said):
            self.view, self.said = view, said
            self.set_title(f"{view.device} step by step" if view is not None else "step by step")
            self.rebuild()

    def subtitle(self) -> str:
        view = self.view
        return f"{view.frontend_path} ↔ {view.backend_path}" if view is not None else ""

    def build(self, width: int, height: int) -> Sequence[Line]:
        view = self.view
        if view is None:
            return [line(("no device is chosen", "dim"))]
        said, style = self.said
        out: list[Line] = [line(Span(row, style, "xenbus:waits")) for row in textwrap.wrap(said, max(width, 10))]
        if view.trouble:
            out.append(cut(line(Span(f" closed: {printable(view.trouble)} ", "trouble reverse bold", "xenbus:trouble")), width))
        if view.forgotten:
            out.append(line((f"{view.forgotten} earlier steps are not kept", "dim")))
        first = view.steps[0].time_unix if view.steps else 0.0
        for step in view.steps:
            out += self._step(step, first, width)
        return out or [line(("nothing has happened yet", "dim"))]

    @staticmethod
    def _step(step: HandshakeStepView, first: float, width: int) -> list[Line]:
        when = datetime.fromtimestamp(step.time_unix).strftime("%H:%M:%S.%f")[:12]
        arrow = {"frontend": "front ──▸", "backend": "◂── back "}.get(step.who, "toolstack")
        out = [line(
            Span(f"{when} ", "dim"), Span(f"+{_after(step.time_unix - first):>8}  ", "dim"), Span(f"{arrow}  ", "bold"),
            Span(f"{step.before} ", "dim", _key(step.before)), Span("→ ", "dim"), Span(step.after, STYLES.get(step.after, ""), _key(step.after)),
        )]  # fmt: skip
        row = ""
        for name, value in step.nodes:
            piece = f"{printable(name)}={printable(value)}"
            if row and len(row) + len(piece) + 2 > width - 6:
                out.append(line((f"      {row}", "dim")))
                row = ""
            row += f"{'  ' if row else ''}{piece}"
        if row:
            out.append(line(Span(f"      {row}", "dim", "xenbus:nodes")))
        return [cut(spans, width) for spans in out]
