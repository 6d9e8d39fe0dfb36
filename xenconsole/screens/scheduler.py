"""Domain-0's own screen: the scheduler at work. Who ran where, who waits with what credit, and what each vCPU got and missed."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import ClassVar

from textual.app import ComposeResult

from emulator.control.schedulingviews import RunQueueView
from xenconsole.app_protocol import Client, OverviewArrived, shell
from xenconsole.screens.host import HostScreen
from xenconsole.widgets.pools_panel import PoolsPane
from xenconsole.widgets.ports_panel import CountRates
from xenconsole.widgets.run_queue import QueuePane, StripPane, VcpuTimes


class SchedulerScreen(HostScreen):
    """See HostScreen; `clock` is what steal is measured by."""

    AUTO_FOCUS = "#vcpu-times"
    filtered = "#vcpu-times"
    period_s = 0.125
    room: ClassVar[tuple[int, int]] = (0, 20)

    domid = 0

    def __init__(self, client: Client, *, hertz: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(client, hertz=hertz, clock=clock)
        self._at = 0.0
        self._steal = CountRates()
        self._shares: dict[str, float] = {}

    def compose_panes(self) -> ComposeResult:
        yield StripPane(id="strip")
        yield PoolsPane(id="pools")
        yield QueuePane(id="queue")
        yield VcpuTimes(id="vcpu-times")

    async def fetch(self) -> None:
        detail = await self.client.detail(0, ("runqueue",))
        self._show(detail.runqueue or RunQueueView())

    def _show(self, queue: RunQueueView) -> None:
        overview = shell(self).overview
        names = {view.domid: view.name for view in overview.domains if view.domid}
        self.query_one(StripPane).show(queue, overview.host, names)
        self.query_one(QueuePane).show(queue, names, several=len(overview.host.pools) > 1)

    def on_overview_arrived(self, message: OverviewArrived) -> None:
        now = self.clock()
        steal = {f"{view.domid}.{vcpu.vcpu}": vcpu.steal_ns for view in message.overview.domains for vcpu in view.vcpus}
        self._shares = self._steal.feed(steal, now - self._at if self._at else 0.0)
        self._at = now
        self.draw()

    def take_overview(self) -> None:
        app = shell(self)
        guests = [view for view in app.overview.domains if view.domid]
        self.query_one(PoolsPane).show(app.overview.host.pools, app.rates.cpus, app.overview.domains)
        self.query_one(VcpuTimes).show(guests, {view.domid: app.rates.of(view.domid).vcpus for view in guests}, self._shares)

    def open_target(self) -> tuple[int, str]:
        return self.query_one(VcpuTimes).chosen, "vcpus"
