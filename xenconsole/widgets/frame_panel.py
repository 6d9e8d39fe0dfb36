"""The memory tab's look at one frame: its type and references, its owner, and every page-table entry that names it."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from emulator.control.memoryviews import FrameView
from xenconsole.widgets.lines import EMPTY, Line, Span, cut, line
from xenconsole.widgets.pane import Pane


def summary(view: FrameView) -> str:
    """A frame in one line."""
    if view.mfn < 0:
        return f"pfn {view.pfn:x}: a hole, no frame behind it"
    return f"pfn {view.pfn:x} → mfn {view.mfn:x}: {view.type} ×{view.count}, {view.references} references, named by {view.total}"


def frame_lines(view: FrameView, width: int) -> list[Line]:
    """The frame's account, then where it is mapped."""
    if view.mfn < 0:
        return [line(Span(f"pfn {view.pfn:x}", "bold"), Span("  a hole: no machine frame stands behind it", "dim", "frame:hole"))]
    out = [
        line(Span(f"pfn {view.pfn:x} → mfn {view.mfn:x}", "bold", "mem:p2m")),
        line(Span("owner  ", "dim", "ref:owner"), view.owner, Span("  pinned", "notice", "ref:pinned") if view.pinned else ""),
        line(
            Span("type   ", "dim", "ref:type"),
            Span(view.type, "bold"),
            Span(f" ×{view.count}", "", "ref:count"),
            Span("   references ", "dim", "ref:general"),
            Span(str(view.references)),
        ),
    ]
    if view.leaving:
        out.append(line(Span("given back: it goes with its last use", "notice", "ref:leaving")))
    known = f"{view.total} page-table entr{'y names' if view.total == 1 else 'ies name'} it" if view.total else "no page-table entry names it"
    out += [EMPTY, line((known + ("" if view.whole else ", of the tables searched"), "dim" if not view.total else ""))]
    for entry in view.entries:
        where = f"{entry.address:016x}" if entry.address >= 0 else "nothing leads there"
        out.append(
            line(
                Span(f"{where:<19} ", "" if entry.address >= 0 else "dim", "ref:va"),
                Span(f"L{entry.level} {entry.table:x}[{entry.slot:x}] ", "dim", "ref:entry"),
                Span(entry.flags, "notice" if "w" in entry.flags else "", "ref:flags"),
            )
        )
    if view.total > len(view.entries):
        out.append(line((f"and {view.total - len(view.entries)} more", "dim")))
    return [cut(spans, width) for spans in out]


class FramePane(Pane):
    """The frame that was picked in the map. It is looked at when picked, not again by itself."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__("frame", id=id)
        self.view: FrameView | None = None
        self.trouble = ""

    def show(self, view: FrameView | None, trouble: str = "") -> None:
        self.view, self.trouble = view, trouble
        self.top = 0
        self.rebuild()

    def build(self, width: int, height: int) -> Sequence[Line]:
        if self.trouble:
            return [line((text, "trouble")) for text in textwrap.wrap(self.trouble, max(width, 8))]
        return frame_lines(self.view, width) if self.view is not None else [line(("arrows in the map pick a frame", "dim"))]
