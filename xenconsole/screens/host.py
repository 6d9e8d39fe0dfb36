"""What the host's own screens have in common: the host strip, panes beside each other or one at a time, explanations, the way back.

Such a screen pulls what it shows from the engine by itself, while it is in front and the display is not frozen.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import ClassVar

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.css.query import NoMatches

from emulator.control.client import EngineFault
from emulator.errors import UserError
from xenconsole.app_protocol import Client, OverviewArrived, shell
from xenconsole.screens.explaining import ExplainingScreen
from xenconsole.units import printable
from xenconsole.widgets.domain_bar import Banner, ExplainBar
from xenconsole.widgets.host_strip import HostStrip
from xenconsole.widgets.key_line import KeyLine
from xenconsole.widgets.pane import FilteredPane, Pane


class HostScreen(ExplainingScreen):
    """`hertz` scales how often it pulls: 1 as it comes, 0 by hand (`pull()`); `clock` is in seconds and what rates are made of.

    Subclasses give `compose_panes`, `fetch` and, if they show it, `take_overview`."""

    CSS_PATH = "host.tcss"
    period_s: ClassVar[float] = 0.25
    """Seconds between two pulls."""
    room: ClassVar[tuple[int, int]] = (100, 30)
    """Columns and rows below which one pane is shown at a time."""
    filtered: ClassVar[str] = ""
    """The FilteredPane that `/` filters, as a selector."""
    # the panes tell of Tab and Enter themselves, so that 80 columns still hold the help's key and that of quit
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("tab", "step_pane(1)", "pane", show=False, tooltip="next pane", id="host.next-pane"),
        Binding("shift+tab", "step_pane(-1)", "pane", show=False, tooltip="previous pane", id="host.previous-pane"),
        Binding("z", "zoom", "zoom", tooltip="this pane alone, or all", id="host.zoom"),
        Binding("enter", "open", "open", show=False, tooltip="the chosen line's domain", id="host.open"),
        Binding("escape", "leave", "back", show=False, id="host.back"),
    ]

    def __init__(self, client: Client, *, hertz: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self.client = client
        self.hertz = hertz
        self.clock = clock
        self.zoomed = False
        self._wake = asyncio.Event()

    # what a subclass is

    def compose_panes(self) -> ComposeResult:
        """The panes, in the order of Tab."""
        raise NotImplementedError

    async def fetch(self) -> None:
        """Ask the engine and show what it says. May raise ConnectionError, UserError or EngineFault."""
        raise NotImplementedError

    def take_overview(self) -> None:
        """A new overview is there, or the screen came back to the front."""

    def open_target(self) -> tuple[int, str]:
        """The domain that Enter opens (-1: none) and the tab it is opened at."""
        return -1, ""

    # the rest

    def compose(self) -> ComposeResult:
        yield HostStrip(id="host")
        yield Banner(id="banner")
        yield from self.compose_panes()
        yield ExplainBar(id="explain")
        yield KeyLine(show_command_palette=False, compact=True)

    def on_mount(self) -> None:
        self.lay_out()
        self.draw()
        self.run_worker(self._follow() if self.hertz else self.pull(), group="pull", exclusive=True)

    async def _follow(self) -> None:
        while not self.client.lost:
            if self.is_current and not bool(getattr(self.app, "frozen", False)):
                await self.pull()
            self._wake.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), self.period_s / self.hertz)

    def pull_soon(self) -> None:
        """What is shown was changed by a key: ask now, not with the next beat."""
        if self.hertz:
            self._wake.set()
        else:
            self.run_worker(self.pull(), group="pull", exclusive=True)

    async def pull(self) -> None:
        """Ask for what is shown, and show it."""
        said = ""
        try:
            with suppress(NoMatches):  # taken down while the engine answered
                await self.fetch()
        except ConnectionError:
            return  # the app tells of a lost engine
        except (UserError, EngineFault) as error:
            said = f"nothing new to show: {printable(str(error))}"
        for banner in self.query(Banner):
            banner.show(said)

    def on_overview_arrived(self, message: OverviewArrived) -> None:
        self.draw()

    def on_screen_resume(self) -> None:
        self._wake.set()
        if self.is_mounted:
            self.draw()

    def draw(self) -> None:
        """Show what the app's overview tells."""
        app = shell(self)
        flags = (("READ-ONLY", app.read_only), ("FROZEN", bool(getattr(self.app, "frozen", False))))
        for strip in self.query(HostStrip):  # none while the screen is taken down
            strip.show(app.overview, app.rates, tuple(name for name, on in flags if on), self.client.lost)
            self.take_overview()

    # panes

    def panes(self) -> list[Pane]:
        """Those that have something to show, in the order of Tab."""
        return [pane for pane in self.query(Pane) if pane.can_focus and pane.id not in ("explain", "banner") and not pane.has_class("-idle")]

    def filter_pane(self) -> FilteredPane | None:
        """The pane that `/` filters, None when the screen has none."""
        return self.query_one(self.filtered, FilteredPane) if self.filtered else None

    def front_pane(self) -> Pane:
        panes = self.panes()
        return next((pane for pane in panes if pane.has_focus), next((pane for pane in panes if pane.has_class("-front")), panes[0]))

    def lay_out(self, front: Pane | None = None) -> None:
        """Put a pane in front: the focus goes there, and where there is room for one alone it is the one seen."""
        front = front or self.front_pane()
        size, room = self.app.size, self.room
        one = self.zoomed or size.width < room[0] or size.height < room[1]
        panes = self.panes()
        for pane in panes:
            pane.set_class(pane is front, "-front")
            pane.set_place(f"{panes.index(pane) + 1} of {len(panes)}, Tab goes on" if one and len(panes) > 1 else "")
        self.set_class(one, "-one")
        for box in self.query(".row, .column"):
            box.set_class(front in box.query(Pane), "-holds")
        if self.focused is None or isinstance(self.focused, Pane):
            self.set_focus(front)

    def on_resize(self, event: events.Resize) -> None:
        if self.is_mounted:
            self.lay_out()

    def on_descendant_focus(self, event: events.DescendantFocus) -> None:
        widget = self.focused
        if isinstance(widget, Pane) and not widget.has_class("-front") and widget in self.panes():
            self.lay_out(widget)

    def action_step_pane(self, by: int) -> None:
        panes = self.panes()
        self.stop_explaining()
        self.lay_out(panes[(panes.index(self.front_pane()) + by) % len(panes)])

    def action_zoom(self) -> None:
        self.zoomed = not self.zoomed
        self.lay_out()

    def action_open(self) -> None:
        domid, tab = self.open_target()
        if domid >= 0:
            shell(self).open_domain(domid, tab)

    def action_leave(self) -> None:
        pane = self.filter_pane()
        if pane is not None and pane.filter.text:
            pane.set_filter("")
        elif self.zoomed:
            self.action_zoom()
        else:
            shell(self).back()
