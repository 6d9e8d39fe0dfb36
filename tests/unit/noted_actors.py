"""Actors that only note their turns, and physical CPUs for them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

from emulator.hypervisor.scheduler import Unit, make_scheduler
from emulator.machine.physical_cpus import PhysicalCpus
from tests.patience import PATIENCE_SECONDS

SHARING = ("credit2", "credit", "rtds", "bvt")


class Noted:
    """An actor whose turns are `act`'s."""

    def __init__(self, domid: int, act: Callable[[Noted], int | None]) -> None:
        self.domid, self._act = domid, act
        self.turns = 0
        self.cut = threading.Event()
        self.cpus: set[int] = set()

    def turn(self, cpu: int, slice_ns: int) -> int | None:
        self.turns += 1
        self.cpus.add(cpu)
        return self._act(self)

    def preempt(self) -> None:
        self.cut.set()


def spin(actor: Noted) -> int:
    """Runs until it is preempted, 5 ms at most."""
    actor.cut.wait(0.005)
    actor.cut.clear()
    return 0


def hog(actor: Noted) -> int:
    """Runs until it is preempted, whatever its turn: slow in counts."""
    actor.cut.wait(PATIENCE_SECONDS)
    actor.cut.clear()
    return 0


def two_cpus(scheduler: str) -> Iterator[PhysicalCpus]:
    """Running; `failures` are those of the turns."""
    failures: list[BaseException] = []
    made = PhysicalCpus(2, lambda actor, failure: failures.append(failure), make_scheduler(scheduler, (0, 1)))
    made.failures = failures  # type: ignore[attr-defined]
    made.start()
    yield made
    made.stop()


def added(cpus: PhysicalCpus, actor: Noted, affinity: frozenset[int] | None = None, soft: frozenset[int] | None = None) -> Noted:
    cpus.add(actor, Unit(actor.domid, affinity=affinity, soft=soft))
    cpus.wake(actor)
    return actor
