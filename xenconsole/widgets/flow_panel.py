"""What a device moved lately: throughput both ways, requests a second and latency, as histories."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from emulator.control.views import FlowView
from xenconsole.flow_history import FlowHistory
from xenconsole.units import amount, byte_rate, micros
from xenconsole.widgets.graph import Series, graph
from xenconsole.widgets.lines import Line, line
from xenconsole.widgets.pane import Pane


def _bytes(value: float) -> str:
    return byte_rate(value, long=True)


def _rate(value: float) -> str:
    return f"{amount(value)}/s"


SERIES: Mapping[str, tuple[Series, ...]] = {
    "block": (
        Series("reads", "graph", _bytes, "flow:inward", 1024),
        Series("writes", "graph-high", _bytes, "flow:outward", 1024),
        Series("done", "graph-low", _rate, "flow:done"),
        Series("latency", "notice", micros, "flow:latency"),
    ),
    "net": (
        Series("gets", "graph", _bytes, "flow:inward", 1024),
        Series("sends", "graph-high", _bytes, "flow:outward", 1024),
        Series("frames", "graph-low", _rate, "flow:done"),
        Series("latency", "notice", micros, "flow:latency"),
    ),
}
NAMES = ("inward", "outward", "done", "latency")


class FlowPane(Pane):
    """Histories of the device whose ring is chosen."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__("flow", id=id)
        self.flow: FlowView | None = None
        self.history = FlowHistory()

    def show(self, flow: FlowView | None, history: FlowHistory) -> None:
        self.flow, self.history = flow, history
        self.set_title(f"flow of {flow.device}" if flow is not None else "flow")
        self.rebuild()

    def build(self, width: int, height: int) -> Sequence[Line]:
        if self.flow is None:
            return [line(("disks and network cards have", "dim")), line(("their histories here", "dim"))]
        rows = max(min((height - 1) // 4, 5), 2)
        out: list[Line] = []
        for name, series in zip(NAMES, SERIES.get(self.flow.kind, SERIES["block"]), strict=True):
            out += graph(series, self.history.of(self.flow.device, name), width, rows)
        mean = self.flow.wait_ns / self.flow.waited / 1000 if self.flow.waited else 0.0
        out.append(line((f"{self.flow.done:,} in all, {micros(mean)} each", "dim")))
        return out
