"""The columns of the domain table: what each shows, how it sorts, and which fit a width. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from emulator.control.views import DomainView
from xenconsole.rates import DomainRates
from xenconsole.units import amount, braille, byte_rate, clock, fit, printable, size, span

GUTTER = 2
"""Cells at a row's left: the cursor's bar, then the mark."""


@dataclass(frozen=True)
class Row:
    """One domain with all that its line shows."""

    view: DomainView
    rates: DomainRates
    history: tuple[float, ...]
    now_unix: float = 0.0
    news: str = ""  # "" nothing, "activity", "bell": console output nobody has seen


@dataclass(frozen=True)
class Column:
    """`text(row, width, long)` gives at most `width` cells of text; `style(row)` the name of a style of the table."""

    key: str
    title: str
    width: int
    long_title: str
    long_width: int
    text: Callable[[Row, int, bool], str]
    sort: Callable[[Row], float | str]
    style: Callable[[Row], str] = lambda row: "text"
    right: bool = True
    descending: bool = True
    moving: bool = True  # its order changes by itself
    core: int = 0  # core columns go last; 1 goes first among them when even they do not fit
    roomy: bool = False  # only beside the long forms
    grows: int = 0  # cells it may take beyond its width


def state_style(view: DomainView) -> str:
    """The style name of a domain's state, by xl's letters."""
    letters = view.state
    for letter, style in (("c", "crashed"), ("d", "down"), ("s", "down"), ("p", "paused"), ("r", "running")):
        if letter in letters:
            return style
    return "blocked"


def note(row: Row) -> str:
    """What a person should know of this domain first."""
    view = row.view
    if view.crash:
        return printable(view.crash)
    if view.shutdown:
        return view.shutdown
    if row.news == "bell":
        return "rang the bell"
    if view.snapshots:
        return f"{view.snapshots} snapshot{'s' if view.snapshots > 1 else ''}"
    return "the host's own domain" if view.domid == 0 else printable(view.config_file)


def _number_style(value: float) -> str:
    return "text" if value >= 0.05 else "dim"


def _history(row: Row, width: int, long: bool) -> str:
    return braille(row.history, width, 100.0 * max(len(row.view.vcpus), 1))


COLUMNS: tuple[Column, ...] = (
    Column(
        "id",
        "ID",
        3,
        "ID",
        4,
        lambda r, w, _: str(r.view.domid),
        lambda r: r.view.domid,
        lambda r: "dim",
        descending=False,
        moving=False,
        core=99,
    ),
    Column(
        "name",
        "name",
        12,
        "name",
        13,
        lambda r, w, _: printable(r.view.name),
        lambda r: r.view.name.lower(),
        lambda r: "name",
        right=False,
        descending=False,
        moving=False,
        core=98,
        grows=14,
    ),
    Column(
        "state",
        "state",
        6,
        "state",
        6,
        lambda r, w, _: r.view.state,
        lambda r: r.view.state,
        lambda r: state_style(r.view),
        right=False,
        descending=False,
        core=97,
    ),
    Column(
        "cpu",
        "CPU%",
        5,
        "CPU %",
        6,
        lambda r, w, _: f"{r.rates.cpu:.1f}" if r.rates.cpu < 9999 else "lots",
        lambda r: r.rates.cpu,
        lambda r: _number_style(r.rates.cpu),
        core=96,
    ),
    Column("history", "", 6, "history", 12, _history, lambda r: sum(r.history), lambda r: "graph", right=False, core=5, grows=28),
    Column("time", "time", 8, "CPU time", 9, lambda r, w, _: clock(r.view.cpu_ns / 1e9), lambda r: r.view.cpu_ns),
    Column("vcpus", "vcpu", 4, "vCPUs", 5, lambda r, w, _: str(len(r.view.vcpus)), lambda r: len(r.view.vcpus), moving=False, core=7),
    Column(
        "mem",
        "mem",
        5,
        "memory",
        8,
        lambda r, w, long: size(r.view.mem_kib, long=long),
        lambda r: r.view.mem_kib,
        moving=False,
        core=9,
    ),
    Column(
        "max",
        "max",
        5,
        "maximum",
        8,
        lambda r, w, long: size(r.view.maxmem_kib, long=long),
        lambda r: r.view.maxmem_kib,
        lambda r: "dim",
        moving=False,
        core=3,
    ),
    Column(
        "hypercalls",
        "hcall/s",
        7,
        "hypercalls/s",
        12,
        lambda r, w, _: amount(r.rates.hypercalls),
        lambda r: r.rates.hypercalls,
        lambda r: _number_style(r.rates.hypercalls),
        core=8,
    ),
    Column(
        "events",
        "event/s",
        7,
        "events/s",
        8,
        lambda r, w, _: amount(r.rates.events),
        lambda r: r.rates.events,
        lambda r: _number_style(r.rates.events),
        core=4,
    ),
    Column(
        "traffic",
        "ring/s",
        6,
        "ring traffic",
        12,
        lambda r, w, long: byte_rate(r.rates.traffic, long=long),
        lambda r: r.rates.traffic,
        lambda r: _number_style(r.rates.traffic / 10),
        core=2,
    ),
    Column(
        "faults",
        "flt/s",
        6,
        "faults/s",
        8,
        lambda r, w, _: amount(r.rates.faults),
        lambda r: r.rates.faults,
        lambda r: _number_style(r.rates.faults),
        roomy=True,
    ),
    Column(
        "age",
        "age",
        8,
        "age",
        10,
        lambda r, w, _: span(r.now_unix - r.view.started_unix),
        lambda r: -r.view.started_unix,
        lambda r: "dim",
        moving=False,
        roomy=True,
    ),
    Column(
        "note",
        "note",
        14,
        "note",
        22,
        lambda r, w, _: note(r),
        note,
        lambda r: "crashed" if r.view.crash else "dim",
        right=False,
        descending=False,
        moving=False,
        grows=60,
        roomy=True,
    ),
)

BY_KEY = {column.key: column for column in COLUMNS}
SORTABLE: tuple[str, ...] = tuple(column.key for column in COLUMNS)


@dataclass(frozen=True)
class Placed:
    """A column at its place: x from the table's left, width in cells."""

    column: Column
    x: int
    width: int


