"""Borrowed virtual time, the scheduler of the paper (Duda and Cheriton, SOSP 1999; Xen 1.x's sched_bvt.c).

A unit's virtual time moves on by its CPU time over its weight; the smallest runs. Who wakes takes up the scheduler's virtual time, so that
sleep saves nothing, less its warp: what it borrows from its future to be served at once. A running unit keeps the CPU for a context-switch
allowance (the paper's slice: 5 ms). The warp is as long: virtual time stands still until all who wait have had their allowance, and until then a
sleeper's share of the CPUs is an allowance too. With less it would wait for the slices of all of them, though it has used less than its share."""

from __future__ import annotations

from collections.abc import Iterable

from emulator.hypervisor.scheduler.base import DEFAULT_WEIGHT, Queued, RunQueue, Scheduler, Unit

ALLOWANCE = 5_000_000


class Bvt(Scheduler):
    name = "bvt"

    def __init__(self, cpus: Iterable[int], *, allowance_ns: int = ALLOWANCE) -> None:
        super().__init__(cpus)
        self._queue = RunQueue()
        self._queues = (self._queue,)
        self._allowance = allowance_ns
        self._time = 0

    def add(self, unit: Unit, now: int) -> None:
        unit.credit = self._time  # its virtual time
        super().add(unit, now)

    def parameters(self) -> dict[str, int]:
        return {"allowance_us": self._allowance // 1000}

    def tune(self, **parameters: int) -> None:
        self._allowance = 1000 * parameters.pop("allowance_us", self._allowance // 1000)
        super().tune(**parameters)

    def _effective(self, unit: Unit) -> int:
        return unit.credit - (self._allowance if unit.boosted else 0)

    def enqueue(self, unit: Unit, now: int, woken: bool) -> None:
        if woken:
            unit.credit = max(unit.credit, self._time)
            unit.boosted = True
        self._queue.push(unit, self._effective(unit))

    def dequeue(self, unit: Unit) -> None:
        self._queue.discard(unit)

    def adjusted(self, unit: Unit, now: int) -> None:
        pass

    def victim(self, unit: Unit, now: int) -> int:
        found, latest = -1, self._effective(unit)
        for cpu, other in self.running.items():
            if unit.may_run_on(cpu) and self._effective(other) > latest:
                found, latest = cpu, self._effective(other)
        return found

    def choose(self, cpu: int, now: int) -> tuple[Unit, int] | None:
        unit = self._queue.pop(cpu, self._allowance)
        if unit is None:
            return None
        self._time = max(self._time, min([unit.credit, *(other.credit for other in self.running.values())]))
        following = self._queue.first()
        ahead = max(0, self._effective(following) - self._effective(unit)) * unit.weight // DEFAULT_WEIGHT if following else 0
        return unit, self._allowance + min(ahead, self._allowance)

    def charge(self, unit: Unit, ns: int, now: int) -> None:
        unit.credit += ns * DEFAULT_WEIGHT // unit.weight
        unit.boosted = False

    def describe(self, unit: Unit) -> Queued:
        return Queued(unit.name, unit.credit - self._time, "warped" if unit.boosted else "", unit.weight, unit.cap)

    def queued(self) -> list[Queued]:
        return [self.describe(unit) for unit in self._queue.units()]
