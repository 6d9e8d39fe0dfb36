"""RTDS (xen/common/sched/rt.c): every unit has a budget in every period; the earliest deadline goes first.

A budget is kept while its unit sleeps (deferrable server) and renewed at the period's end. A unit whose budget is spent waits for that, or,
with extra time (xl's default), goes on behind all that have budget: its level rises and it gets another budget. In Xen a turn ends in time.
Here it ends late, and what it took beyond a budget is owed (`credit`): the next budgets pay it, or the others would not have theirs."""

from __future__ import annotations

import heapq
from collections.abc import Iterable

from emulator.hypervisor.scheduler.base import Queued, RunQueue, Scheduler, Unit

_LEVEL = 1 << 62


class Rtds(Scheduler):
    name = "rtds"
    heeds_soft = False

    def __init__(self, cpus: Iterable[int]) -> None:
        super().__init__(cpus)
        self._queue = RunQueue()
        self._queues = (self._queue,)
        self._depleted: list[tuple[int, int, Unit]] = []

    def add(self, unit: Unit, now: int) -> None:
        unit.deadline, unit.budget, unit.level, unit.credit = now + unit.period, unit.reserved, 0, 0
        super().add(unit, now)

    def _renew(self, unit: Unit, now: int) -> None:
        """update_deadline."""
        if now >= unit.deadline:
            periods = (now - unit.deadline) // unit.period + 1
            left = unit.credit + periods * unit.reserved
            unit.deadline += periods * unit.period
            unit.budget, unit.credit, unit.level = max(0, min(left, unit.reserved)), min(0, left), 0

    def enqueue(self, unit: Unit, now: int, woken: bool) -> None:
        self._renew(unit, now)
        if unit.budget <= 0:
            if not unit.allowance:
                heapq.heappush(self._depleted, (unit.deadline, unit.name, unit))
                return
            unit.level += 1
            unit.budget = unit.reserved
        self._queue.push(unit, self._key(unit))

    @staticmethod
    def _key(unit: Unit) -> int:
        return unit.level * _LEVEL + unit.deadline

    def dequeue(self, unit: Unit) -> None:
        self._queue.discard(unit)
        self._depleted = [entry for entry in self._depleted if entry[2] is not unit]
        heapq.heapify(self._depleted)

    def next_event(self, now: int) -> int:
        return self._depleted[0][0] if self._depleted else 0

    def adjusted(self, unit: Unit, now: int) -> None:
        pass

    def victim(self, unit: Unit, now: int) -> int:
        if unit.entry is None:
            return -1
        found, latest = -1, self._key(unit)
        for cpu, other in self.running.items():
            if unit.may_run_on(cpu) and self._key(other) > latest:
                found, latest = cpu, self._key(other)
        return found

    def choose(self, cpu: int, now: int) -> tuple[Unit, int] | None:
        while self._depleted and self._depleted[0][0] <= now:
            self.enqueue(heapq.heappop(self._depleted)[2], now, False)
        self._renew_waiting(now)
        unit = self._queue.pop(cpu)
        if unit is None:
            return None
        until = min(unit.deadline, self._depleted[0][0]) if self._depleted else unit.deadline  # a new budget may go first
        return unit, max(100_000, min(unit.budget, until - now))

    def _renew_waiting(self, now: int) -> None:
        """Deadlines that passed in the queue: their units begin a new period."""
        late = [unit for unit in self._queue.units() if unit.deadline <= now]
        for unit in late:
            self._queue.discard(unit)
            self.enqueue(unit, now, False)

    def charge(self, unit: Unit, ns: int, now: int) -> None:
        unit.budget -= ns
        unit.credit += min(0, unit.budget)
        self._renew(unit, now)

    def describe(self, unit: Unit) -> Queued:
        return Queued(unit.name, unit.budget, f"level {unit.level}" if unit.level else "", unit.weight, unit.cap)

    def queued(self) -> list[Queued]:
        return [self.describe(unit) for unit in (*self._queue.units(), *(entry[2] for entry in sorted(self._depleted)))]
