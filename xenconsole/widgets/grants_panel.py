"""The events tab's other two panes: which frames are granted to and by others, and what the hypervisor refused, with its reasons."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Sequence
from itertools import groupby

from emulator.control.views import GrantsView, RefusalView
from xenconsole.text_filter import TextFilter
from xenconsole.units import fit
from xenconsole.widgets.lines import EMPTY, Line, Span, cut, line
from xenconsole.widgets.pane import Pane

UNNAMED = "?"
ALIKE = 3
"""Refusals in a row that differ in their numbers alone and are still written out; a filter shows them all."""
_DIGITS = re.compile(r"(0x)?[0-9a-f]*\d[0-9a-f]*")


def _key(kind: str) -> str:
    """A kind of grant as the explanations name it."""
    return kind.replace("-", "_").replace(" ", "_")


def grant_lines(view: GrantsView, width: int, name_of: Callable[[int], str]) -> list[Line]:
    """What the domain gave and who uses it, then what it mapped; `name_of` gives a domain's name."""
    frames = f"version {view.version}, {view.frames} of {view.limit} frames" if view.limit else f"version {view.version}"
    out = [line(Span("out ", "bold", "grant:out"), Span(f"{len(view.given)} granted  ", ""), Span(frames, "dim", "grant:version"))]
    room = min(max(width // 5, 8), 20)
    kinds = 14 if width >= 70 else 9
    if view.given:
        out.append(line((f"{'ref':>6} {fit('to', room)} {fit('kind', kinds)}    pfn users", "dim")))
    for grant in view.given:
        idle = "" if grant.users else "dim"
        pfn = f"{grant.pfn:x}" if grant.pfn >= 0 else "–"
        out.append(
            line(
                Span(f"{grant.ref:>6} ", idle, "grant:ref"),
                Span(fit(name_of(grant.domid), room) + " ", idle),
                Span(f"{fit(grant.kind, kinds)} ", idle, f"grant:{_key(grant.kind)}"),
                Span(f"{pfn:>6} ", idle, "grant:pfn"),
                Span(grant.users or "nobody", "ok" if grant.users else "dim", "grant:users"),
            )
        )
    out += [EMPTY, line(Span("in  ", "bold", "grant:in"), Span(f"{len(view.mapped)} mapped"))]
    if view.mapped:
        out.append(line((f"{'handle':>6} {fit('from', room)} {'ref':>6}     mfn kind", "dim")))
    out += [
        line(
            Span(f"{mapping.handle:>6} ", field="grant:handle"),
            Span(fit(name_of(mapping.domid), room) + " "),
            Span(f"{mapping.ref:>6} ", field="grant:ref"),
            Span(f"{mapping.mfn:>7x} ", field="grant:mfn"),
            Span(mapping.kind, "ok", "grant:mapping"),
        )
        for mapping in view.mapped
    ]
    return [cut(spans, width) for spans in out]


def refusal_lines(entry: RefusalView, width: int) -> list[Line]:
    """One refusal: when, which errno, what was asked, and why not."""
    head = line(
        Span(f"{entry.time_ns / 1e9:>12.6f} ", "dim", "trace:vtime"),
        Span(f"{'-' + entry.errno:<12} ", "trouble bold", f"errno:{entry.errno}"),
    )
    reason = entry.reason or "no reason was given"
    if width >= 110:
        what = Span(fit(entry.what, 26) + " ", "bold", "refusal:what")
        rows = textwrap.wrap(reason, max(width - 54, 20))
        return [(*head, what, *line(rows[0])), *(line(" " * 53 + row) for row in rows[1:])]
    rows = textwrap.wrap(reason, max(width - 6, 16))
    under = [line((f"   {'└' if at == 0 else ' '} ", "dim"), Span(row, "", "refusal:reason")) for at, row in enumerate(rows)]
    return [cut((*head, Span(entry.what, "bold", "refusal:what")), width), *under]


class GrantsPane(Pane):
    """Grants out and in."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__("grants", id=id)
        self.view: GrantsView | None = None
        self.names: dict[int, str] = {}

    def show(self, view: GrantsView | None, names: dict[int, str]) -> None:
        """`names` are those of all domains by ID."""
        if (view, names) != (self.view, self.names):
            self.view, self.names = view, names
            self.rebuild()

    def name_of(self, domid: int) -> str:
        return f"{domid} {self.names.get(domid, UNNAMED)}"

    def build(self, width: int, height: int) -> Sequence[Line]:
        return grant_lines(self.view, width, self.name_of) if self.view is not None else [line(("no grant table yet", "dim"))]


class RefusalsPane(Pane):
    """What was refused, the newest first; the filter is that of the trace."""

    keys = "/ filters"

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__("refusals", id=id)
        self.refusals: tuple[RefusalView, ...] = ()
        self.filter = TextFilter()

    def show(self, refusals: tuple[RefusalView, ...]) -> None:
        if refusals != self.refusals:
            self.refusals = refusals
            self.rebuild()

    def set_filter(self, text: str) -> None:
        self.filter = TextFilter(text)
        self.set_title(f"refusals  /{text}" if text else "refusals")
        self.top = 0
        self.rebuild()

    def passing(self) -> list[RefusalView]:
        """Those that the filter lets through, the newest first."""
        return [r for r in reversed(self.refusals) if self.filter.matches(f"{r.errno} {r.what} {r.reason}")]

    def subtitle(self) -> str:
        return f"{len(self.passing())} of the last {len(self.refusals)}" if self.filter.text else f"the last {len(self.refusals)}"

    def build(self, width: int, height: int) -> Sequence[Line]:
        rows: list[Line] = []
        for _, run in groupby(self.passing(), key=lambda entry: (entry.what, entry.errno, _DIGITS.sub("", entry.reason))):
            like = list(run)
            shown = like if self.filter.text or len(like) <= ALIKE else like[:1]
            rows += [spans for entry in shown for spans in refusal_lines(entry, width)]
            if len(shown) < len(like):
                rows.append(line((f"     ⋮ and {len(like) - 1} like it since {like[-1].time_ns / 1e9:.6f}", "dim")))
        return rows or [line(("nothing matches" if self.refusals else "nothing was refused", "dim"))]
