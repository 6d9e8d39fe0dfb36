"""One domain, seen from inside: tabs of panes, each pulled from the engine only while it is in front.

Every pull asks for the parts that the visible tab shows and nothing else; the panes repaint what changed. The screen follows
its domain into death: the last views stay, with a line on what became of it. `<` and `>` go to another domain in the same tab.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import ClassVar

from textual import events
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.css.query import NoMatches
from textual.widgets import Input

from emulator.control.client import NO_ANSWER, EngineFault
from emulator.control.views import DomainDetail, DomainView
from emulator.errors import UserError
from xenconsole.app_protocol import Client, EngineNotice, OverviewArrived, shell
from xenconsole.screens.domain_filter import FilteredScreen
from xenconsole.screens.domain_keys import bindings
from xenconsole.screens.domain_tabs import PARTS, PERIODS, TABS, DomainTabs, Remembers, compose_tabs
from xenconsole.units import printable
from xenconsole.widgets.domain_bar import Banner, DomainBar, ExplainBar, TabBar
from xenconsole.widgets.domain_summary import SHUTDOWN
from xenconsole.widgets.key_line import KeyLine
from xenconsole.widgets.memory_map import MemoryMap
from xenconsole.widgets.pane import ListPane, Pane
from xenconsole.widgets.snapshots_panel import SnapshotList

FLAGS = ("READ-ONLY", "FROZEN", "GONE", "ENGINE LOST")
NARROW = 100
"""Columns below which one pane is shown at a time."""


class DomainScreen(FilteredScreen):
    """Built with the domain's ID. `hertz` scales how often it pulls: 1 as it comes, 0 by hand (`pull()`); `clock` is in
    seconds and what rates are made of."""

    CSS_PATH = "domain.tcss"
    AUTO_FOCUS = None
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (NARROW, "-normal"), (180, "-wide")]  # noqa: RUF012 - as Textual declares it
    VERTICAL_BREAKPOINTS = [(0, "-short"), (30, "-tall")]  # noqa: RUF012
    BINDINGS: ClassVar[list[BindingType]] = bindings()

    def __init__(self, client: Client, domid: int, tab: str = "summary", *, hertz: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self.client = client
        self.domid = domid
        self.tab = tab if tab in PARTS else "summary"
        self.hertz = hertz
        self.detail: DomainDetail | None = None
        self.gone = ""
        self.successor = -1
        self.zoomed = False
        self.tabs = DomainTabs(self, clock)
        self._wake = asyncio.Event()
        self._ended: set[int] = set()
        self._columns = NARROW

    def compose(self) -> ComposeResult:
        yield DomainBar(id="bar")
        yield TabBar(TABS, id="tabs")
        yield Banner(id="banner")
        yield from compose_tabs()
        yield Input(placeholder="regular expression on name, arguments, result and reason; ! inverts", id="filter", compact=True)
        yield ExplainBar(id="explain")
        yield KeyLine(show_command_palette=False, compact=True)

    # life

    def on_mount(self) -> None:
        self._columns = self.app.size.width
        self.show_tab(self.tab)
        self.draw_bar()
        if self.hertz:
            self.run_worker(self._follow(), group="pull", exclusive=True)

    async def _follow(self) -> None:
        """Pull while the screen is in front and not frozen, as often as its tab wants."""
        while not self.client.lost:
            if self.is_current and not self.frozen and not self.gone:
                await self.pull()
            self.draw_bar()
            self._wake.clear()
            try:
                await asyncio.wait_for(self._wake.wait(), PERIODS[self.tab] / self.hertz)
            except TimeoutError:
                continue
        self.draw_bar()

    @property
    def frozen(self) -> bool:
        """Whether the display is frozen (the app's `f`)."""
        return bool(getattr(self.app, "frozen", False))

    async def pull(self) -> None:
        """Ask the engine for what the tab in front shows, and show it."""
        with suppress(NoMatches):  # the screen was taken down while the engine answered
            await self._pull()

    async def _pull(self) -> None:
        if self.gone:
            return
        domid, tab = self.domid, self.tab
        try:
            detail = await self.client.detail(domid, PARTS[tab], self.tabs.since_trace)
            extra = await self.tabs.fetch(self.client, domid, tab, detail)
        except ConnectionError:
            return  # the app tells of a lost engine
        except (UserError, EngineFault, KeyError) as error:
            await self._refused(domid, error)
            return
        if domid == self.domid and self.is_attached:
            self.detail = detail
            self.tabs.show(tab, detail, extra)
            self._after(detail.domain)

    def _after(self, view: DomainView) -> None:
        crashed = bool(view.crash)
        self.query_one("#tab-summary").set_class(crashed and self.tabs.crash is not None, "-crashed")
        if not self.gone:
            text = printable(view.crash) if crashed else ""
            self.query_one(Banner).show(f"crashed: {text}" if text and self.tab != "summary" else "", "1 shows the report")

    async def _refused(self, domid: int, error: Exception) -> None:
        """No detail came: the domain is gone, or the engine says why it has none to give."""
        if domid in self._ended or all(view.domid != domid for view in shell(self).overview.domains):
            await self._bury(domid)
        elif domid == self.domid and self.is_attached:
            self.query_one(Banner).show(f"nothing to show: {printable(str(error))}")

    async def _bury(self, domid: int) -> None:
        """The domain is gone: keep what is shown and say what became of it."""
        obituary = None
        if isinstance(self.client, Remembers):
            with suppress(*NO_ANSWER):  # none kept, or no one left to ask
                obituary = await self.client.obituary(domid)
        if domid != self.domid or not self.is_attached:
            return
        self.gone = "this domain is gone"
        hint = "Esc goes back, < > to another domain"
        if obituary is not None:
            self.gone += f": {SHUTDOWN.get(obituary.reason, obituary.reason)}" if obituary.reason else ""
            self.successor = obituary.restarted_as
            if obituary.crash is not None:
                self.tabs.bury(obituary.domain, obituary.crash)
                self.query_one("#tab-summary").add_class("-crashed")
                self.show_tab("summary")
        if self.successor >= 0:
            hint = f"it runs again as domain {self.successor}: Enter goes there"
        self.query_one(Banner).show(self.gone, hint)
        self.draw_bar()

    @property
    def view(self) -> DomainView | None:
        """The newest view of the domain: the overview's, else what was last seen of it."""
        for view in shell(self).overview.domains:
            if view.domid == self.domid:
                return view
        return self.detail.domain if self.detail is not None and self.detail.domain.domid == self.domid else None

    def on_overview_arrived(self, message: OverviewArrived) -> None:
        self.draw_bar()

    def on_engine_notice(self, message: EngineNotice) -> None:
        if message.kind == "gone":
            self._ended.add(message.domid)
        if message.domid == self.domid and message.kind in ("gone", "state"):
            if self.gone:  # buried by its absence, before it was told whether it runs again
                self.run_worker(self._bury(self.domid), group="bury", exclusive=True)
            self._wake.set()

    def on_screen_resume(self) -> None:
        self._wake.set()
        if self.is_mounted:
            self.draw_bar()

    def draw_bar(self) -> None:
        """The first line: name, state, load."""
        app = shell(self)
        states = (app.read_only, self.frozen, bool(self.gone), bool(self.client.lost))
        flags = tuple(name for name, on in zip(FLAGS, states, strict=True) if on)
        rates, history = app.rates.of(self.domid), app.rates.history(self.domid)
        for bar in self.query(DomainBar):  # none while the screen is taken down
            bar.show(self.domid, self.view, rates, history, flags)

    # tabs and panes

    def show_tab(self, tab: str) -> None:
        """Bring a tab to the front and pull what it shows."""
        if tab not in PARTS:
            return
        self.stop_explaining()
        if tab != self.tab:
            self.close_filter()
        self.tab = tab
        for name, _ in TABS:
            self.query_one(f"#tab-{name}").set_class(name == tab, "-front")
        self.query_one(TabBar).show(tab)
        self.zoomed = False
        self.lay_out()
        if self.hertz == 0:
            self.run_worker(self.pull(), group="pull", exclusive=True)
        self._wake.set()

    def panes(self) -> list[Pane]:
        """The panes of the tab in front that have something to show, in the order of Tab."""
        panes = list(self.query_one(f"#tab-{self.tab}").query(Pane))
        hidden = {"crash": not self.tabs.crash, "vcpu-list": self.tabs.single, "wheel-pair": not self.tabs.paired, "frame": not self.tabs.picked}
        return [pane for pane in panes if not hidden.get(pane.id or "", False)]

    def front_pane(self) -> Pane:
        """The pane with the focus, else the tab's first choice."""
        panes = self.panes()
        first = {"rings": "wheel" if self._columns < NARROW else "ring-list", "vcpus": "registers"}.get(self.tab, "")
        default = next((pane for pane in panes if pane.id == first), panes[0])
        return next((pane for pane in panes if pane.has_class("-front")), default)

    def lay_out(self, front: Pane | None = None) -> None:
        """Put a pane in front: the focus goes there, and where there is room for one alone it is the one seen."""
        tab = self.query_one(f"#tab-{self.tab}")
        front = front or self.front_pane()
        for pane in tab.query(Pane):
            pane.set_class(pane is front, "-front")
        one = self.zoomed or self._columns < NARROW
        tab.set_class(one, "-one")
        for box in tab.query(".row, .column"):
            box.set_class(front in box.query(Pane), "-holds")
        self.set_class(self.tabs.single, "-single")
        self.query_one("#wheel-pair").display = bool(self.tabs.paired) and (not one or front.id == "wheel-pair")
        panes = self.panes()
        for pane in panes:
            pane.set_place(f"{panes.index(pane) + 1} of {len(panes)}, Tab goes on" if one and len(panes) > 1 else "")
        if self.focused is None or isinstance(self.focused, Pane):
            self.set_focus(front)

    def on_resize(self, event: events.Resize) -> None:
        self._columns = event.size.width
        if self.is_mounted:
            self.lay_out()

    def on_descendant_focus(self, event: events.DescendantFocus) -> None:
        widget = self.focused
        if isinstance(widget, Pane) and not widget.has_class("-front") and widget in self.panes():
            self.lay_out(widget)

    def action_tab(self, tab: str) -> None:
        self.show_tab(tab)

    def action_step_tab(self, by: int) -> None:
        names = [name for name, _ in TABS]
        self.show_tab(names[(names.index(self.tab) + by) % len(names)])

    def action_step_pane(self, by: int) -> None:
        panes = self.panes()
        self.stop_explaining()
        self.lay_out(panes[(panes.index(self.front_pane()) + by) % len(panes)])

    def action_zoom(self) -> None:
        self.zoomed = not self.zoomed
        self.lay_out()

    def action_step_item(self, by: int) -> None:
        for chooser in self.query_one(f"#tab-{self.tab}").query(ListPane):
            chooser.action_step(by)

    def on_tab_bar_picked(self, message: TabBar.Picked) -> None:
        self.show_tab(message.name)

    def on_list_pane_chosen(self, message: ListPane.Chosen) -> None:
        self.tabs.refresh(self.tab)

    def on_memory_map_picked(self, message: MemoryMap.Picked) -> None:
        self.run_worker(self.tabs.look(self.client, self.domid, message.pfn), group="frame", exclusive=True)

    # domains

    def action_step_domain(self, by: int) -> None:
        """The guest before or after this one by ID, in the same tab."""
        ids = sorted({view.domid for view in shell(self).overview.domains if view.domid} | {self.domid})
        self.go_to(ids[(ids.index(self.domid) + by) % len(ids)])

    def go_to(self, domid: int) -> None:
        """Show another domain in place of this one."""
        if domid == self.domid:
            return
        self.domid, self.detail, self.gone, self.successor = domid, None, "", -1
        self.tabs.reset()
        self.query_one(Banner).show("")
        self.query_one("#tab-summary").remove_class("-crashed")
        self.stop_explaining()
        self.draw_bar()
        if self.hertz == 0:
            self.run_worker(self.pull(), group="pull", exclusive=True)
        self._wake.set()

    def action_follow(self) -> None:
        if self.gone and self.successor >= 0:
            self.go_to(self.successor)

    def action_leave(self) -> None:
        """Esc: out of a question, an open filter, a zoomed pane; then back."""
        snapshots = self.query_one(SnapshotList)
        if snapshots.asking:
            snapshots.ask("")
        elif self.close_filter() or (self.tab == "memory" and self.tabs.unpick()):
            return
        elif self.zoomed:
            self.action_zoom()
        else:
            shell(self).back()

    # snapshots

    def action_snapshot(self) -> None:
        self.run_worker(self._command("snapshot", self.domid), group="command")  # the app names it

    def action_restore(self) -> None:
        """Ask first, then go back: to the chosen snapshot, from another tab to the newest one."""
        snapshots = self.query_one(SnapshotList)
        if self.tab != "snapshots":
            self.show_tab("snapshots")
            self.run_worker(self._ask_when_listed(), group="command")
        elif snapshots.asking:
            self.action_agree()
        elif snapshots.chosen is not None:
            snapshots.ask(snapshots.chosen.name)

    async def _ask_when_listed(self) -> None:
        domid = self.domid
        await self.pull()
        for snapshots in self.query(SnapshotList):  # none when the screen was taken down meanwhile
            if snapshots.chosen is not None and self.domid == domid:
                snapshots.ask(snapshots.chosen.name)

    def action_agree(self) -> None:
        snapshots = self.query_one(SnapshotList)
        if snapshots.asking:
            name = snapshots.asking
            snapshots.ask("")
            self.run_worker(self._command("restore", self.domid, name), group="command")

    def action_forget(self) -> None:
        chosen = self.query_one(SnapshotList).chosen
        if self.tab == "snapshots" and chosen is not None:
            self.run_worker(self._command("forget", self.domid, chosen.name), group="command")

    async def _command(self, command: str, domid: int, name: str = "") -> None:
        """Run a command on a snapshot of the domain it was asked for, whichever is in front when the answer comes."""
        await shell(self).run_command(command, domid=domid, name=name)
        if domid == self.domid and not self.gone:
            await self.pull()
            self._wake.set()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Keys that mean something here only in one state go on to the app in the others."""
        if action == "forget":
            return self.tab == "snapshots"
        if action == "agree":
            return self.is_mounted and bool(self.query_one(SnapshotList).asking)
        if action == "follow":
            return bool(self.gone) and self.successor >= 0
        return True
