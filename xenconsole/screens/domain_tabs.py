"""What each tab of the domain screen asks for and how it is spread over the tab's panes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical

from emulator.control.client import NO_ANSWER
from emulator.control.memoryviews import FrameView
from emulator.control.messages import ObituaryView
from emulator.control.views import CrashView, DomainDetail, DomainView, FlowView, RingView, SnapshotView
from xenconsole.app_protocol import Client, shell
from xenconsole.flow_history import Flows
from xenconsole.widgets.config_panel import ConfigPane, XenstorePane
from xenconsole.widgets.domain_summary import CrashPane, LifePane, TailPane
from xenconsole.widgets.flow_panel import FlowPane
from xenconsole.widgets.frame_panel import FramePane, summary
from xenconsole.widgets.grants_panel import GrantsPane, RefusalsPane
from xenconsole.widgets.handshake_panel import DeviceList, HandshakePane
from xenconsole.widgets.memory_map import MemoryLegend, MemoryMap, MemoryPane, P2mScatter
from xenconsole.widgets.ports_panel import CountRates, PortsPanel
from xenconsole.widgets.ring_wheel import RingList, RingWheel
from xenconsole.widgets.snapshots_panel import SnapshotList, SnapshotScreenPane
from xenconsole.widgets.trace_panel import CallList, LatencyPane, TracePanel
from xenconsole.widgets.vcpu_panel import ActivityPane, Changes, CodePane, RegistersPane, StackPane, VcpuList, VcpuPane

if TYPE_CHECKING:
    from xenconsole.screens.domain import DomainScreen

TABS: tuple[tuple[str, str], ...] = (
    ("summary", "summary"),
    ("vcpus", "vCPU"),
    ("memory", "memory"),
    ("rings", "rings"),
    ("events", "events"),
    ("trace", "trace"),
    ("snapshots", "snapshots"),
    ("config", "config"),
    ("devices", "devices"),
)
"""Name and title of each tab, in the order of the digits."""

PARTS: dict[str, tuple[str, ...]] = {
    "summary": ("crash",),
    "vcpus": ("vcpus",),
    "memory": ("memory",),
    "rings": ("rings",),
    "events": ("ports", "grants", "refusals"),
    "trace": ("trace",),
    "snapshots": (),
    "config": ("config", "xenstore"),
    "devices": ("handshakes",),
}
"""Parts of a detail that a tab shows."""

PERIODS: dict[str, float] = {
    "summary": 0.25,
    "vcpus": 0.125,
    "memory": 0.25,
    "rings": 0.1,
    "events": 0.25,
    "trace": 0.125,
    "snapshots": 0.5,
    "config": 1.0,
    "devices": 0.25,
}
"""Seconds between two pulls of a tab."""

TAIL_BYTES = 8192
FLOW_S = 0.5
"""Seconds that a point of a device's history stands for."""
TRAIL_S = 1.0
"""A wheel's trail is how far its producer came in this time."""

Extra = tuple[SnapshotView, ...] | bytes | None
"""What a tab needs beside the detail: the snapshots, or the console's tail."""


def compose_tabs() -> ComposeResult:
    """The panes of every tab."""
    with Vertical(id="tab-summary", classes="tab"):
        yield CrashPane(id="crash")
        with Horizontal(classes="row", id="summary-row"):
            yield LifePane(id="life")
            yield TailPane(id="tail")
    with Vertical(id="tab-vcpus", classes="tab"):
        yield VcpuList(id="vcpu-list")
        with Horizontal(classes="row"):
            with Vertical(classes="column", id="vcpu-side"):
                yield RegistersPane(id="registers")
                yield StackPane(id="stack")
            with Vertical(classes="column"):
                yield ActivityPane(id="activity")
                yield CodePane(id="code")
    with Vertical(id="tab-memory", classes="tab"), Horizontal(classes="row"):
        yield MemoryMap(id="map")
        with Vertical(classes="column", id="memory-side"):
            yield MemoryLegend(id="legend")
            yield FramePane(id="frame")
            yield P2mScatter(id="scatter")
    with Vertical(id="tab-rings", classes="tab"), Horizontal(classes="row"):
        with Vertical(classes="column", id="ring-side"):
            yield RingList(id="ring-list")
            yield FlowPane(id="flow")
        yield RingWheel(id="wheel")
        yield RingWheel(id="wheel-pair")
    with Vertical(id="tab-events", classes="tab"):
        yield PortsPanel(id="ports")
        with Horizontal(classes="row", id="sharing"):
            yield GrantsPane(id="grants")
            yield RefusalsPane(id="refusals")
    with Vertical(id="tab-trace", classes="tab"), Horizontal(classes="row"):
        yield TracePanel(id="trace")
        with Vertical(classes="column", id="trace-side"):
            yield CallList(id="calls")
            yield LatencyPane(id="latency")
    with Vertical(id="tab-snapshots", classes="tab"), Horizontal(classes="row"):
        yield SnapshotList(id="snapshot-list")
        yield SnapshotScreenPane(id="snapshot-screen")
    with Vertical(id="tab-config", classes="tab"), Horizontal(classes="row"):
        yield ConfigPane(id="config")
        yield XenstorePane(id="xenstore")
    with Vertical(id="tab-devices", classes="tab"):
        yield DeviceList(id="device-list")
        yield HandshakePane(id="handshake")


