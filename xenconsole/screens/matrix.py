"""Who shares what with whom: event channels and grants of every two domains, and what lies behind the chosen pair."""

from __future__ import annotations

import time
from collections.abc import Callable

from textual.app import ComposeResult

from xenconsole.app_protocol import Client, shell
from xenconsole.screens.host import HostScreen
from xenconsole.widgets.link_matrix import LinkMatrix, LinkPane
from xenconsole.widgets.ports_panel import CountRates


class MatrixScreen(HostScreen):
    """See HostScreen."""

    AUTO_FOCUS = "#links"
    filtered = "#links"
    period_s = 0.5

    def __init__(self, client: Client, *, hertz: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(client, hertz=hertz, clock=clock)
        self._link_rates, self._port_rates = CountRates(), CountRates()
        self._asked_at = self._detail_at = 0.0
        self._of = -1

    def compose_panes(self) -> ComposeResult:
        yield LinkMatrix(id="links")
        yield LinkPane(id="link")

    @property
    def domid(self) -> int:
        """The domain of the chosen row: what keys that act on a domain are for."""
        return self.query_one(LinkMatrix).row

    async def fetch(self) -> None:
        links = (await self.client.detail(0, ("links",))).links
        now, names = self.clock(), {view.domid: view.name for view in shell(self).overview.domains}
        rates = self._link_rates.feed({f"{link.domid}.{link.peer}": link.events for link in links}, self._since(self._asked_at))
        rates |= {f"0.{link.domid}": rates.get(f"{link.domid}.0", 0.0) for link in links if not link.peer}
        self._asked_at = now
        matrix = self.query_one(LinkMatrix)
        matrix.show(links, names, rates)
        await self._fetch_pair(matrix, names)

    async def _fetch_pair(self, matrix: LinkMatrix, names: dict[int, str]) -> None:
        link, pane = matrix.chosen, self.query_one(LinkPane)
        asked = link.domid or link.peer  # of what Domain-0 shares, the guest tells
        if asked not in names or asked <= 0:
            pane.show(link, None, {}, names)
            return
        detail = await self.client.detail(asked, ("ports", "grants"))
        if self._of != asked:
            self._of, self._port_rates, self._detail_at = asked, CountRates(), 0.0
        rates = self._port_rates.feed({str(port.port): port.count for port in detail.ports}, self._since(self._detail_at))
        self._detail_at = self.clock()
        pane.show(link, detail, rates, names)

    def _since(self, at: float) -> float:
        return self.clock() - at if at else 0.0

    def on_link_matrix_chosen(self, message: LinkMatrix.Chosen) -> None:
        self.pull_soon()

    def open_target(self) -> tuple[int, str]:
        return self.domid, "events"