@dataclass(frozen=True)
class Layout:
    columns: tuple[Placed, ...]
    long: bool
    gap: int

    def at(self, x: int) -> Column | None:
        """The column under a cell of the header."""
        for placed in self.columns:
            if placed.x <= x < placed.x + placed.width + self.gap:
                return placed.column
        return None


def arrange(width: int, widest_id: int = 3) -> Layout:
    """The columns for a table `width` cells wide: long forms when all core columns fit so, then short ones, then fewer."""
    core = [c for c in COLUMNS if c.core]
    for long, gap in ((True, 2), (False, 1)):
        if _total(core, long, gap, widest_id) <= width:
            return _place(_with_optional(core, width, long, gap, widest_id), width, long, gap, widest_id)
    while len(core) > 2 and _total(core, False, 1, widest_id) > width:
        core.remove(min(core, key=lambda c: c.core))
    return _place(core, width, False, 1, widest_id)


def _width(column: Column, long: bool, widest_id: int) -> int:
    width = column.long_width if long else column.width
    return max(width, widest_id) if column.key == "id" else width


def _total(columns: list[Column], long: bool, gap: int, widest_id: int) -> int:
    return GUTTER + sum(_width(c, long, widest_id) for c in columns) + gap * (len(columns) - 1)


def _with_optional(core: list[Column], width: int, long: bool, gap: int, widest_id: int) -> list[Column]:
    chosen = list(core)
    for column in COLUMNS:
        if not column.core and (long or not column.roomy) and _total([*chosen, column], long, gap, widest_id) <= width:
            chosen.append(column)
    return sorted(chosen, key=COLUMNS.index)


def _place(columns: list[Column], width: int, long: bool, gap: int, widest_id: int) -> Layout:
    spare = max(width - _total(columns, long, gap, widest_id), 0)
    growth: dict[str, int] = {}
    for key in ("name", "history", "note"):
        if any(c.key == key for c in columns):
            growth[key] = min(spare, BY_KEY[key].grows)
            spare -= growth[key]
    x, placed = GUTTER, []
    for column in columns:
        wide = _width(column, long, widest_id) + growth.get(column.key, 0)
        placed.append(Placed(column, x, wide))
        x += wide + gap
    return Layout(tuple(placed), long, gap)


def cells(row: Row, layout: Layout) -> tuple[tuple[str, str], ...]:
    """The row's cells as (style name, text of exactly the column's width), gaps left out."""
    return tuple((p.column.style(row), fit(p.column.text(row, p.width, layout.long), p.width, right=p.column.right)) for p in layout.columns)
