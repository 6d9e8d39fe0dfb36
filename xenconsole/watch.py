"""What a person is told unasked: a guest that ended or crashed, an engine that was lost and what went with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from emulator.control.client import NO_ANSWER
from emulator.control.views import DomainView, Overview
from xenconsole.screens.confirm import LostScreen
from xenconsole.terminal.session import Mourner
from xenconsole.units import printable

if TYPE_CHECKING:
    from xenconsole.app import ConsoleApp

NAMED = 6
"""Guests named in one line; the others are counted."""
_ENDS = {"poweroff": "powered off", "reboot": "rebooted", "crash": "crashed", "suspend": "suspended"}


def guests_in_words(domains: Sequence[DomainView]) -> str:
    """The guests among them, snapshots counted: `linux (2 snapshots), shell`."""
    words = [
        printable(v.name) + (f" ({v.snapshots} snapshot{'s' if v.snapshots > 1 else ''})" if v.snapshots else "") for v in domains if v.domid
    ]
    more = f" and {len(words) - NAMED} more" if len(words) > NAMED else ""
    return ", ".join(words[:NAMED]) + more


class Watch:
    """Watches one app's engine and guests."""

    def __init__(self, app: ConsoleApp) -> None:
        self.app = app
        self._told_lost = self._restarting = False
        self._fault = ""

    # guests

    def look(self, before: Overview, now: Overview) -> None:
        """Tell of guests that crashed or went since the overview before, but not of one whose console is in front."""
        self._fault = ""
        old = {view.domid: view for view in before.domains if view.domid}
        front = {domid for screen in self.app.visible_screens() for domid in getattr(screen, "domids", ())}
        for view in now.domains:
            was = old.pop(view.domid, None)
            if was is not None and view.domid not in front and (view.crash or view.shutdown) and not (was.crash or was.shutdown):
                name = printable(view.name)
                told = f"{name} crashed: {printable(view.crash)}" if view.crash else f"{name} {_ENDS.get(view.shutdown, view.shutdown)}"
                self.app.notify(told, severity="error" if view.crash else "information", markup=False, timeout=8)
        if before.host.engine_pid == now.host.engine_pid:
            for domid in old.keys() - front - self.app.actions.destroyed:
                self.app.start(self._tell_end(old[domid]))

    async def _tell_end(self, view: DomainView) -> None:
        client = self.app.client
        if not isinstance(client, Mourner):
            return
        try:
            obituary = await client.obituary(view.domid)
        except NO_ANSWER:
            return  # a lost engine is told by itself
        if obituary is None or obituary.reason == "destroyed":
            return
        crash = printable(obituary.domain.crash)
        told = f"{printable(view.name)} {_ENDS.get(obituary.reason, printable(obituary.reason))}"
        told += f": {crash}" if crash and obituary.reason == "crash" else ""
        told += f", and runs again as domain {obituary.restarted_as}" if obituary.restarted_as >= 0 else ""
        self.app.notify(told, severity="error" if obituary.reason == "crash" else "information", markup=False, timeout=8)

    # the engine

    def begin(self) -> None:
        """There is an engine, the first or another one."""
        self._told_lost = False

    def miss(self, fault: str) -> None:
        """The engine lives and had no overview to give: tell it once, and go on asking."""
        if fault != self._fault:
            self._fault = fault
            self.app.report(fault, "error")

    def lose(self) -> None:
        """The engine is gone: tell it once, and offer what can be done."""
        app = self.app
        if self._told_lost or not app.is_running or app.return_code is not None:
            return
        self._told_lost = True
        why = printable(app.client.lost or "the engine does not answer")
        app.report(f"engine lost: {why}", "error", toast=False)
        app.draw_flags()
        lost = guests_in_words(app.overview.domains)
        tail = tuple(f"{e.source}: {printable(e.text)}" for e in list(app.events.entries)[-7:-1])
        app.start(self._ask(LostScreen(why, tail, lost=lost, can_restart=app.can_restart)))

    async def _ask(self, screen: LostScreen) -> None:
        choice = await self.app.actions.ask(screen)
        if choice == "restart":
            await self.restart()
        elif choice == "quit":
            await self.app.leave(1)

    async def restart(self) -> None:
        """Another engine with the guests of the start; says what went with the old one."""
        app = self.app
        if not app.client.lost or not app.can_restart:
            app.notify("the engine lives" if not app.client.lost else "it cannot be started again from here", severity="warning")
            return
        if self._restarting:
            return
        self._restarting, lost = True, guests_in_words(app.overview.domains)
        try:
            await app.take_new_engine()
        except ConnectionError as error:
            app.report(f"the engine did not start: {error}", "error")
            return
        finally:
            self._restarting = False
        app.report(f"a new engine runs; lost with the old one: {lost or 'no guest'}", "warning")
