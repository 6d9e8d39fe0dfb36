"""Which view is in front: a stack of screens over the overview, consoles kept while their domain lives, the way back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from textual.screen import ModalScreen, Screen

from xenconsole.commands import find_command
from xenconsole.screens.confirm import ConfirmScreen, LostScreen, TooSmallScreen
from xenconsole.screens.console import ConsoleScreen
from xenconsole.screens.domain import DomainScreen
from xenconsole.screens.help import HelpScreen, group_of
from xenconsole.screens.host import HostScreen
from xenconsole.screens.logs import LogsScreen
from xenconsole.screens.matrix import MatrixScreen
from xenconsole.screens.networks import NetworksScreen
from xenconsole.screens.overview import OverviewScreen
from xenconsole.screens.scheduler import SchedulerScreen
from xenconsole.screens.storage import StorageScreen

if TYPE_CHECKING:
    from xenconsole.app import ConsoleApp


HOST_SCREENS: dict[str, type[HostScreen]] = {"matrix": MatrixScreen, "networks": NetworksScreen, "storage": StorageScreen}
"""Views of the whole host by kind, beside Domain-0's own, the scheduler's."""
SETTLE_LOOKS = 400
"""How often a view that is put up is looked at before things are done in spite of it: two seconds, but a machine's stall is one look."""


