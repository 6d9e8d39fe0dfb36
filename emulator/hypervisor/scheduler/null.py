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

    def add(self, unit: Unit, now: int) -> None:
        super().add(unit, now)
        self.placed()

    def adjusted(self, unit: Unit, now: int) -> None:
        pass

    def placed(self) -> None:
        """Who may not stay goes, who waits gets what is free: where it would rather be, if that can be had (pick_res)."""
        for cpu, owner in list(self._owner.items()):
            if owner.name not in self.units or cpu not in self.cpus or not owner.may_run_on(cpu):
                del self._owner[cpu]
        if all(cpu in self._owner for cpu in self.cpus):
            return
        owners = set(map(id, self._owner.values()))
        for unit in self.units.values():
            free = [cpu for cpu in self.cpus if cpu not in self._owner and unit.may_run_on(cpu)]
            if free and id(unit) not in owners:
                self._owner[next((cpu for cpu in free if unit.likes(cpu)), free[0])] = unit

    def remove(self, unit: Unit) -> None:
        super().remove(unit)
        self.placed()

    def _better(self, unit: Unit, cpu: int) -> int:
        return -1

    def may_pick(self, unit: Unit, cpu: int) -> bool:
        return self._owner.get(cpu) is unit

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
        return Queued(unit.name, 0, "" if unit in self._owner.values() else "no CPU", unit.weight, unit.cap)

    def queued(self) -> list[Queued]:
        return [self.describe(unit) for unit in self.units.values() if unit.runnable and unit.cpu < 0]