@runtime_checkable
class Remembers(Protocol):
    """A client that can tell what became of a domain."""

    async def obituary(self, domid: int) -> ObituaryView | None: ...


@runtime_checkable
class LooksAtFrames(Protocol):
    """A client that can tell who maps a frame."""

    async def frame(self, domid: int, pfn: int) -> FrameView: ...


class DomainTabs:
    """Feeds the panes of one domain screen and remembers what rates and marks are made of."""

    def __init__(self, screen: DomainScreen, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.screen = screen
        self.single = True
        self.paired = self.picked = False
        self.crash: CrashView | None = None
        self.reset_memory()

    def reset_memory(self) -> None:
        """Forget all that was remembered of a domain."""
        self.changes = Changes()
        self.port_rates, self.ring_rates = CountRates(), CountRates()
        self.rates: dict[str, float] = {}
        self.flow_views: tuple[FlowView, ...] = ()
        self.crash = None
        self._fed: dict[str, float] = {}
        self._tail: tuple[tuple[int, int], bytes] = (-1, -1), b""  # whose, and where it ends

    def reset(self) -> None:
        """Another domain comes: forget, and empty the panes."""
        self.reset_memory()
        screen = self.screen
        screen.query_one(TracePanel).clear()
        screen.query_one(VcpuList).cursor = 0
        screen.query_one(RingList).forget()
        screen.query_one(SnapshotList).forget()
        self.unpick()

    @property
    def flows(self) -> Flows:
        """The histories of the domain's devices."""
        return shell(self.screen).flows.of(self.screen.domid)

    @property
    def since_trace(self) -> int:
        return self.screen.query_one(TracePanel).seq

    async def fetch(self, client: Client, domid: int, tab: str, detail: DomainDetail) -> Extra:
        """What the tab needs beside the detail. Raises as the client does."""
        if tab == "snapshots":
            return await client.snapshots(domid)
        if tab == "summary":
            end = detail.domain.console_end
            if self._tail[0] != (domid, end):
                chunk = await client.console_read(domid, max(end - TAIL_BYTES, 0), TAIL_BYTES)
                self._tail = (domid, end), chunk.data
            return self._tail[1]
        return None

    def _since(self, what: str) -> float:
        """Seconds since the last call for the same thing."""
        now = self._clock()
        before = self._fed.get(what, now)
        self._fed[what] = now
        return now - before

    @property
    def now_unix(self) -> float:
        host = shell(self.screen).overview.host
        return host.started_unix + host.uptime_ns / 1e9

    def show(self, tab: str, detail: DomainDetail, extra: Extra) -> None:
        """Spread a detail over the panes of its tab."""
        screen = self.screen
        if tab == "summary":
            self._show_summary(detail, extra if isinstance(extra, bytes) else b"")
        elif tab == "vcpus":
            self.changes.feed(detail.vcpus)
            self._set_shape(single=len(detail.vcpus) < 2, paired=self.paired)
            screen.query_one(VcpuList).show(detail.vcpus)
            self._show_vcpu()
        elif tab == "memory":
            host = shell(screen).overview.host
            screen.query_one(MemoryLegend).pool = (host.total_kib, host.free_kib)
            for pane in screen.query(MemoryPane):
                pane.show(detail.memory)
        elif tab == "rings":
            counts, since = {ring.name: ring.req_prod for ring in detail.rings}, self._since("rings")
            self.rates = self.ring_rates.feed(counts, since)
            self._feed_flows(detail.flows)
            screen.query_one(RingList).show(detail.rings, self.rates)
            self._show_rings()
        elif tab == "events":
            counts = {str(port.port): port.count for port in detail.ports}
            screen.query_one(PortsPanel).show(detail.ports, self.port_rates.feed(counts, self._since("ports")))
            names = {view.domid: view.name for view in shell(screen).overview.domains}
            screen.query_one(GrantsPane).show(detail.grants, names)
            screen.query_one(RefusalsPane).show(detail.refusals)
        elif tab == "trace":
            screen.query_one(TracePanel).show(detail.trace)
            if detail.trace is not None:
                screen.query_one(CallList).show(detail.trace.totals, detail.trace.histogram)
                self._show_latency()
        elif tab == "snapshots":
            screen.query_one(SnapshotList).show(extra if isinstance(extra, tuple) else (), self.now_unix)
            self._show_snapshot()
        elif tab == "devices":
            screen.query_one(DeviceList).show(detail.handshakes, self.now_unix)
            self._show_handshake()
        else:
            screen.query_one(ConfigPane).show(detail.config)
            screen.query_one(XenstorePane).show(detail.xenstore)

    async def look(self, client: Client, domid: int, pfn: int) -> None:
        """A frame was picked in the map: ask once what it is and who maps it, and show that."""
        chart, pane = self.screen.query_one(MemoryMap), self.screen.query_one(FramePane)
        self._set_picked(True)
        if not isinstance(client, LooksAtFrames):
            return
        try:
            view: FrameView | None = await client.frame(domid, pfn)
            why = ""
        except NO_ANSWER as error:
            view, why = None, str(error)
        if chart.picked != pfn or self.screen.domid != domid:
            return  # another was picked meanwhile
        pane.show(view, why)
        if view is not None:
            chart.tell(summary(view))

    def unpick(self) -> bool:
        """Let go of the picked frame; False when there was none."""
        chart = self.screen.query_one(MemoryMap)
        if chart.picked < 0:
            return False
        chart.pick(-1)
        self.screen.query_one(FramePane).show(None)
        self._set_picked(False)
        return True

    def _set_picked(self, on: bool) -> None:
        if on != self.picked:
            self.picked = on
            self.screen.set_class(on, "-picked")
            self.screen.lay_out()

    def refresh(self, tab: str) -> None:
        """Another row of the tab's list was chosen."""
        update = {
            "vcpus": self._show_vcpu,
            "rings": self._show_rings,
            "trace": self._show_latency,
            "snapshots": self._show_snapshot,
            "devices": self._show_handshake,
        }
        if tab in update:
            update[tab]()

    def bury(self, view: DomainView, crash: CrashView) -> None:
        """The domain is gone and left a crash report."""
        self.crash = crash
        self.screen.query_one(CrashPane).show(crash)
        self._show_life(view)
        if crash.console_tail:
            self.screen.query_one(TailPane).show(crash.console_tail)

    def _show_summary(self, detail: DomainDetail, tail: bytes) -> None:
        self.crash = detail.crash
        self.screen.query_one(CrashPane).show(detail.crash)
        self._show_life(detail.domain)
        self.screen.query_one(TailPane).show(tail)

    def _show_life(self, view: DomainView) -> None:
        rates = shell(self.screen).rates
        self.screen.query_one(LifePane).show(view, rates.of(view.domid), rates.history(view.domid), self.now_unix)

    def _set_shape(self, *, single: bool, paired: bool) -> None:
        if (single, paired) != (self.single, self.paired):
            self.single, self.paired = single, paired
            self.screen.lay_out()

    def _show_vcpu(self) -> None:
        chooser = self.screen.query_one(VcpuList)
        vcpu = chooser.vcpus[min(chooser.cursor, len(chooser.vcpus) - 1)] if chooser.vcpus else None
        for pane in self.screen.query(VcpuPane):
            pane.show(vcpu, self.changes.of(vcpu.vcpu) if vcpu is not None else frozenset())

    def _show_rings(self) -> None:
        chooser = self.screen.query_one(RingList)
        ring = chooser.rings[min(chooser.cursor, len(chooser.rings) - 1)] if chooser.rings else None
        other = pair_of(ring, chooser.rings) if ring is not None else None
        flow = next((one for one in self.flow_views if ring is not None and one.device == ring.device), None)
        self.screen.query_one(FlowPane).show(flow, self.flows.history)
        first, second = self.screen.query_one("#wheel", RingWheel), self.screen.query_one("#wheel-pair", RingWheel)
        self._set_shape(single=self.single, paired=other is not None)
        for pane, shown in ((first, ring), (second, other)):
            rate = self.rates.get(shown.name, 0.0) if shown is not None else 0.0
            pane.show(shown, rate, round(rate * TRAIL_S))

    def _feed_flows(self, flows: tuple[FlowView, ...]) -> None:
        """A point of history every FLOW_S, however often the rings are looked at."""
        now, kept = self._clock(), self.flows
        if now - kept.at >= FLOW_S or not kept.at:
            kept.feed(flows, now - kept.at if kept.at else 0.0)
            kept.at = now
        self.flow_views = flows

    def _show_latency(self) -> None:
        calls = self.screen.query_one(CallList)
        self.screen.query_one(LatencyPane).show(calls.chosen, calls.counts(calls.chosen))

    def _show_handshake(self) -> None:
        self.screen.query_one(HandshakePane).show(self.screen.query_one(DeviceList).chosen, self.now_unix)

    def _show_snapshot(self) -> None:
        self.screen.query_one(SnapshotScreenPane).show(self.screen.query_one(SnapshotList).chosen)


def pair_of(ring: RingView, rings: tuple[RingView, ...]) -> RingView | None:
    """The ring of the other direction: console-in and console-out, net-tx and net-rx of one queue (their ports may be two)."""
    family = ring.kind.partition("-")[0]
    for other in rings:
        if other.kind != ring.kind and other.kind.partition("-")[0] == family and (other.device, other.queue) == (ring.device, ring.queue):
            return other
    return None
