"""A domain's time: instructions, brought level with the real clock between slices.

    now() = TSC_BASE + (COUNT >> COUNT_SHIFT)      ns since the domain's creation; the guest's TSC is the same number at 1 GHz

COUNT is charged by the core for each block it enters and by the hypervisor for each trap, so within a slice time is a function
of what the guest executed. Between slices `level` moves TSC_BASE forward, never back; that move is a message with a place in the log.
Since TSC and system time are one number, the pvclock parameters given to the guest hold for its whole life.
"""

from __future__ import annotations

from emulator.cpu import native
from emulator.cpu.core import UNLIMITED

HYPERCALL_COST_NS = 4_000
TRAP_COST_NS = 2_000


class Clock:
    """Over the control block of a core (`native.COUNT`, `LIMIT`, `TSC_BASE`)."""

    def __init__(self, control: memoryview) -> None:
        self._control = control

    def now(self) -> int:
        """System time in ns."""
        return int(self._control[native.TSC_BASE] + (self._control[native.COUNT] >> native.COUNT_SHIFT))

    @property
    def count(self) -> int:
        """The position in the domain's life, in counts: what the log is written against."""
        return int(self._control[native.COUNT])

    def charge(self, ns: int) -> None:
        self._control[native.COUNT] += ns << native.COUNT_SHIFT

    def level(self, ns: int) -> None:
        """Bring the time up to `ns` when it is behind."""
        behind = ns - self.now()
        if behind > 0:
            self._control[native.TSC_BASE] += behind

    def set_limit(self, count: int) -> None:
        self._control[native.LIMIT] = min(count, UNLIMITED)

    def count_at(self, ns: int) -> int:
        """The count at which the time will be `ns`, all else equal."""
        return max(0, ns - self._control[native.TSC_BASE]) << native.COUNT_SHIFT

    def shorten(self, ns: int) -> None:
        """End the running slice no later than at time `ns`."""
        limit = self.count_at(ns)
        if limit < self._control[native.LIMIT]:
            self._control[native.LIMIT] = limit

    def save(self) -> tuple[int, int]:
        return self.count, int(self._control[native.TSC_BASE])

    def load(self, state: tuple[int, int]) -> None:
        self._control[native.COUNT], self._control[native.TSC_BASE] = state
