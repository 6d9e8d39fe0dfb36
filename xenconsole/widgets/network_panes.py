"""Beside the list of networks: one interface or network closely, the bridge's table, and the last frames in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from emulator.control.networkviews import DropView, NetworkView, PacketView, UplinkView, VifView
from xenconsole.flow_history import FlowHistory
from xenconsole.units import amount, byte_rate, fit, micros, printable, size, span
from xenconsole.widgets.graph import Series, graph
from xenconsole.widgets.lines import EMPTY, Line, Span, cut, line
from xenconsole.widgets.pane import FilteredPane, Pane

MOST_FLOWS = 50
"""Open flows of an uplink that are written out."""


def drop_lines(drops: Sequence[DropView], width: int) -> list[Line]:
    """What was not let through, a reason a line, the most frequent first."""
    if not drops:
        return [line(Span("nothing was dropped", "dim", "net:drops"))]
    rows = sorted(drops, key=lambda drop: (-drop.frames, drop.reason))
    return [cut(line(Span(f"{drop.frames:>9,} ", "notice", "net:drops"), printable(drop.reason)), width) for drop in rows]


def _bytes_a_second(value: float) -> str:
    return byte_rate(value, long=True)


VIF_SERIES = {
    "tx": Series("sends", "graph", _bytes_a_second, "net:sends", 1024),
    "rx": Series("gets", "graph-high", _bytes_a_second, "net:gets", 1024),
    "wait_us": Series("waits", "notice", micros, "net:wait"),
}
NETWORK_SERIES = {"bytes": Series("all", "graph", _bytes_a_second, "net:network", 1024)}


class VifPane(Pane):
    """The chosen interface: histories of what it sends, gets and waits, what was dropped and why; or the chosen network's uplink."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__("interface", id=id)
        self.vif: VifView | None = None
        self.network: NetworkView | None = None
        self.history = FlowHistory()

    def show(self, vif: VifView | None, network: NetworkView | None, history: FlowHistory) -> None:
        self.vif, self.network, self.history = vif, network, history
        self.set_title(f"{vif.name} of {vif.domain}" if vif is not None else f"network {network.name}" if network is not None else "interface")
        self.rebuild()

    def build(self, width: int, height: int) -> Sequence[Line]:
        if self.vif is not None:
            return [cut(spans, width) for spans in self._interface(self.vif, width, height)]
        if self.network is not None:
            return [cut(spans, width) for spans in self._network(self.network, width, height)]
        return [line(("nothing is chosen", "dim"))]

    def _graphs(self, key: str, series: Mapping[str, Series], width: int, rows: int) -> list[Line]:
        return [spans for name, one in series.items() for spans in graph(one, self.history.of(key, name), width, rows)]

    def _interface(self, vif: VifView, width: int, height: int) -> list[Line]:
        rows = 3 if height >= 18 else 2 if height >= 13 else 1
        out: list[Line] = []
        if vif.alarm:
            out.append(line(Span(f" {printable(vif.alarm)} ", "trouble reverse bold", "net:alarm")))
        out += self._graphs(vif.name, VIF_SERIES, width, rows)
        held = ", waits for credit now" if vif.throttled else ""
        limit = f"{byte_rate(vif.limit, long=True)}{held}, {vif.throttles:,} times" if vif.limit else "none"
        out += [
            line(Span("state   ", "dim", "net:state"), f"back {vif.backend_state or '–'}, front {printable(vif.frontend_state) or '–'}"),
            line(Span("address ", "dim", "net:mac"), f"{vif.mac}  {printable(vif.ip) or 'no lease'}  mtu {vif.mtu}"),
            line(Span("frames  ", "dim"), f"{vif.tx_frames:,} sent, {vif.rx_frames:,} got, {vif.waiting} wait for buffers"),
            line(Span("queues  ", "dim", "net:queues"), f"{vif.queues}", Span("   limit ", "dim", "net:limit"), limit),
            line(Span("groups  ", "dim", "net:multicast"), "all multicast" if vif.multicast < 0 else f"{vif.multicast} multicast addresses"),
            self._capture(vif),
        ]
        return [*out, *drop_lines(vif.drops, width)]

    @staticmethod
    def _capture(vif: VifView) -> Line:
        if vif.capture is None:
            return line(Span("capture ", "dim", "net:capture"), ("off, C records to a file", "dim"))
        capture = vif.capture
        state = Span(f"ended: {printable(capture.trouble)} ", "notice") if capture.trouble else Span("● records ", "trouble bold")
        told = f"{capture.frames:,} frames, {size(capture.bytes / 1024)} of {size(capture.limit / 1024)} to {printable(capture.path)}"
        return line(Span("capture ", "dim", "net:capture"), state, told)

    def _network(self, network: NetworkView, width: int, height: int) -> list[Line]:
        out = self._graphs(f"/{network.name}", NETWORK_SERIES, width, 3 if height >= 14 else 1)
        out.append(line(Span("frames  ", "dim"), f"{network.frames:,}, {amount(network.frames_rate)}/s"))
        out += drop_lines(network.drops, width)
        out.append(EMPTY)
        return out + (uplink_lines(network.uplink) if network.uplink is not None else [
            line(("no uplink: guests reach each other alone", "dim")),
            line((f":network-uplink {printable(network.name)} gives them DHCP, DNS and pings", "dim")),
        ])  # fmt: skip


