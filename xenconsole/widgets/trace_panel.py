"""The trace tab: hypercalls, traps and events as they happen, a filter, and how long each kind of call takes."""

from __future__ import annotations

import textwrap
from collections import deque
from collections.abc import Iterable, Sequence

from rich.cells import cell_len

from emulator.control.views import TraceLine, TraceView
from xenconsole.text_filter import TextFilter
from xenconsole.units import amount, fit
from xenconsole.widgets.lines import EMPTY, Line, Span, cut, line, width_of
from xenconsole.widgets.pane import ListPane, Pane

KEPT = 4000
"""Lines of trace kept while the tab is open."""
BURST = 300
"""Of what comes in one pull, the newest so many are written out; the filter sees all of it."""

SIGNS = {"hypercall": ("→", "graph"), "trap": ("!", "notice"), "event": ("↑", "ok"), "message": ("·", "dim")}
ALL = "all calls"


def duration(ns: float) -> str:
    """A cost in at most 7 characters: 870 ns, 1.3 µs, 42 ms."""
    for unit in ("ns", "µs", "ms"):
        if ns < 999.5:
            return f"{ns:.1f} {unit}" if ns < 9.95 and unit != "ns" else f"{ns:.0f} {unit}"
        ns /= 1000
    return f"{ns:.1f} s"


class TraceFilter(TextFilter):
    """Over a line's kind, name, arguments, result and reason."""

    def passes(self, entry: TraceLine) -> bool:
        return self.matches(f"{entry.kind} {entry.name}({entry.detail}) = {entry.result} {entry.reason} v{entry.vcpu}")


def refused(entry: TraceLine) -> bool:
    """Whether the hypervisor said no."""
    return bool(entry.reason) or entry.result.startswith("-")


def trace_lines(entry: TraceLine, width: int) -> list[Line]:
    """A line of the trace, and a second one with the reason of a refusal."""
    sign, style = SIGNS.get(entry.kind, ("?", ""))
    bad = refused(entry)
    call = entry.kind == "hypercall"
    cost = f"{duration(entry.cost_ns):>9}" if entry.cost_ns and width >= 60 else ""
    answer = f" = {entry.result}" if call and entry.result else f"  {entry.result}" if entry.result else ""
    left = line(
        Span(f"{entry.vtime_ns / 1e9:>12.6f} ", "dim", "trace:vtime"),
        Span(f"v{entry.vcpu:<2}", "dim"),
        Span(f"{sign} ", style),
        Span(entry.name, "trouble bold" if bad else "bold", f"call:{entry.name}"),
        Span(f"({entry.detail})" if call else f" {entry.detail}" if entry.detail else ""),
    )
    left = cut(left, max(width - cell_len(answer) - len(cost), 30))
    room = max(width - width_of(left) - cell_len(answer) - len(cost), 0)
    out = [(*left, *line((answer, "trouble bold" if bad else "dim"), " " * room, Span(cost, "dim", "trace:cost")))]
    if entry.reason:
        out += [
            line(Span(" " * 16 + ("└ " if at == 0 else "  "), "dim"), Span(text, "trouble"))
            for at, text in enumerate(textwrap.wrap(entry.reason, max(width - 18, 20)))
        ]
    return out


def histogram_lines(counts: Sequence[int], width: int) -> list[Line]:
    """A bar a power of two of the cost, empty ends left out."""
    filled = [at for at, count in enumerate(counts) if count]
    if not filled:
        return [line(("no call timed yet", "dim"))]
    top = max(counts)
    bar = max(width - 18, 4)
    out: list[Line] = []
    for at in range(filled[0], filled[-1] + 1):
        eighths = round(counts[at] / top * bar * 8)
        block = "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()
        if counts[at] and not block:
            block = "▏"
        out.append(
            line(
                Span(f"{duration(2**at):>7} ", "dim", "trace:cost"),
                Span("│", "rule"),
                Span(block, "graph"),
                Span(f" {counts[at]:,}"),
            )
        )
    return out


def percentile(counts: Sequence[int], share: float) -> float:
    """The cost in nanoseconds below which `share` of the calls stay: the upper end of its bucket, 0 without calls."""
    wanted, seen = sum(counts) * share, 0
    for at, count in enumerate(counts):
        seen += count
        if count and seen >= wanted:
            return float(2 ** (at + 1))
    return 0.0


