"""The scheduler's panes: who ran where in the last second, who waits with how much credit, and what each vCPU got and missed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby

import msgspec

from emulator.control.schedulingviews import QueuedView, RunQueueView
from emulator.control.views import DomainView, HostView, VcpuSummary
from xenconsole.units import clock, fit, gauge, printable, size
from xenconsole.widgets.lines import EMPTY, Line, Span, cut, line
from xenconsole.widgets.pane import FilteredPane, ListPane, Pane, Rows
from xenconsole.widgets.vcpu_panel import state_span

SIGNS = "123456789abcdefghijklmnopqrstuvwxyz"
STYLES = ("graph", "ok", "notice", "mark", "graph-high", "state-blocked")
SECOND_NS = 1_000_000_000
TURN_NS = 60_000_000
"""A gap up to this long before now is taken for the turn of whoever runs."""
WHOLE = 76
"""Columns for the whole table of vCPUs; below them the sums of stolen time and of time in Xen are left out."""
MOST_QUEUED = 100
"""Waiting domains written out; the others are counted."""
NameOf = Callable[[int], str]
Stint = tuple[int, int, int, int]


def sign_of(domid: int) -> Span:
    """A domain's sign in the strip; colours repeat, and so do the signs beyond 35 domains."""
    return Span(SIGNS[(domid - 1) % len(SIGNS)], f"{STYLES[(domid - 1) % len(STYLES)]} bold")


def strip_cells(stints: Iterable[Stint], width: int) -> tuple[list[int], float]:
    """One CPU's last second: for every cell of the last second the domain that held the CPU longest (-1: mostly nobody), and the busy share."""
    cell = SECOND_NS / max(width, 1)
    held: list[dict[int, float]] = [{} for _ in range(width)]
    busy = 0.0
    for _, domid, began, ended in stints:
        start, end = max(began + SECOND_NS, 0), min(ended + SECOND_NS, SECOND_NS)
        if end <= start:
            continue
        busy += end - start
        for at in range(int(start / cell), min(int((end - 1) / cell), width - 1) + 1):
            part = min(end, (at + 1) * cell) - max(start, at * cell)
            held[at][domid] = held[at].get(domid, 0.0) + part
    cells = [max(owners, key=lambda d: (owners[d], -d)) if sum(owners.values()) >= cell * 0.2 else -1 for owners in held]
    return cells, min(busy / SECOND_NS, 1.0)


