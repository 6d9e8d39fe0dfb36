"""The automatic balloon policy at work: once a second it looks at what guests say and moves targets. Off unless asked for.

The signal is the guest's own: `data/meminfo_free` in its xenstore directory, KiB that its programs could have (XAPI's guest agents write
it so). The hypervisor alone cannot tell memory that a guest needs from memory that it fills because it is there. A guest that does not
write it keeps what it has.
A domain's least is minmem= or what mem-min says (half of memory= without either), its most is maxmem= or mem-max."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from emulator.dom0.balloonpolicy import BalloonPolicy, Member, PolicyReport
from emulator.errors import UserError

if TYPE_CHECKING:
    from emulator.dom0.guest import Guest
    from emulator.dom0.toolstack import Toolstack

_PERIOD_S: Final = 1.0
_MOST_DIGITS: Final = 12


class Autoballoon:
    """For one host. Any thread."""

    def __init__(self, tools: Toolstack) -> None:
        self._tools = tools
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()

    @property
    def is_on(self) -> bool:
        return self._thread is not None

    def turn(self, on: bool) -> None:
        """On or off; what targets there are stay, and once it is off none is moved."""
        with self._lock:
            if on and self._thread is None:
                self._stop.clear()
                self._thread = threading.Thread(target=self._run, name="balloon", daemon=True)
                self._thread.start()
            elif not on and self._thread is not None:
                self._stop.set()
                self._thread.join()
                self._thread = None

    def _run(self) -> None:
        policy = BalloonPolicy()
        while not self._stop.wait(_PERIOD_S):
            self.round(policy)

    def round(self, policy: BalloonPolicy) -> None:
        for order in policy.decide([member for _name, member in self._members()], self._tools.pool.free * 4):
            try:
                self._tools.set_memory(order.domid, order.target)
            except UserError as error:  # it has just ended, or another took what was free
                self._tools.say("info", order.domid, f"balloon policy: {error.line()}")

    def report(self) -> PolicyReport:
        return PolicyReport(self.is_on, self._members())

    def _members(self) -> tuple[tuple[str, Member], ...]:
        """Those that live, with their names."""
        with self._tools.looking:
            return tuple((guest.name, self._member(guest)) for guest in list(self._tools.guests.values()) if not guest.domain.ended)

    def _member(self, guest: Guest) -> Member:
        """A domain that is below its least already, by mem-set, keeps what it has."""
        memory = guest.memory
        said = self._tools.store.read(f"/local/domain/{guest.domid}/data/meminfo_free") or ""
        free = int(said) if said.isascii() and said.isdigit() and len(said) <= _MOST_DIGITS else None
        return Member(guest.domid, min(memory.least, memory.target) * 4, memory.most * 4, memory.target * 4, memory.owned * 4, free)
