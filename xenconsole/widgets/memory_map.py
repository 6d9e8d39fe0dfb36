"""The memory tab: a map of the domain's frames by use, its legend and quota, and where each frame lies in the machine."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from emulator.control.views import FRAME_TYPES, MemoryView
from xenconsole.units import gauge, size
from xenconsole.widgets.canvas import Canvas
from xenconsole.widgets.lines import EMPTY, Line, Span, line
from xenconsole.widgets.pane import Pane

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


def map_lines(view: MemoryView, width: int, height: int) -> list[Line]:
    """The map: a cell a block of frames (or several, where there is no room), rows labelled with their first PFN."""
    digits = max(len(f"{max(view.nr_pfns - 1, 0):x}"), 3)
    room, rows = width - digits - 3, max(height - 2, 1)
    most = room - room % 8 if room >= 16 else room
    if most <= 0 or not view.types:
        return [line(("no map yet", "dim"))]
    group = max(-(-len(view.types) // (most * rows)), 1)
    cells = merge(view.types, group, view.type_counts)
    columns = min(-(-len(cells) // (rows * 8)) * 8, most)
    wide = min(room // columns, 4)
    frames = group * view.block
    out: list[Line] = []
    for start in range(0, len(cells), columns):
        spans = [Span(f"{start * frames:>{digits}x} ", "dim"), Span("▏", "rule")]
        for code, run in groupby(cells[start : start + columns]):
            name = frame_type(code)
            glyph, style = GLYPHS.get(name, UNKNOWN)
            cell = glyph.ljust(wide) if glyph.isalnum() or glyph == "·" else glyph * wide
            spans.append(Span(cell * len(list(run)), style, f"frame:{name}"))
        spans.append(Span("▕", "rule"))
        out.append(tuple(spans))
    rarest = ", its rarest use shown" if group > 1 else ", its main use shown" if view.block > 1 else ""
    unit = "frame" if frames == 1 else "frames"
    out += [EMPTY] * (height - 1 - len(out))
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
    since = "unknown" if view.dirty < 0 else f"{view.dirty:,} ({size(view.dirty * 4)}) since the last snapshot"
    out += [line(Span("dirty   ", "dim", "mem:dirty"), Span(f"{since}")), EMPTY]
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
    if columns < 4 or rows < 2 or not view.p2m_sample:
        return [line(("no sample of the p2m yet", "dim"))]
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
    TITLE = "frames by use"

    def draw(self, view: MemoryView, width: int, height: int) -> Sequence[Line]:
        return map_lines(view, width, height)


class MemoryLegend(MemoryPane):
    TITLE = "quota and counts"

    def draw(self, view: MemoryView, width: int, height: int) -> Sequence[Line]:
        return legend_lines(view, width)


class P2mScatter(MemoryPane):
    TITLE = "p2m: where the frames lie"

    def draw(self, view: MemoryView, width: int, height: int) -> Sequence[Line]:
        return scatter_lines(view, width, height)
