"""The memory tab: a map of the domain's frames by use, its legend and quota, and where each frame lies in the machine."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import ClassVar, NamedTuple

from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message

from emulator.control.memoryviews import FRAME_TYPES, MemoryView
from xenconsole.units import gauge, size
from xenconsole.widgets.canvas import Canvas
from xenconsole.widgets.lines import EMPTY, Line, Span, line
from xenconsole.widgets.pane import Pane
from xenconsole.widgets.run_queue import pool_line

GLYPHS: dict[str, tuple[str, str]] = {
    "hole": ("·", "dim"),
    "ram": ("░", "graph-low"),
    "l1": ("1", "mark"),
    "l2": ("2", "mark bold"),
    "l3": ("3", "mark bold"),
    "l4": ("4", "mark bold"),
    "seg_desc": ("D", "notice"),
    "writable": ("▒", "graph"),
    "shared_info": ("S", "notice bold"),
    "start_info": ("I", "notice"),
    "console": ("C", "ok bold"),
    "xenstore": ("X", "ok bold"),
    "grant": ("G", "ok"),
    "xen": ("▓", "dim"),
}
"""A glyph and a style for each use of a frame; the glyphs alone tell them apart."""

UNKNOWN = ("?", "trouble")


def frame_type(code: int) -> str:
    """The name of a code in `MemoryView.types`; one of a newer engine is "?"."""
    return FRAME_TYPES[code] if code < len(FRAME_TYPES) else "?"


def merge(types: bytes, group: int, counts: dict[str, int]) -> bytes:
    """One code for every `group` blocks: the one that is rarest in the whole domain, so that a lone page table stays visible."""
    if group <= 1:
        return types
    rank = {code: counts.get(frame_type(code), 0) for code in set(types)}
    cells = (types[at : at + group] for at in range(0, len(types), group))
    return bytes(cell[0] if cell.count(cell[0]) == len(cell) else min(set(cell), key=lambda code: (rank[code], code)) for cell in cells)


class Grid(NamedTuple):
    """How a map is laid out in a pane: digits of a label, blocks a cell, cells a row, columns a cell, frames a cell."""

    digits: int
    group: int
    columns: int
    wide: int
    frames: int


def grid_of(view: MemoryView, width: int, height: int) -> Grid | None:
    """The layout for a pane of this size, None where there is nothing to lay out."""
    digits = max(len(f"{max(view.nr_pfns - 1, 0):x}"), 3)
    room, rows = width - digits - 3, max(height - 2, 1)
    most = room - room % 8 if room >= 16 else room
    if most <= 0 or not view.types:
        return None
    group = max(-(-len(view.types) // (most * rows)), 1)
    count = -(-len(view.types) // group)
    columns = min(-(-count // (rows * 8)) * 8, most)
    return Grid(digits, group, columns, min(room // columns, 4), group * view.block)


def map_lines(view: MemoryView, width: int, height: int, picked: int = -1, about: str = "") -> list[Line]:
    """The map: a cell a block of frames (or several, where there is no room), rows labelled with their first PFN. The cell of the
    frame `picked` stands out, without colour too, and the last line says what `about` has of it."""
    grid = grid_of(view, width, height)
    if grid is None:
        return [line(("no map yet", "dim"))]
    digits, group, columns, wide, frames = grid
    cells = merge(view.types, group, view.type_counts)
    chosen = picked // frames if picked >= 0 else -1
    out: list[Line] = []
    for start in range(0, len(cells), columns):
        spans = [Span(f"{start * frames:>{digits}x} ", "dim"), Span("▏", "rule")]
        row = enumerate(cells[start : start + columns], start)
        for (code, here), run in groupby(row, key=lambda item: (item[1], item[0] == chosen)):
            name = frame_type(code)
            glyph, style = GLYPHS.get(name, UNKNOWN)
            sign = glyph.isalnum() or glyph == "·"
            cell = glyph.ljust(wide) if sign else " " * wide if here else glyph * wide
            spans.append(Span(cell * len(list(run)), "notice bold reverse" if here else style, f"frame:{name}"))
        spans.append(Span("▕", "rule"))
        out.append(tuple(spans))
    rarest = ", its rarest use shown" if group > 1 else ", its main use shown" if view.block > 1 else ""
    unit = "frame" if frames == 1 else "frames"
    out += [EMPTY] * (height - 1 - len(out))
    if about:
        out.append(line((about, "bold")))
        return out
    out.append(line((f"one cell = {frames} {unit} ({size(frames * 4, long=True)}){rarest}", "dim")))
    return out


def legend_lines(view: MemoryView, width: int) -> list[Line]:
    """Quota and counts of every use, the commonest first."""
    top = max(view.maximum, view.current, 1)
    bar = max(width - 30, 4)
    out: list[Line] = []
    for label, field, frames in (
        ("current", "mem:current", view.current),
        ("target", "mem:target", view.target),
        ("minimum", "mem:minimum", view.minimum),
        ("maximum", "mem:maximum", view.maximum),
    ):
        full, empty = gauge(frames / top, bar)
        out.append(
            line(
                Span(f"{label:<8}", "dim", field),
                Span(f"{frames:>9,} ", field=field),
                Span(f"{size(frames * 4):>6} "),
                Span(full, "graph"),
                Span(empty, "rule"),
            )
        )
    known = view.dirty >= 0
    since = f"{view.dirty:,} ({size(view.dirty * 4)}) since last snapshot" if known else "known once there is a snapshot"
    out += [line(Span("dirty   ", "dim", "mem:dirty"), Span(since, "" if known else "dim")), EMPTY]
    total = max(sum(view.type_counts.values()), 1)
    out.append(line(("   use            frames   size", "dim")))
    for name, count in sorted(view.type_counts.items(), key=lambda item: (-item[1], item[0])):
        glyph, style = GLYPHS.get(name, UNKNOWN)
        full, _ = gauge(count / total, max(width - 34, 0))
        out.append(
            line(
                Span(f" {glyph} ", style),
                Span(f"{name:<12}", field=f"frame:{name}"),
                Span(f"{count:>9,}"),
                Span(f"{size(count * 4):>7}  ", "dim"),
                Span(full, style.removesuffix(" bold")),
            )
        )
    return out


def scatter_lines(view: MemoryView, width: int, height: int) -> list[Line]:
    """Machine frame over pseudo-physical frame, a dot a sample."""
    label = max(len(f"{max(view.nr_mfns - 1, 0):x}"), 3)
    columns, rows = width - label - 2, height - 2
    if columns < 4 or rows < 2:
        return [line(("no room here: z shows it alone", "dim"))]
    canvas = Canvas(columns, rows)
    wide, high = canvas.dots
    pfns, mfns = max(view.nr_pfns, 1), max(view.nr_mfns, 1)
    for pfn, mfn in view.p2m_sample:
        canvas.dot(pfn * wide // pfns, high - 1 - mfn * high // mfns, "graph")
    out: list[Line] = []
    for row, spans in enumerate(canvas.lines()):
        text = (
            f"{mfns - 1:>{label}x}" if row == 0 else f"{0:>{label}x}" if row == rows - 1 else "mfn".rjust(label) if row == rows // 2 else " " * label
        )
        out.append((Span(text, "dim", "mem:p2m" if "m" in text else ""), Span(" ┤" if row in (0, rows - 1) else " │", "rule"), *spans))
    end = f"{pfns - 1:x}"
    out.append(line((" " * (label + 1) + "└" + "─" * columns, "rule")))
    middle = "pfn".center(max(columns - 1 - len(end), 3))
    out.append(line((" " * (label + 2) + "0" + middle + end, "dim")))
    return out


class MemoryPane(Pane):
    """Base of the panes of the memory tab."""

    TITLE = ""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(self.TITLE, id=id)
        self.view: MemoryView | None = None

    def show(self, view: MemoryView | None) -> None:
        if view is not self.view and view != self.view:
            self.view = view
            self.rebuild()

    def build(self, width: int, height: int) -> Sequence[Line]:
        return self.draw(self.view, width, height) if self.view is not None else [line(("no memory view yet", "dim"))]

    def draw(self, view: MemoryView, width: int, height: int) -> Sequence[Line]:
        raise NotImplementedError


class MemoryMap(MemoryPane):
    """The map. Arrows pick a cell and so its first frame, `,` and `.` step by single frames."""

    TITLE = "frames by use"
    keys = "arrows , . look at a frame"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("right", "move(1, 0)", "pick", show=False, tooltip="pick the next cell of the map", id="map.right"),
        Binding("left", "move(-1, 0)", "pick", show=False, tooltip="pick the cell before", id="map.left"),
        Binding("full_stop", "frame(1)", "frame", show=False, tooltip="the next frame", id="map.next-frame"),
        Binding("comma", "frame(-1)", "frame", show=False, tooltip="the frame before", id="map.previous-frame"),
    ]

    class Picked(Message):
        """A frame was picked."""

        def __init__(self, pfn: int) -> None:
            super().__init__()
            self.pfn = pfn

        def can_replace(self, message: Message) -> bool:
            return isinstance(message, MemoryMap.Picked)

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.picked = -1
        self.about = ""

    def pick(self, pfn: int) -> None:
        """Pick a frame; -1 for none."""
        self.picked = min(pfn, self.view.nr_pfns - 1) if self.view is not None else -1
        self.about = f"pfn {self.picked:x}" if self.picked >= 0 else ""
        self.rebuild()
        if self.picked >= 0:
            self.post_message(self.Picked(self.picked))

    def tell(self, about: str) -> None:
        """What the last line says of the picked frame."""
        self.about = about
        self.rebuild()

    def action_frame(self, by: int) -> None:
        self.pick(max(self.picked + by, 0))

    def action_move(self, across: int, down: int) -> None:
        grid = grid_of(self.view, *self.content_size) if self.view is not None else None
        if grid is None or self.view is None:
            return
        cell = self.picked // grid.frames + across + down * grid.columns if self.picked >= 0 else 0
        if 0 <= cell * grid.frames < self.view.nr_pfns:
            self.pick(cell * grid.frames)

    def action_step(self, delta: int) -> None:
        self.action_move(0, delta)

    def on_click(self, event: events.Click) -> None:
        offset = event.get_content_offset(self)
        grid = grid_of(self.view, *self.content_size) if self.view is not None else None
        if offset is None or grid is None or self.view is None:
            return
        column = (offset.x - grid.digits - 2) // grid.wide
        pfn = (offset.y * grid.columns + column) * grid.frames
        if 0 <= column < grid.columns and pfn < self.view.nr_pfns:
            self.pick(pfn)

    def draw(self, view: MemoryView, width: int, height: int) -> Sequence[Line]:
        return map_lines(view, width, height, self.picked, self.about)


class MemoryLegend(MemoryPane):
    """Quota and counts, and the host's pool as `pool` (total, free: KiB) has it."""

    TITLE = "quota and counts"
    pool = (0, 0)

    def draw(self, view: MemoryView, width: int, height: int) -> Sequence[Line]:
        total, free = self.pool
        return [pool_line(total, free, view.current * 4, width), *legend_lines(view, width)] if total else legend_lines(view, width)


class P2mScatter(MemoryPane):
    TITLE = "p2m: where the frames lie"

    def draw(self, view: MemoryView, width: int, height: int) -> Sequence[Line]:
        return scatter_lines(view, width, height)
