"""The virtual networks: who is on them, what flows and what is lost, which address is where, and the last frames in words."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import ClassVar, Protocol, runtime_checkable

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal

from emulator.control.networkviews import NetworksView, PacketTail, PacketView, VifView
from xenconsole.app_protocol import Client, shell
from xenconsole.flow_history import FlowHistory
from xenconsole.screens.host import HostScreen
from xenconsole.widgets.network_list import NetworkList
from xenconsole.widgets.network_panes import AddressPane, PacketsPane, VifPane
from xenconsole.widgets.pane import ListPane

KEPT = 200
"""Frames of the tail that are kept to be scrolled through."""


@runtime_checkable
class SeesNetworks(Protocol):
    """A client that can tell of networks."""

    async def networks(self) -> NetworksView: ...
    async def packets(self, network: str, source: str = "", since: int = 0, most: int = 100) -> PacketTail: ...


class NetworksScreen(HostScreen):
    """See HostScreen."""

    AUTO_FOCUS = "#networks"
    filtered = "#packets"
    period_s = 0.5
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("C", "capture", "capture", show=False, tooltip="record the interface's frames to a file; again: end that", id="networks.capture"),
    ]

    def __init__(self, client: Client, *, hertz: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(client, hertz=hertz, clock=clock)
        self._waits: dict[str, tuple[int, int]] = {}  # by interface: frames that waited, for how long in all
        self._tail_of = ("", "")
        self._packets: tuple[PacketView, ...] = ()
        self._seq = self._missed = 0

    def compose_panes(self) -> ComposeResult:
        yield NetworkList(id="networks")
        with Horizontal(classes="row", id="network-row"):
            yield VifPane(id="vif")
            yield AddressPane(id="addresses")
        yield PacketsPane(id="packets")

    @property
    def _history(self) -> FlowHistory:
        return shell(self).flows.networks

    @property
    def domid(self) -> int:
        """The domain of the chosen interface: what keys that act on a domain are for."""
        vif = self.query_one(NetworkList).vif
        return vif.domid if vif is not None else -1

    async def fetch(self) -> None:
        if not isinstance(self.client, SeesNetworks):
            return
        view = await self.client.networks()
        for vif in view.vifs:
            self._history.feed(vif.name, {"tx": vif.tx_bytes_rate, "rx": vif.rx_bytes_rate, "wait_us": self._wait_us(vif)})
        for network in view.networks:
            self._history.feed(f"/{network.name}", {"bytes": network.bytes_rate})
        names = {vif.name for vif in view.vifs}
        self._history.keep(names | {f"/{network.name}" for network in view.networks})
        self._waits = {name: kept for name, kept in self._waits.items() if name in names}
        self.query_one(NetworkList).show(view, self._history)
        self._show_chosen()
        await self._fetch_tail(self.client)

    def _wait_us(self, vif: VifView) -> float:
        """The mean wait of the frames that came since the last look, µs; 0 when none came."""
        frames, waited = self._waits.get(vif.name, (vif.waited, vif.wait_ns))
        self._waits[vif.name] = vif.waited, vif.wait_ns
        return max(vif.wait_ns - waited, 0) / (vif.waited - frames) / 1000 if vif.waited > frames else 0.0

    async def _fetch_tail(self, client: SeesNetworks) -> None:
        chooser = self.query_one(NetworkList)
        network, vif = chooser.network, chooser.vif
        wanted = (network.name if network is not None else "", vif.name if vif is not None else "")
        if wanted != self._tail_of:
            self._tail_of, self._packets, self._seq, self._missed = wanted, (), 0, 0
        if wanted[0]:
            tail = await client.packets(*wanted, since=self._seq, most=KEPT)
            if wanted != self._tail_of:
                return  # another was chosen meanwhile
            self._packets = (*self._packets, *tail.packets)[-KEPT:]
            self._seq, self._missed = tail.seq, self._missed + tail.missed
        self.query_one(PacketsPane).show(self._packets, self._missed, wanted[1] or wanted[0])

    def _show_chosen(self) -> None:
        chooser = self.query_one(NetworkList)
        self.query_one(VifPane).show(chooser.vif, chooser.network, self._history)
        self.query_one(AddressPane).show(chooser.network)

    def on_list_pane_chosen(self, message: ListPane.Chosen) -> None:
        self._show_chosen()
        self.pull_soon()

    def open_target(self) -> tuple[int, str]:
        return self.domid, "rings"

    def action_capture(self) -> None:
        vif = self.query_one(NetworkList).vif
        if vif is None:
            self.app.notify("choose an interface first: a network's own line has none", severity="warning")
            return
        self.run_worker(self._capture(vif), group="command")

    async def _capture(self, vif: VifView) -> None:
        await shell(self).run_command("capture", domid=vif.domid, vif=str(vif.devid))
        self.pull_soon()
