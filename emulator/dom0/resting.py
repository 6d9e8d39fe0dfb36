"""Domains that sleep long give their instance of Unicorn back (`Core.rest`), and what the C library kept of it goes back to the host."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from emulator.machine.memory import trim_heap

if TYPE_CHECKING:
    from emulator.dom0.toolstack import Toolstack

REST_AFTER_SECONDS: Final = 30.0
"""Making an instance again takes some milliseconds, and translating its code anew as much."""
LOOK_SECONDS: Final = 5.0


class Rests:
    """Of a toolstack; looked after by one thread."""

    def __init__(self, tools: Toolstack) -> None:
        self._tools = tools
        self._resting = 0

    def look(self, seconds: float) -> None:
        """Who has slept so long rests soon, at the end of a turn of its own, until it wakes."""
        latest = time.monotonic_ns() - int(seconds * 1e9)
        guests = list(self._tools.guests.values())
        for guest in guests:
            if guest.idle_since < latest and not guest.domain.core.resting:
                guest.rest_wanted = True
                self._tools.cpus.wake(guest)
        resting = sum(guest.domain.core.resting for guest in guests)
        if resting > self._resting:
            trim_heap()  # what those gave back since the last look
        self._resting = resting
