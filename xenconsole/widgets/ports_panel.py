"""The events tab: every event channel of the domain, what it is bound to, its two bits, and how often it is sent."""

from __future__ import annotations

from collections.abc import Sequence

from emulator.control.views import PortView
from xenconsole.units import amount, fit, gauge, tally
from xenconsole.widgets.lines import Line, Span, line
from xenconsole.widgets.pane import ListPane


class CountRates:
    """Rates of counters by key, smoothed over about a second; a counter that fell gives zero."""

    def __init__(self, smooth_s: float = 0.8) -> None:
        self._smooth_s = smooth_s
        self._last: dict[str, int] = {}
        self._rates: dict[str, float] = {}

    def feed(self, counts: dict[str, int], seconds: float) -> dict[str, float]:
        """Take the counts `seconds` after the last ones; gives the rate of each a second."""
        if seconds > 0:
            keep = self._smooth_s / (self._smooth_s + seconds)
            for key, count in counts.items():
                rate = max(count - self._last.get(key, count), 0) / seconds
                smooth = self._rates.get(key, 0.0) * keep + rate * (1 - keep)
                self._rates[key] = smooth if smooth >= 0.05 else 0.0
        self._last = dict(counts)
        self._rates = {key: rate for key, rate in self._rates.items() if key in counts}
        return dict(self._rates)


WHOLE = 69
"""Columns for the whole table; below them pending and masked share one and the vCPU is left out."""


def flag_spans(port: PortView, whole: bool) -> tuple[Span, ...]:
    """Pending and masked in words, so that they are seen without colour."""
    if not whole and port.masked:
        return (Span("both    " if port.pending else "masked  ", "notice bold" if port.pending else "state-paused", "port:masked"),)
    pending = Span("pending " if port.pending else "   –    ", "notice bold" if port.pending else "dim", "port:pending")
    masked = Span("masked " if port.masked else "  –    ", "state-paused" if port.masked else "dim", "port:masked")
    return (pending, masked) if whole else (pending,)


class PortsPanel(ListPane):
    """A line a port."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__("event channels", id=id)
        self.ports: tuple[PortView, ...] = ()
        self.rates: dict[str, float] = {}

    def show(self, ports: tuple[PortView, ...], rates: dict[str, float]) -> None:
        """`rates` are events a second by the port's number as text."""
        self.ports = tuple(port for port in ports if port.kind != "free")
        self.rates = rates
        self.rebuild()

    def subtitle(self) -> str:
        pending = sum(port.pending for port in self.ports)
        masked = sum(port.masked for port in self.ports)
        return f"{len(self.ports)} ports, {pending} pending, {masked} masked"

    def build(self, width: int, height: int) -> Sequence[Line]:
        whole = width >= WHOLE
        room = min(max(width - (58 if whole else 46), 12), 34)
        bar = min(max(width - 58 - room, 0), 40)
        head = f"  port kind        {fit('bound to', room)} {'vCPU pending masked' if whole else 'flags  '}     count  per s"
        out: list[Line] = [line((head, "dim"))]
        top = max([*self.rates.values(), 1.0])
        for row, port in enumerate(self.ports):
            rate = self.rates.get(str(port.port), 0.0)
            idle = "dim" if not port.count and not port.pending else ""
            full, _ = gauge(rate / top, bar)
            spans = line(
                Span(f"{port.port:>4} ", idle),
                Span(f"{port.kind:<11} ", idle, f"port:{port.kind}"),
                Span(fit(port.bound or "–", room) + " ", idle),
                Span(f"{port.vcpu:>4} " if whole else "", idle),
                *flag_spans(port, whole),
                Span(f"{tally(port.count):>9} ", idle, "port:count"),
                Span(f"{amount(rate):>6}", "" if rate else "dim"),
                Span(f" {full}" if bar else "", "graph"),
            )
            out.append(self.marked(row, spans, width))
        if not self.ports:
            out.append(line(("no event channel yet", "dim")))
        return out