def strip_lines(view: RunQueueView, cpus: int, width: int, name_of: NameOf) -> list[Line]:
    """A row a physical CPU, the axis, and whose sign is whose."""
    room = max(width - 15, 8)
    out: list[Line] = []
    seen: dict[int, float] = {}
    by_cpu: dict[int, list[Stint]] = {}
    for stint in view.stints:
        by_cpu.setdefault(stint[0], []).append(stint)
    for cpu in range(cpus):
        cells, busy = strip_cells(by_cpu.get(cpu, ()), room)
        spans = [Span(f"CPU {cpu:<3} ", "dim", "cpu:physical")]
        for domid, run in groupby(cells):
            length = len(list(run))
            sign = sign_of(domid) if domid >= 0 else Span("·", "dim")
            spans.append(sign._replace(text=sign.text * length, field="sched:strip"))
            if domid >= 0:
                seen[domid] = seen.get(domid, 0) + length
        spans.append(Span(f" {busy * 100:4.0f} %"))
        out.append(tuple(spans))
    axis = "└" + "─" * (room // 2 - 1) + "┴" + "─" * (room - room // 2 - 2) + "┘"
    out.append(line(("1 s ago ", "dim"), (axis, "rule"), (" now", "dim")))
    legend: list[Span] = [Span("        ")]
    for domid in sorted(seen, key=lambda d: (-seen[d], d)):
        legend += [sign_of(domid), Span(f" {name_of(domid)}  ", "dim")]
    out.append(cut(tuple(legend), width) if seen else line(("        no guest ran", "dim")))
    return out


def with_present(view: RunQueueView) -> RunQueueView:
    """The view with the turns that have not ended yet: the engine tells of a turn when it is over."""
    ends: dict[int, int] = {}
    for cpu, _, _, ended in view.stints:
        ends[cpu] = max(ends.get(cpu, -SECOND_NS), ended)
    now = tuple((q.cpu, q.domid, ends[q.cpu], 0) for q in view.on_cpu if ends.get(q.cpu, -SECOND_NS) > -TURN_NS)
    return msgspec.structs.replace(view, stints=view.stints + now)


class StripPane(Pane):
    """Gantt strip of the last second."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__("who ran where in the last second", id=id)
        self.view = RunQueueView()
        self.cpus = 0
        self.names: Mapping[int, str] = {}

    def show(self, view: RunQueueView, host: HostView, names: Mapping[int, str]) -> None:
        taller = len(host.cpus) != self.cpus
        self.view, self.cpus, self.names = with_present(view), len(host.cpus), names
        self.rebuild()
        if taller:
            self.refresh(layout=True)

    def build(self, width: int, height: int) -> Sequence[Line]:
        return strip_lines(self.view, self.cpus, width, lambda domid: self.names.get(domid, f"domain {domid}"))


def wants_span(queued: QueuedView) -> Span:
    """The last hypercall of a vCPU: what one that waits goes on with."""
    return Span(queued.wants or "no hypercall yet", "" if queued.wants else "dim", "sched:wants")


class QueuePane(Pane):
    """Who is on a CPU, then who waits, in the order in which they will be served. A full bar is the most credit seen so far, so that
    it drains also where one alone has any."""

    pinned = 1

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__("run queue", id=id)
        self.view = RunQueueView()
        self.names: Mapping[int, str] = {}
        self._top = 1

    def show(self, view: RunQueueView, names: Mapping[int, str], *, several: bool = False) -> None:
        """`several`: there are more pools than one, which a pane of their own tells of."""
        before = self._top if view.scheduler == self.view.scheduler else 1
        self.view, self.names = view, names
        self._top = max(before, *(abs(queued.credit) for queued in (*view.on_cpu, *view.waiting)), 1)
        self.set_title("run queues" if several else f"run queue of {view.scheduler}" if view.scheduler else "run queue")
        self.rebuild()

    def subtitle(self) -> str:
        return f"{len(self.view.on_cpu)} running, {len(self.view.waiting)} waiting"

    def build(self, width: int, height: int) -> Sequence[Line]:
        room = min(max(width // 6, 10), 24)
        bar = min(max((width - 64) // 3, 0), 24)
        out = [line((f"       {fit('domain', room)} {fit('prio', 6)} {'credit':>9} {' ' * bar} weight  cap  last hypercall", "dim"))]

        def row(place: Span, queued: QueuedView) -> None:
            priority, credit, weight, cap = queued.priority, queued.credit, queued.weight, queued.cap
            full, empty = gauge(credit / self._top, bar)
            out.append(
                line(
                    place,
                    Span(fit(f"{queued.domid} {printable(self.names.get(queued.domid, '?'))}", room) + " ", "bold"),
                    Span(fit(priority or "–", 6) + " ", "" if priority else "dim", "sched:priority"),
                    Span(f"{credit / 1e6:>7.2f}ms " if abs(credit) >= 10_000 or not credit else f"{credit:>9} ", "", "sched:credit"),
                    Span(full, "graph" if credit >= 0 else "trouble", "sched:credit"),
                    Span(empty + " ", "rule"),
                    Span(f"{weight or '–':>6} ", "" if weight else "dim", "sched:weight"),
                    Span(f"{f'{cap}%' if cap else '–':>4}  ", "" if cap else "dim", "sched:cap"),
                    wants_span(queued),
                )
            )

        def siblings(domid: int) -> None:
            for queued in behind.get(domid, ()):
                name = fit(f"└ vCPU {queued.vcpu}", room)
                out.append(line(("       ", ""), (name + " ", ""), (" " * (bar + 31), ""), wants_span(queued)))

        behind: dict[int, list[QueuedView]] = {}
        for queued in self.view.waiting:
            if queued.behind:
                behind.setdefault(queued.domid, []).append(queued)
        turns = [queued for queued in self.view.waiting if not queued.behind]
        for queued in self.view.on_cpu:
            row(Span(f"CPU {queued.cpu:<2} ", "state-running", "state:r"), queued)
            siblings(queued.domid)
        for place, queued in enumerate(turns[:MOST_QUEUED], 1):
            row(Span(f"{place:>5}  ", "dim"), queued)
            siblings(queued.domid)
        if len(turns) > MOST_QUEUED:
            out.append(line((f"    …  and {len(turns) - MOST_QUEUED:,} more wait behind them", "dim")))
        if len(out) == 1:
            out.append(line(("nobody runs and nobody waits", "dim")))
        return out


class VcpuTimes(ListPane, FilteredPane):
    """Run state, use and steal of every vCPU. Enter opens its domain."""

    keys = "Enter opens the domain · / filters"
    filter_hint = "regular expression on the domain's ID and name; ! in front shows the others"

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__("vCPUs", id=id)
        self._domains: Sequence[DomainView] = ()
        self._places: list[tuple[DomainView, VcpuSummary]] = []
        self.used: Mapping[int, tuple[float, ...]] = {}
        self.steal: Mapping[str, float] = {}

    def show(self, domains: Sequence[DomainView], used: Mapping[int, tuple[float, ...]], steal: Mapping[str, float]) -> None:
        """`used` is percent of a CPU by domain and vCPU; `steal` nanoseconds a second by "domid.vcpu"."""
        self.used, self.steal, self._domains = used, steal, domains
        self._places = [(view, vcpu) for view in domains if self.filter.matches(f"{view.domid} {view.name}") for vcpu in view.vcpus]
        self.rebuild()

    def filtered(self) -> None:
        self.set_title(f"vCPUs{self.filter.shown}")
        self.cursor = self.top = 0
        self.show(self._domains, self.used, self.steal)

    @property
    def chosen(self) -> int:
        """The domain of the row under the cursor, -1 for none."""
        return self._places[min(self.cursor, len(self._places) - 1)][0].domid if self._places else -1

    def rows(self) -> int:
        return len(self._places)

    def subtitle(self) -> str:
        return f"{len(self._places):,} vCPUs"

    def build(self, width: int, height: int) -> Sequence[Line]:
        whole = width >= WHOLE
        room = min(max(width // 6, 12 if whole else 10), 28)
        bar = min(max(width - 68 - room, 0), 30)
        sums = (" stolen ", "  in Xen") if whole else ("", "")
        head = f"  {fit('domain', room)} vCPU state     CPU   used  {' ' * bar} steal {sums[0]}     time{sums[1]}"
        if not self._places:
            return [line((head, "dim")), line(("no guest matches; Esc takes the filter away" if self.filter.shown else "no guest", "dim"))]
        return Rows([line((head, "dim"))], len(self._places), lambda row: self.marked(row, self._row(*self._places[row], room, bar, whole), width))

    def _row(self, view: DomainView, vcpu: VcpuSummary, room: int, bar: int, whole: bool) -> Line:
        used = self.used.get(view.domid, ())
        share = used[vcpu.vcpu] if vcpu.vcpu < len(used) else 0.0
        steal = self.steal.get(f"{view.domid}.{vcpu.vcpu}", 0.0) / 1e7
        full, empty = gauge(share / 100, bar)
        word = state_span(vcpu.state)
        return line(
            Span(fit(f"{view.domid} {printable(view.name)}", room) + " "),
            Span(f"{vcpu.vcpu:>4} "),
            word._replace(text=fit(word.text, 9) + " "),
            Span(f"{vcpu.cpu if vcpu.cpu >= 0 else '–':>3} ", "dim", "cpu:physical"),
            Span(f"{share:>5.1f}% ", "", "time:guest"),
            Span(full, "graph"),
            Span(empty, "rule"),
            Span(f" {steal:>5.1f}% ", "notice" if steal >= 5 else "" if steal else "dim", "sched:steal"),
            Span(f"{clock(vcpu.steal_ns / 1e9):>7} " if whole else "", "dim", "sched:steal"),
            Span(f"{clock(vcpu.cpu_ns / 1e9):>9}", "dim", "time:guest"),
            Span(f" {clock(vcpu.xen_ns / 1e9):>7}" if whole else "", "dim", "time:xen"),
        )


def pool_line(total_kib: int, free_kib: int, own_kib: int, width: int) -> Line:
    """The host's memory pool as a bar: what this domain holds, the rest that is taken, and what is free."""
    if not total_kib:
        return EMPTY
    bar = max(width - 28, 6)
    mine = round(own_kib / total_kib * bar)
    taken = max(round((total_kib - free_kib) / total_kib * bar), mine)
    return line(
        Span("pool    ", "dim", "host:pool"),
        Span("█" * mine, "ok"),
        Span("▓" * (taken - mine), "graph"),
        Span("░" * (bar - taken), "rule"),
        Span(f" {size(free_kib)} free of {size(total_kib)}", "", "host:pool"),
    )