class Navigator:
    """Moves one app between its views. A view is (kind, domid): overview, domain, console, tiles, logs or a host screen."""

    def __init__(self, app: ConsoleApp) -> None:
        self.app = app
        self._views: list[tuple[str, int]] = [("overview", -1)]
        self._consoles: dict[int, ConsoleScreen] = {}
        self._tiled: tuple[int, ...] = ()

    async def settled(self) -> None:
        """Wait until the view in front is put up whole: one that is taken down before that fails half-way."""
        for _ in range(SETTLE_LOOKS):
            if self.app.screen.is_mounted:
                return
            await asyncio.sleep(0.005)  # Textual tells nobody

    def _unsettled(self, step: Callable[[], None]) -> bool:
        """Whether the view in front is still being put up; `step` is done when it is there."""
        if self.app.screen.is_mounted:
            return False

        async def wait() -> None:
            await self.settled()
            step()

        self.app.start(wait())
        return True

    def _go(self, view: tuple[str, int]) -> None:
        """Bring a view to the front: one that lies below is uncovered, one of the same kind replaces the one in front."""
        if self._unsettled(lambda: self._go(view)):
            return
        while isinstance(self.app.screen, ModalScreen) and not isinstance(self.app.screen, TooSmallScreen | ConfirmScreen | LostScreen):
            self.app.pop_screen()
        if isinstance(self.app.screen, ModalScreen):
            return
        self._views = [*[v for v in self._views if v != view], view][-8:]
        kind, domid = view
        if kind == "overview":
            while len(self.app.screen_stack) > 1:
                self.app.pop_screen()
            return
        screen = self._screen_for(kind, domid)
        if screen in self.app.screen_stack:
            while self.app.screen is not screen:
                self.app.pop_screen()
        elif type(self.app.screen) is type(screen):
            self.app.switch_screen(screen)
        else:
            self.app.push_screen(screen)

    def _screen_for(self, kind: str, domid: int) -> Screen[Any]:
        """The screen of a view: the kept console, the one on the stack, or a new one."""
        if kind == "console":
            if domid not in self._consoles:
                self._consoles[domid] = ConsoleScreen(self.app.client, [domid])
                self.app.install_screen(self._consoles[domid], f"console-{domid}")
            return self._consoles[domid]
        if kind == "tiles":
            front = self.app.screen
            same = isinstance(front, ConsoleScreen) and front.domids == self._tiled
            return front if same else ConsoleScreen(self.app.client, self._tiled)
        if kind in HOST_SCREENS:
            there = (screen for screen in self.app.screen_stack if type(screen) is HOST_SCREENS[kind])
            return next(there, None) or HOST_SCREENS[kind](self.app.client)
        kinds: dict[str, type[Screen[Any]]] = {"domain": DomainScreen, "logs": LogsScreen}
        wanted = kinds[kind] if (kind, domid) != ("domain", 0) else SchedulerScreen
        screens: list[Screen[Any]] = self.app.screen_stack
        for screen in screens:
            if type(screen) is wanted and getattr(screen, "domid", domid) == domid:
                return screen
        if wanted is SchedulerScreen:
            return SchedulerScreen(self.app.client)
        if kind == "domain":
            return DomainScreen(self.app.client, domid)
        return LogsScreen()

    def forget_consoles(self) -> None:
        """Drop kept consoles of domains that are gone, unless one is being looked at."""
        alive = {view.domid for view in self.app.overview.domains}
        for domid in [d for d, s in self._consoles.items() if d not in alive and s not in self.app.screen_stack]:
            self.app.uninstall_screen(f"console-{domid}")
            screen = self._consoles.pop(domid)
            if screen.is_mounted:
                self.app.call_later(screen.remove)

    def switch_console(self, domid: int) -> None:
        if domid == 0:
            self.app.notify("Domain-0 is the engine itself: it has no console (l shows its log)", severity="warning")
        elif any(view.domid == domid for view in self.app.overview.domains) or domid in self._consoles:
            self._go(("console", domid))
        else:
            self.app.notify(f"domain {domid} does not exist", severity="warning")

    def open_tiles(self, domids: tuple[int, ...]) -> None:
        """Their consoles side by side."""
        self._tiled = domids
        self._go(("tiles", -1))

    def open_domain(self, domid: int, tab: str = "") -> None:
        if domid >= 0:
            self._go(("domain", domid))
            if tab:
                self.app.start(self._show_tab(domid, tab))

    async def _show_tab(self, domid: int, tab: str) -> None:
        await self.settled()
        screen = self.app.screen
        if isinstance(screen, DomainScreen) and screen.domid == domid:
            screen.show_tab(tab)

    def open_snapshots(self, domid: int) -> None:
        """The snapshots of a domain, on its own screen."""
        if domid > 0:
            self.open_domain(domid, "snapshots")
        elif domid == 0:
            self.app.notify("Domain-0 is the engine itself: it has no snapshots", severity="warning")

    def open_host(self, kind: str) -> None:
        """One of HOST_SCREENS."""
        self._go((kind, -1))

    def open_logs(self) -> None:
        self._go(("logs", -1))

    def show_overview(self) -> None:
        self._go(("overview", -1))

    def back(self) -> None:
        if len(self.app.screen_stack) > 1 and not self._unsettled(self.back):
            self.app.pop_screen()

    def _view_of(self, screen: Screen[Any]) -> tuple[str, int] | None:
        """What a screen on the stack shows; None for a dialog."""
        kinds: dict[type[Screen[Any]], str] = {
            **{made: kind for kind, made in HOST_SCREENS.items()},
            DomainScreen: "domain",
            SchedulerScreen: "domain",
            LogsScreen: "logs",
            OverviewScreen: "overview",
        }
        if isinstance(screen, ConsoleScreen):
            return ("console", screen.domids[0]) if len(screen.domids) == 1 else ("tiles", -1)
        kind = kinds.get(type(screen))
        return (kind, screen.domid if isinstance(screen, DomainScreen | SchedulerScreen) else -1) if kind else None

    def last_view(self) -> None:
        """The newest view that was opened and is not in front; opened twice, it goes to and fro."""
        front, alive = self._view_of(self.app.screen), {view.domid for view in self.app.overview.domains}
        for view in reversed(self._views):
            if view != front and (view[1] < 0 or view[1] in alive):
                self._go(view)
                return

    def step_domain(self, by: int) -> None:
        """The domain above or below in the table's order, in the same view."""
        table, front = self.app.base_table(), self.app.screen
        order = table.order
        if isinstance(front, DomainScreen | SchedulerScreen) and front.domid in order:
            domid = order[(order.index(front.domid) + by) % len(order)]
            table.move_to(domid)
            self._go(("domain", domid))
        else:
            table.step(by)

    def open_help(self) -> None:
        """Help on the keys that work right now."""
        if self._unsettled(self.open_help) or isinstance(self.app.screen, HelpScreen):
            return
        found: dict[str, tuple[str, list[str], str]] = {}
        for active in self.app.screen.active_bindings.values():
            binding = active.binding
            command = find_command(binding.id or "")
            text = command.help if command is not None else binding.tooltip or binding.description
            if text and not (binding.id or "").startswith("to-console"):
                entry = found.setdefault(binding.id or binding.action, (group_of(binding.id or ""), [], text))
                entry[1].append(self.app.get_key_display(binding))
        lines = [(group, " ".join(dict.fromkeys(keys)), text) for group, keys, text in found.values()]
        lines.append((group_of("to-console"), "Alt+1…9", "straight to that domain's console"))
        self.app.push_screen(HelpScreen(lines))