def uplink_lines(uplink: UplinkView) -> list[Line]:
    """Who has which address, which services are let through, and the flows that are open."""
    out = [
        line(Span("uplink  ", "dim", "net:uplink"), f"{uplink.subnet}, itself {uplink.address}, domain {printable(uplink.domain) or '–'}"),
        line(Span("answered", "dim"), f" {uplink.arp:,} ARP, {uplink.dhcp:,} DHCP, {uplink.icmp:,} ICMP, {uplink.dns:,} DNS"),
        line(Span("refused ", "dim"), f" {uplink.refused:,} to places that are not let through, {uplink.ignored:,} not understood"),
    ]
    out += [line(Span("lease   ", "dim", "net:lease"), f"{lease.ip:<15} {lease.mac} {printable(lease.host)}") for lease in uplink.leases]
    for forward in uplink.forwards:
        way, word = ("host to guest", "lets in ") if forward.inward else ("guest to host", "lets out")
        told = f" {forward.protocol} {printable(forward.listens)} → {printable(forward.connects)}  {way}, {forward.flows} flows"
        out.append(line(Span(word, "dim", "net:forward"), told))
    for flow in uplink.flows[:MOST_FLOWS]:
        moved = f"{byte_rate(flow.to_host)} out {byte_rate(flow.to_guest)} in, {flow.retransmits} again, {span(flow.age_ns / 1e9)}"
        told = f"{flow.protocol} {printable(flow.guest)} ↔ {printable(flow.host)} {flow.state} {moved}"
        out.append(line(Span("flow    ", "dim", "net:flow"), told))
    return out


class AddressPane(Pane):
    """The bridge's table: which address is behind which port."""

    pinned = 1

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__("addresses", id=id)
        self.network: NetworkView | None = None

    def show(self, network: NetworkView | None) -> None:
        if network != self.network:
            self.network = network
            self.set_title(f"addresses on {network.name}" if network is not None else "addresses")
            self.rebuild()

    def subtitle(self) -> str:
        return f"{len(self.network.addresses)} addresses" if self.network is not None else ""

    def build(self, width: int, height: int) -> Sequence[Line]:
        out: list[Line] = [line((f"{fit('address', 18)}{fit('port', 12)}seen", "dim"))]
        if self.network is None:
            return [*out, line(("no network is chosen", "dim"))]
        for entry in self.network.addresses:
            seen = Span("its own", "dim", "net:fixed") if entry.fixed else Span(f"{span(entry.age_ns / 1e9)} ago", "", "net:learned")
            out.append(line(Span(f"{entry.mac:<18}", "", "net:mac"), Span(fit(f"{entry.port} {printable(entry.name)}", 12), "", "net:port"), seen))
        for port in self.network.ports:
            for drop in port.drops:
                out.append(line(Span(f"! {drop.frames:,} ", "notice", "net:drops"), f"{printable(port.name)}: {printable(drop.reason)}"))
        return [cut(spans, width) for spans in out]


class PacketsPane(FilteredPane):
    """The last frames, as tcpdump tells them. New ones come in below."""

    follows = True
    keys = "/ filters"
    filter_hint = "regular expression on who sent it, the frame in words and where it went; ! in front shows the others"

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__("frames", id=id)
        self.packets: tuple[PacketView, ...] = ()
        self.missed = 0
        self.where = ""

    def show(self, packets: tuple[PacketView, ...], missed: int, where: str) -> None:
        """`missed`: frames that went by unseen while these were collected; `where`: of which network or interface."""
        if (packets, missed, where) == (self.packets, self.missed, self.where):
            return
        if where != self.where:
            self.at_end = True
        self.packets, self.missed, self.where = packets, missed, where
        self._entitle()

    def filtered(self) -> None:
        self.at_end = True
        self._entitle()

    def _entitle(self) -> None:
        self.set_title(f"frames{f' of {self.where}' if self.where else ''}{self.filter.shown}")
        self.rebuild()

    def passing(self) -> list[PacketView]:
        """Those that the filter lets through."""
        return [packet for packet in self.packets if self.filter.matches(f"{packet.source} {packet.text} {packet.fate}")]

    def subtitle(self) -> str:
        passing = f"{len(self.passing())} of {len(self.packets)} frames" if self.filter.shown else ""
        return " · ".join(part for part in (passing, f"{self.missed:,} more went by unseen" if self.missed else "") if part)

    def build(self, width: int, height: int) -> Sequence[Line]:
        if not self.packets:
            return [line(("no frame yet" if self.where else "no network is chosen", "dim"))]
        wide = width >= 100
        out: list[Line] = []
        passing = self.passing()
        if not passing:
            return [line(("no frame matches; Esc takes the filter away", "dim"))]
        for packet in passing:
            when = datetime.fromtimestamp(packet.time_unix).strftime("%H:%M:%S.%f")[: 12 if wide else 8]
            lost = packet.fate and not packet.fate.startswith("to ")
            out.append(cut(line(
                Span(f"{when} ", "dim"),
                Span(fit(printable(packet.source), 8) + " ", "", "net:port"),
                Span(f"{printable(packet.text)}  "),
                Span(printable(packet.fate), "notice" if lost else "dim", "net:fate"),
            ), width))  # fmt: skip
        return out
