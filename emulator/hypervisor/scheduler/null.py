"""null (xen/common/sched/null.c): a unit has a CPU of its own, for good. Who finds none free waits until one is given back."""

from __future__ import annotations

from collections.abc import Iterable

from emulator.hypervisor.scheduler.base import Queued, Scheduler, Unit

TURN = 10_000_000


class Null(Scheduler):
    name = "null"

    def __init__(self, cpus: Iterable[int]) -> None:
        super().__init__(cpus)
        self._owner: dict[int, Unit] = {}
        self._without: dict[int, Unit] = {}

    def adjusted(self, unit: Unit, now: int) -> None:
        if unit not in self._owner.values() and not self._give(unit):
            self._without[unit.name] = unit

    def _give(self, unit: Unit) -> bool:
        cpu = next((cpu for cpu in self.cpus if cpu not in self._owner and unit.may_run_on(cpu)), None)
        if cpu is not None:
            self._owner[cpu] = unit
        return cpu is not None

    def remove(self, unit: Unit) -> None:
        super().remove(unit)
        self._without.pop(unit.name, None)
        for cpu, owner in list(self._owner.items()):
            if owner is unit:
                del self._owner[cpu]
        for other in list(self._without.values()):
            if self._give(other):
                del self._without[other.name]

    def enqueue(self, unit: Unit, now: int, woken: bool) -> None:
        pass

    def dequeue(self, unit: Unit) -> None:
        pass

    def choose(self, cpu: int, now: int) -> tuple[Unit, int] | None:
        unit = self._owner.get(cpu)
        return (unit, TURN) if unit is not None and unit.runnable and unit.cpu < 0 else None

    def charge(self, unit: Unit, ns: int, now: int) -> None:
        pass

    def describe(self, unit: Unit) -> Queued:
        return Queued(unit.name, 0, "no CPU" if unit.name in self._without else "", unit.weight, unit.cap)

    def queue(self) -> list[Queued]:
        return [self.describe(unit) for unit in self.units.values() if unit.runnable and unit.cpu < 0]
