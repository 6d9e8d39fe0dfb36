"""Domain-0's own screen: the scheduler at work. Who ran where, who waits with what credit, and what each vCPU got and missed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.css.query import NoMatches
from textual.screen import Screen
from textual.widgets import Footer

from emulator.control.client import EngineFault
from emulator.control.views import RunQueueView
from emulator.errors import UserError
from xenconsole.app_protocol import Client, OverviewArrived, shell
from xenconsole.widgets.domain_bar import ExplainBar
from xenconsole.widgets.host_strip import HostStrip
from xenconsole.widgets.pane import Pane
from xenconsole.widgets.ports_panel import CountRates
from xenconsole.widgets.run_queue import QueuePane, StripPane, VcpuTimes

PERIOD_S = 0.125
"""Seconds between two pulls."""


class SchedulerScreen(Screen[None]):
    """`hertz` scales how often it pulls: 1 as it comes, 0 by hand (`pull()`); `clock` is in seconds, what steal is measured by."""

    CSS_PATH = "scheduler.tcss"
    AUTO_FOCUS = "#vcpu-times"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("tab", "step_pane(1)", "pane", tooltip="next pane", id="scheduler.next-pane"),
        Binding("shift+tab", "step_pane(-1)", "pane", show=False, tooltip="previous pane", id="scheduler.previous-pane"),
        Binding("z", "zoom", "zoom", tooltip="this pane alone, or all", id="scheduler.zoom"),
        Binding("enter", "open", "open", tooltip="the chosen vCPU's domain", id="scheduler.open"),
        Binding("escape", "leave", "back", show=False, id="scheduler.back"),
    ]

    domid = 0

    def __init__(self, client: Client, *, hertz: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self.client = client
        self.hertz = hertz
        self._clock = clock
        self._at = 0.0
        self._steal = CountRates()
        self._shares: dict[str, float] = {}

    def compose(self) -> ComposeResult:
        yield HostStrip(id="host")
        yield StripPane(id="strip")
        yield QueuePane(id="queue")
        yield VcpuTimes(id="vcpu-times")
        yield ExplainBar(id="explain")
        yield Footer(show_command_palette=False, compact=True)

    def on_mount(self) -> None:
        self.draw()
        self.run_worker(self._follow() if self.hertz else self.pull(), group="pull", exclusive=True)

    async def _follow(self) -> None:
        while not self.client.lost:
            if self.is_current and not bool(getattr(self.app, "frozen", False)):
                await self.pull()
            await asyncio.sleep(PERIOD_S / self.hertz)

    async def pull(self) -> None:
        """Ask for the run queue and show it."""
        try:
            detail = await self.client.detail(0, ("runqueue",))
        except (ConnectionError, UserError, EngineFault):
            return  # the app tells of a lost engine; Domain-0 is never gone
        with suppress(NoMatches):  # taken down while the engine answered
            self._show(detail.runqueue or RunQueueView())

    def _show(self, queue: RunQueueView) -> None:
        overview = shell(self).overview
        domains = {view.domid: view for view in overview.domains if view.domid}
        names = {domid: view.name for domid, view in domains.items()}
        self.query_one(StripPane).show(queue, overview.host, names)
        self.query_one(QueuePane).show(queue, overview.host, domains)

    def on_overview_arrived(self, message: OverviewArrived) -> None:
        now = self._clock()
        steal = {f"{view.domid}.{vcpu.vcpu}": vcpu.steal_ns for view in message.overview.domains for vcpu in view.vcpus}
        self._shares = self._steal.feed(steal, now - self._at if self._at else 0.0)
        self._at = now
        self.draw()

    def on_screen_resume(self) -> None:
        if self.is_mounted:
            self.draw()

    def draw(self) -> None:
        """Show what the app's overview tells."""
        app = shell(self)
        flags = (("READ-ONLY", app.read_only), ("FROZEN", bool(getattr(self.app, "frozen", False))))
        for strip in self.query(HostStrip):  # none while the screen is taken down
            strip.show(app.overview, app.rates, tuple(name for name, on in flags if on), self.client.lost)
        guests = [view for view in app.overview.domains if view.domid]
        for times in self.query(VcpuTimes):
            times.show(guests, {view.domid: app.rates.of(view.domid).vcpus for view in guests}, self._shares)

    def action_step_pane(self, by: int) -> None:
        panes = [pane for pane in self.query(Pane) if pane.can_focus and pane.id != "explain"]
        front = next((at for at, pane in enumerate(panes) if pane.has_focus), 0)
        self._stop_explaining()
        chosen = panes[(front + by) % len(panes)]
        for pane in panes:
            pane.set_class(pane is chosen, "-front")
        self.set_focus(chosen)

    def action_zoom(self) -> None:
        for pane in self.query(Pane):
            pane.set_class(pane.has_focus, "-front")
        self.toggle_class("-zoomed")

    def action_open(self) -> None:
        domid = self.query_one(VcpuTimes).chosen
        if domid >= 0:
            shell(self).open_domain(domid, "vcpus")

    def action_leave(self) -> None:
        if self.has_class("-zoomed"):
            self.remove_class("-zoomed")
        else:
            shell(self).back()

    def on_pane_explain(self, message: Pane.Explain) -> None:
        self.query_one(ExplainBar).show(message.field)

    def _stop_explaining(self) -> None:
        for pane in self.query(Pane):
            if pane.explaining:
                pane.stop_explaining()
        self.query_one(ExplainBar).show("")
