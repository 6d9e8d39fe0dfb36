"""What sleeps: seats until their deadlines, and the threads of CPUs until they are called."""

from __future__ import annotations

import heapq
import threading
from collections.abc import Iterator

from emulator.machine.seats import SLEEPING, Seat

_LONGEST_WAIT_NS = 3_600_000_000_000
"""A guest's deadline may be centuries away, further than the host can wait for at once."""


class Sleepers:
    """Seats by the time they are to be woken at (monotonic ns). One that was woken before its time is passed over."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Seat]] = []
        self._sequence = 0

    def add(self, seat: Seat, at: int) -> None:
        seat.wake_at = at
        self._sequence += 1
        heapq.heappush(self._heap, (at, self._sequence, seat))

    def first(self) -> int:
        """The first deadline of those who still sleep, 0 for none."""
        while self._heap:
            at, _, seat = self._heap[0]
            if seat.state == SLEEPING and seat.wake_at == at:
                return at
            heapq.heappop(self._heap)
        return 0

    def due(self, now: int) -> Iterator[Seat]:
        """Whose deadline has come. Each must be woken before the next is asked for."""
        while 0 < self.first() <= now:
            yield heapq.heappop(self._heap)[2]


class Bell:
    """Calls one thread that waits with `lock`, which its users hold: half the cost of a threading.Condition."""

    def __init__(self, lock: threading.Lock) -> None:
        self._lock = lock
        self._silent = threading.Lock()
        self._silent.acquire()

    def ring(self) -> None:
        if self._silent.locked():
            self._silent.release()

    def wait(self, ns: int | None) -> None:
        """Until it rings, or for `ns` at most. It may end sooner."""
        self._silent.acquire(blocking=False)  # what was rung for before is seen already
        self._lock.release()
        try:
            self._silent.acquire(timeout=seconds(ns) if ns is not None else -1)
        finally:
            self._lock.acquire()


class IdleCpus:
    """The CPUs that wait for something to run, and when each looks by itself (monotonic ns, 0: not at all)."""

    def __init__(self, lock: threading.Lock, count: int) -> None:
        self._bells = [Bell(lock) for _ in range(count)]
        self._alarms: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._alarms)

    def wait(self, cpu: int, at: int, now: int) -> None:
        """Idle until `at` at most, or until roused."""
        self._alarms[cpu] = at
        self._bells[cpu].wait(at - now if at else None)
        self._alarms.pop(cpu, None)

    def able(self, seat: Seat) -> int | None:
        """One that may run it and likes it, if there is one, and rather not one that minds the deadlines."""
        able = [cpu for cpu in self._alarms if cpu in seat.pool.cpus and seat.pool.scheduler.may_pick(seat.unit, cpu)]
        return min(able, key=lambda cpu: (not seat.unit.likes(cpu), self._alarms[cpu] > 0)) if able else None

    def rouse(self, cpu: int) -> None:
        """It will look, and is not idle until it has."""
        self._alarms.pop(cpu, None)
        self._bells[cpu].ring()

    def ring(self, *cpus: int) -> None:
        """Have them look."""
        for cpu in cpus:
            self._bells[cpu].ring()

    def ring_one(self) -> None:
        self._bells[next(iter(self._alarms))].ring()

    def mind(self, at: int) -> bool:
        """Whether one looks by then."""
        return any(0 < alarm <= at for alarm in self._alarms.values())


def seconds(ns: int) -> float:
    """As long as a thread can wait at once."""
    return max(0, min(ns, _LONGEST_WAIT_NS)) / 1e9
