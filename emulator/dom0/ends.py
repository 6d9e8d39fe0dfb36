"""What follows the ends of domains, as on_poweroff= and its like want it: taken away, restarted, dumped, kept. Done by a thread of its own, so
that no CPU waits for it; it looks after those that sleep long, too."""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING, Final

from emulator.dom0 import coredump
from emulator.dom0.obituaries import Obituary
from emulator.dom0.resting import LOOK_SECONDS, REST_AFTER_SECONDS
from emulator.errors import UserError

if TYPE_CHECKING:
    from emulator.dom0.config import DomainConfig
    from emulator.dom0.guest import Guest
    from emulator.dom0.toolstack import Toolstack

_QUICK_NS: Final = 2_000_000_000
_QUICK_ENDS: Final = 5


class Ends:
    """Of a toolstack."""

    def __init__(self, tools: Toolstack) -> None:
        self._tools = tools
        self._ended: queue.Queue[Guest | None] = queue.Queue()
        self._quick: dict[str, int] = {}  # by name: ends in a row that came quickly
        self._thread = threading.Thread(target=self._work, name="toolstack", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Returns when what is under way is done."""
        self._ended.put(None)
        self._thread.join()

    def put(self, guest: Guest) -> None:
        """It has ended. Any thread."""
        self._ended.put(guest)

    def _work(self) -> None:
        tools = self._tools
        while True:
            try:
                guest = self._ended.get(timeout=LOOK_SECONDS)
            except queue.Empty:
                tools.rests.look(REST_AFTER_SECONDS)
                continue
            if guest is None:
                return
            try:
                self._follow_up(guest)
            except UserError as error:
                tools.say("error", guest.domid, error.line())
            except Exception as failure:  # noqa: BLE001 - our own bug, or the host's lack: other ends are followed up all the same
                tools.say("error", guest.domid, f"the toolstack failed: {type(failure).__name__}: {failure}")

    def _follow_up(self, guest: Guest) -> None:
        """What the configuration wants after an end."""
        tools, domain, domid = self._tools, guest.domain, guest.domid
        reason = domain.ended
        if tools.guests.get(domid) is not guest or not reason:  # gone, or restored before we came to it
            return
        tools.store.shut_down(domid)
        if reason == "crash":
            self._examine(guest)
        action = guest.config.action_on(reason)
        why = f" ({domain.crash_reason})" if domain.crash_reason else ""
        tools.say("info" if reason != "crash" else "error", domid, f"{guest.name} ended: {reason}{why}")
        tools.tell("state", domid)
        if action == "preserve":
            return
        if action.startswith("coredump-"):
            coredump.keep(tools, guest)
        restart = action in ("restart", "rename-restart", "coredump-restart", "soft-reset") and self._may_restart(guest)
        if action == "rename-restart":
            if restart:
                config = guest.config
                tools.rename(domid, f"{guest.name}-{domid}")
                self._restart(config, None)
            return
        obituary = tools.take_away(guest, reason, tell=not restart)
        if restart and obituary is not None:
            try:
                self._restart(obituary.config, obituary)
            finally:
                tools.tell("gone", domid)  # also where no successor can be made: whoever follows the domain waits for it

    def _restart(self, config: DomainConfig, obituary: Obituary | None) -> None:
        domid = self._tools.create(config, False, lambda text: None)
        if obituary is not None:
            obituary.restarted_as = domid

    def _may_restart(self, guest: Guest) -> bool:
        """A guest that keeps ending within two seconds is not restarted for ever (libxl's minimum restart time)."""
        ends = self._quick.pop(guest.name, 0) + 1
        if guest.domain.clock.now() >= _QUICK_NS:
            return True
        self._quick[guest.name] = ends
        if ends >= _QUICK_ENDS:
            self._tools.say("error", guest.domid, f"{guest.name} ended {_QUICK_ENDS} times within two seconds: not restarted again")
        return ends < _QUICK_ENDS

    def _examine(self, guest: Guest) -> None:
        """Keep how a crashed domain lies. What its configuration wants is done without that as well."""
        try:
            self._tools.autopsy(guest)
        except UserError as error:  # destroyed meanwhile, or the machine is stalled
            self._tools.say("warning", guest.domid, f"{guest.name} is not examined: {error.line()}")
