"""The networks of the host as a list: each network, and under it the interfaces on it with what flows through them now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from emulator.control.networkviews import DropView, NetworksView, NetworkView, VifView
from xenconsole.flow_history import FlowHistory
from xenconsole.units import amount, braille, byte_rate, counted, fit, printable
from xenconsole.widgets.lines import EMPTY, Line, Span, line
from xenconsole.widgets.pane import ListPane

STATES = {"connected": "state-running", "closed": "trouble", "closing": "notice"}


@dataclass(frozen=True)
class Row:
    """A network, or an interface on it."""

    network: str
    vif: str = ""  # its name, empty for the network itself


def dropped(drops: Sequence[DropView]) -> int:
    return sum(drop.frames for drop in drops)


WHOLE = 76
"""Columns for the whole table; below them the addresses are left out, which the interface's own pane has."""


class NetworkList(ListPane):
    """Networks by name, their interfaces below them. The cursor keeps to what it stands on."""

    keys = "C captures · Enter opens"

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__("networks", id=id)
        self.view = NetworksView()
        self.history = FlowHistory()
        self._order: list[Row] = []
        self._held = Row("")

    def show(self, view: NetworksView, history: FlowHistory) -> None:
        self.view, self.history = view, history
        order = []
        for network in sorted(view.networks, key=lambda n: n.name):
            order.append(Row(network.name))
            order += [Row(network.name, vif.name) for vif in view.vifs if vif.network == network.name]
        self._order = order
        if self._held in order:
            self.cursor = order.index(self._held)
        else:
            first = next((at for at, row in enumerate(order) if row.vif), 0)
            self.cursor = min(self.cursor, len(order) - 1) if self._held.network and order else first
            self._hold()
        self.rebuild()

    def _hold(self) -> None:
        if self.cursor < len(self._order):
            self._held = self._order[self.cursor]

    def choose(self, row: int) -> None:
        super().choose(row)
        self._hold()

    def rows(self) -> int:
        return len(self._order)

    @property
    def network(self) -> NetworkView | None:
        """The chosen one, or that of the chosen interface."""
        name = self._order[self.cursor].network if self.cursor < len(self._order) else ""
        return next((network for network in self.view.networks if network.name == name), None)

    @property
    def vif(self) -> VifView | None:
        """The chosen interface, None on a network's own line."""
        name = self._order[self.cursor].vif if self.cursor < len(self._order) else ""
        return next((vif for vif in self.view.vifs if vif.name == name), None) if name else None

    def subtitle(self) -> str:
        return f"{counted(len(self.view.networks), 'network')}, {counted(len(self.view.vifs), 'interface')}" if self._order else ""

    def build(self, width: int, height: int) -> Sequence[Line]:
        whole = width >= WHOLE
        room = min(max((width - 79) // 2 if whole else width - 47, 10), 24)
        bar = min(max(width - 79 - room, 0) // 2, 30)
        blank = " " * bar
        flows = f"{'sends':>6} {blank}{'gets':>7} {blank}{'dropped':>8}  {'wait':>7}"
        head = f"  {fit('interface', room)}  {fit('address', 17) + ' ' if whole else ''}{fit('state', 11 if whole else 9)} {flows}"
        out: list[Line] = [line((head, "dim"))]
        vifs = {vif.name: vif for vif in self.view.vifs}
        networks = {network.name: network for network in self.view.networks}
        for at, row in enumerate(self._order):
            spans = self._vif(vifs[row.vif], room, bar, whole) if row.vif else self._network(networks[row.network], width)
            out.append(self.marked(at, spans, width))
        if not self._order:
            out += [EMPTY, line("no network yet"), line(("vif=['bridge=net0'] in a guest's cfg makes one, :network-attach too", "dim"))]
        return out

    def _network(self, network: NetworkView, width: int) -> Line:
        uplink = f"  uplink {network.uplink.subnet}" if network.uplink is not None else ""
        lost = dropped(network.drops)
        return line(
            Span(printable(network.name), "bold", "net:network"),
            Span(f"  {counted(len(network.ports), 'port')}", "", "net:port"),
            Span(f"  {amount(network.frames_rate)} frames/s  {byte_rate(network.bytes_rate, long=True)}", "graph" if network.frames_rate else "dim"),
            Span(f"  {lost:,} dropped" if lost else "", "notice", "net:drops"),
            Span(printable(uplink), "ok", "net:uplink"),
        )

    def _vif(self, vif: VifView, room: int, bar: int, whole: bool) -> Line:
        lost = dropped(vif.drops)
        state = vif.backend_state if vif.backend_state == vif.frontend_state else f"{vif.backend_state}/{vif.frontend_state}"
        marks = ("●" if vif.capture is not None and not vif.capture.trouble else "") + ("!" if vif.alarm else "")
        waits = self.history.of(vif.name, "wait_us")
        return line(
            Span(fit(f" {vif.domid} {printable(vif.domain)} {vif.devid}", room), field="net:vif"),
            Span(f"{marks:<2}", "trouble bold", "net:capture" if "●" in marks else "net:alarm"),
            Span(f"{fit(vif.mac, 17)} " if whole else "", "dim", "net:mac"),
            Span(fit(state, 11 if whole else 9) + " ", STATES.get(state, "state-paused"), "net:state"),
            Span(f"{byte_rate(vif.tx_bytes_rate):>6} ", "" if vif.tx_bytes_rate else "dim", "net:sends"),
            Span(self._spark(vif.name, "tx", bar), "graph", "net:sends"),
            Span(f"{byte_rate(vif.rx_bytes_rate):>7} ", "" if vif.rx_bytes_rate else "dim", "net:gets"),
            Span(self._spark(vif.name, "rx", bar), "graph-high", "net:gets"),
            Span(f"{amount(lost):>8} ", "notice" if lost else "dim", "net:drops"),
            Span(f"{waits[-1]:>5.0f} µs" if waits else f"{'–':>8}", "" if waits and waits[-1] else "dim", "net:wait"),
        )

    def _spark(self, name: str, series: str, width: int) -> str:
        points = self.history.of(name, series)
        return braille(points, width, max(points[-width * 2 :], default=0.0)) if width else ""
