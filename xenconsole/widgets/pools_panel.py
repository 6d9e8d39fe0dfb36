"""Pools of physical CPUs: each with its scheduler, its CPUs and how busy they are, and the domains that run there."""

from __future__ import annotations

from collections.abc import Sequence

from emulator.control.views import DomainView, PoolView
from xenconsole.units import fit, gauge, printable
from xenconsole.widgets.lines import Line, Span, cut, line
from xenconsole.widgets.pane import Pane

SIGNS = 8
"""Names of domains written out for a pool."""


def ranges(cpus: Sequence[int]) -> str:
    """CPUs as xl writes them: 0-2,5."""
    runs: list[list[int]] = []
    for cpu in sorted(cpus):
        if runs and cpu == runs[-1][1] + 1:
            runs[-1][1] = cpu
        else:
            runs.append([cpu, cpu])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


class PoolsPane(Pane):
    """A line a pool. Hidden while there is one alone, which the strip of all CPUs shows already."""

    pinned = 1

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__("pools of CPUs", id=id, classes="-idle")
        self.pools: tuple[PoolView, ...] = ()
        self.busy: tuple[float, ...] = ()
        self.members: dict[str, list[str]] = {}

    def show(self, pools: tuple[PoolView, ...], busy: tuple[float, ...], domains: Sequence[DomainView]) -> None:
        """`busy`: percent of each physical CPU."""
        members: dict[str, list[str]] = {}
        for view in domains:
            if view.domid:
                members.setdefault(view.pool, []).append(f"{view.domid} {printable(view.name)}")
        taller = len(pools) != len(self.pools)
        self.pools, self.busy, self.members = pools, busy, members
        self.set_class(len(pools) < 2, "-idle")
        self.rebuild()
        if taller:
            self.refresh(layout=True)

    def build(self, width: int, height: int) -> Sequence[Line]:
        bar = min(max(width - 90, 0), 30)
        head = f"{fit('pool', 16)} {fit('scheduler', 10)} {fit('CPUs', 10)} {'busy':>6} {' ' * bar} domains"
        out = [line((head, "dim"))]
        for pool in self.pools:
            used = [self.busy[cpu] for cpu in pool.cpus if cpu < len(self.busy)]
            share = sum(used) / len(used) if used else 0.0
            full, empty = gauge(share / 100, bar)
            names = self.members.get(pool.name, [])
            told = ", ".join(names[:SIGNS]) + (f" and {len(names) - SIGNS:,} more" if len(names) > SIGNS else "")
            spans = line(
                Span(fit(printable(pool.name), 16) + " ", "bold", "sched:pool"),
                Span(fit(pool.scheduler, 10) + " ", "", "sched:scheduler"),
                Span(fit(ranges(pool.cpus) or "none", 10) + " ", "" if pool.cpus else "notice", "cpu:physical"),
                Span(f"{share:>5.0f}% "),
                Span(full, "graph"),
                Span(empty + " ", "rule"),
                Span(told or "none", "" if told else "dim"),
            )
            out.append(cut(spans, width))
        return out
