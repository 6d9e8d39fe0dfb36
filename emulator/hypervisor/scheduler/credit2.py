"""credit2, Xen's default (xen/common/sched/credit2.c): credits burn by weight, and all are topped up when the best has none left.

    burn     ns on the CPU x heaviest weight / own weight
    order    most credit first
    reset    the first of the queue has no credit: everyone gets CREDIT_INIT more, at most CREDIT_INIT + CARRYOVER in all
    turn     until the next of the queue would have more credit, within MIN_TURN and MAX_TURN
    cap      a budget of cap % of a period for every period; whoever has none left is parked until the next

A unit that slept is topped up as if it had been there, so it wakes with nearly all its credit and goes before those that burnt theirs."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable

from emulator.hypervisor.scheduler.base import Queued, RunQueue, Scheduler, Unit

CREDIT_INIT = 10_000_000
MIN_TURN, MAX_TURN = 5_000_000, 10_000_000
RATELIMIT = 1_000_000
"""A turn costs some 50 µs here, hence longer turns than Xen's 500 µs; who wakes interrupts a turn after the rate limit, as in Xen."""
CARRYOVER = MIN_TURN
"""As in Xen. With less, a sleeper that has used a little waits for a turn of everybody who has not run since the reset."""
PERIOD = 10_000_000


class Credit2(Scheduler):
    name = "credit2"

    def __init__(self, cpus: Iterable[int], *, ratelimit_ns: int = RATELIMIT) -> None:
        super().__init__(cpus)
        self._queue = RunQueue()
        self._queues = (self._queue,)
        self._weights: Counter[int] = Counter()  # how many units have each
        self._heaviest = 1
        self._resets = 0
        self._parked: list[tuple[int, int, Unit]] = []
        self._ratelimit = ratelimit_ns

    def add(self, unit: Unit, now: int) -> None:
        unit.credit, unit.epoch = CREDIT_INIT, self._resets
        self._weigh(unit, 1)
        super().add(unit, now)

    def remove(self, unit: Unit) -> None:
        super().remove(unit)
        self._weigh(unit, -1)

    def adjust(self, unit: Unit, now: int, **terms: int) -> None:
        self._weigh(unit, -1)
        try:
            super().adjust(unit, now, **terms)
        finally:
            self._weigh(unit, 1)

    def _weigh(self, unit: Unit, count: int) -> None:
        self._weights[unit.weight] += count
        if not self._weights[unit.weight]:
            del self._weights[unit.weight]
        self._heaviest = max(self._weights, default=1)

    def adjusted(self, unit: Unit, now: int) -> None:
        if unit.cap:
            unit.budget, unit.deadline = self._quota(unit), now + PERIOD
        else:
            unit.budget = unit.deadline = 0

    def parameters(self) -> dict[str, int]:
        return {"ratelimit_us": self._ratelimit // 1000}

    def tune(self, **parameters: int) -> None:
        self._ratelimit = 1000 * parameters.pop("ratelimit_us", self._ratelimit // 1000)
        super().tune(**parameters)

    @staticmethod
    def _quota(unit: Unit) -> int:
        return unit.cap * PERIOD // 100

    def _catch_up(self, unit: Unit) -> None:
        """The resets that it missed while it was out of the queue."""
        missed, unit.epoch = self._resets - unit.epoch, self._resets
        if missed:
            unit.credit = min(unit.credit + missed * CREDIT_INIT, CREDIT_INIT + CARRYOVER)

    def _replenish(self, unit: Unit, now: int) -> None:
        if unit.cap and now >= unit.deadline:
            periods = (now - unit.deadline) // PERIOD + 1
            unit.deadline += periods * PERIOD
            unit.budget = min(unit.budget + periods * self._quota(unit), self._quota(unit))

    def enqueue(self, unit: Unit, now: int, woken: bool) -> None:
        self._catch_up(unit)
        self._replenish(unit, now)
        if unit.cap and unit.budget <= 0:
            heapq.heappush(self._parked, (unit.deadline, unit.name, unit))
        else:
            self._queue.push(unit, -unit.credit)

    def dequeue(self, unit: Unit) -> None:
        self._queue.discard(unit)
        self._parked = [entry for entry in self._parked if entry[2] is not unit]
        heapq.heapify(self._parked)

    def next_event(self, now: int) -> int:
        return self._parked[0][0] if self._parked else 0

    def victim(self, unit: Unit, now: int) -> int:
        """The running unit with the least credit, when it has less than the woken one."""
        if unit.entry is None:
            return -1
        worst, found = unit.credit, -1
        for cpu, other in self.running.items():
            if not unit.may_run_on(cpu):
                continue
            used = now - self.began[cpu]
            left = other.credit - used * self._heaviest // other.weight
            if left < worst:
                worst, found = left, cpu
        return found

    def spared_until(self, cpu: int) -> int:
        return self.began[cpu] + self._ratelimit

    def choose(self, cpu: int, now: int) -> tuple[Unit, int] | None:
        while self._parked and self._parked[0][0] <= now:
            unit = heapq.heappop(self._parked)[2]
            self.enqueue(unit, now, False)
        best = self._queue.pop(cpu, MAX_TURN)
        if best is None:
            return None
        if best.credit <= 0:
            self._reset(best)
        return best, self._turn(best)

    def _turn(self, unit: Unit) -> int:
        following = self._queue.first()
        ahead = unit.credit if following is None else unit.credit - following.credit
        turn = max(MIN_TURN, min(ahead * unit.weight // self._heaviest, MAX_TURN))
        return min(turn, max(100_000, unit.budget)) if unit.cap else turn

    def _reset(self, chosen: Unit) -> None:
        """reset_credit: everyone the same, so that the order stays; those that are out of the queue catch up later."""
        times = 1 + max(0, -chosen.credit) // CREDIT_INIT
        self._resets += times
        waiting = self._queue.units()
        for unit in waiting:
            self._queue.discard(unit)
        for unit in (chosen, *waiting):
            self._catch_up(unit)
        for unit in waiting:
            self._queue.push(unit, -unit.credit)

    def charge(self, unit: Unit, ns: int, now: int) -> None:
        unit.credit -= ns * self._heaviest // unit.weight
        if unit.cap:
            unit.budget -= ns

    def describe(self, unit: Unit) -> Queued:
        return Queued(unit.name, unit.credit, "parked" if unit.cap and unit.budget <= 0 else "", unit.weight, unit.cap)

    def queued(self) -> list[Queued]:
        return [self.describe(unit) for unit in (*self._queue.units(), *(entry[2] for entry in sorted(self._parked)))]