class TracePanel(Pane):
    """The live trace; it stays at its end until somebody scrolls up, and goes on when they come back down."""

    follows = True
    keys = "/ filters"

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__("hypercalls, traps and events", id=id)
        self.filter = TraceFilter()
        self._entries: deque[TraceLine] = deque(maxlen=KEPT)
        self._shown: deque[Line] = deque(maxlen=KEPT)
        self._width = 0
        self.seq = 0

    def clear(self) -> None:
        """Forget everything: another domain comes."""
        self._entries.clear()
        self._shown.clear()
        self.seq = 0
        self.rebuild()

    def show(self, trace: TraceView | None) -> None:
        """Add the lines that are newer than those shown."""
        if trace is None:
            return
        fresh = [entry for entry in trace.lines if entry.seq > self.seq]
        if trace.seq < self.seq:  # a restored snapshot or a new engine counts from anew
            self._entries.clear()
            self._shown.clear()
            fresh = list(trace.lines)
        self.seq = trace.seq
        if fresh:
            self._entries.extend(fresh)
            before = len(self._shown)
            added = self._append(fresh)
            if not self.at_end:
                # what is being read stays where it is, even when old lines fall off at the top
                self.top = max(self.top - max(before + added - KEPT, 0), 0)
            self.rebuild()

    def _append(self, entries: Iterable[TraceLine]) -> int:
        passed = [entry for entry in entries if self.filter.passes(entry)]
        made: list[Line] = []
        if len(passed) > BURST:
            made.append(line((f"{'⋮':>13} {len(passed) - BURST:,} more, faster than anybody reads", "dim")))
        for entry in passed[-BURST:]:
            made += trace_lines(entry, self._width or 100)
        self._shown.extend(made)
        return len(made)

    def set_filter(self, text: str) -> None:
        self.filter = TraceFilter(text)
        self._width = 0
        self.at_end = True
        self.rebuild()

    def scroll_lines(self, delta: int) -> None:
        super().scroll_lines(delta)
        self._entitle()

    def _entitle(self) -> None:
        self.set_title(f"hypercalls, traps and events{self.filter.shown}{'' if self.at_end else '  (held: G goes on)'}")

    def build(self, width: int, height: int) -> Sequence[Line]:
        if width != self._width:
            self._width = width
            self._shown.clear()
            self._append(self._entries)
        self._entitle()
        return list(self._shown) or [
            line(("nothing matches yet" if self.filter.text else "recorded while this tab is open; nothing has happened yet", "dim"))
        ]


class CallList(ListPane):
    """Calls by name, the most frequent first, with their typical cost. The chosen one's latencies are drawn beside."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__("calls", id=id)
        self.totals: dict[str, int] = {}
        self.histogram: dict[str, tuple[int, ...]] = {}
        self.chosen = ALL

    def show(self, totals: dict[str, int], histogram: dict[str, tuple[int, ...]]) -> None:
        self.totals, self.histogram = totals, histogram
        names = self.names()
        self.cursor = names.index(self.chosen) if self.chosen in names else 0
        self.rebuild()

    def names(self) -> list[str]:
        names = set(self.totals) | set(self.histogram)
        return [ALL, *sorted(names, key=lambda name: (-self.totals.get(name, 0), name))]

    def choose(self, row: int) -> None:
        names = self.names()
        self.chosen = names[min(max(row, 0), len(names) - 1)]
        super().choose(row)

    def counts(self, name: str) -> tuple[int, ...]:
        """Calls by power of two of their cost."""
        if name != ALL:
            return self.histogram.get(name, ())
        rows = list(self.histogram.values())
        return tuple(sum(row[at] if at < len(row) else 0 for row in rows) for at in range(max(map(len, rows), default=0)))

    def build(self, width: int, height: int) -> Sequence[Line]:
        room = max(width - 24, 6)
        out: list[Line] = [line((f"  {fit('call', room)} calls    half    99 %", "dim"))]
        for row, name in enumerate(self.names()):
            total = sum(self.totals.values()) if name == ALL else self.totals.get(name, 0)
            counts = self.counts(name)
            half, most = percentile(counts, 0.5), percentile(counts, 0.99)
            spans = line(
                Span(fit(name, room), "" if name != ALL else "dim", f"call:{name}" if name != ALL else ""),
                Span(f"{total if total < 1000 else amount(total):>6}"),
                Span(f"{duration(half) if half else '–':>8}", "dim", "trace:cost"),
                Span(f"{duration(most) if most else '–':>8}", "dim", "trace:cost"),
            )
            out.append(self.marked(row, spans, width))
        return out


class LatencyPane(Pane):
    """How long the chosen call takes in the hypervisor."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__("latency", id=id)
        self.counts: tuple[int, ...] = ()

    def show(self, name: str, counts: tuple[int, ...]) -> None:
        self.set_title(f"latency of {name}")
        self.counts = counts
        self.rebuild()

    def build(self, width: int, height: int) -> Sequence[Line]:
        rows = histogram_lines(self.counts, width)
        total = sum(self.counts)
        if not total:
            return rows
        facts = f"{total:,} timed, 99 % under {duration(percentile(self.counts, 0.99))}"
        return [*rows, EMPTY, line((facts, "dim"))]
