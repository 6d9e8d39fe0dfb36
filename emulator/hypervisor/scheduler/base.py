"""What every scheduler speaks: units, which are domains, and a clock that is handed in.

A domain has one core, so its vCPUs share one physical CPU at a time (`rotation`), and it is the domain that is scheduled. A scheduler is a
pure object: no thread, no clock, no lock. Whoever drives it (`machine.physical_cpus`, or a test on a simulated clock) keeps the order

    add → wake → pick → ran(runnable) → … → remove          times in ns, `now` never going back

and CPU time is what a unit spent on a CPU, not the instructions it executed.
"""

from __future__ import annotations

import heapq
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass

from emulator.errors import UserError

DEFAULT_WEIGHT = 256
MAX_WEIGHT = 65535


class Unit:
    """A domain as schedulers see it. `cap`: percent of one CPU, 0 for none. `affinity`: the CPUs it may run on, None for all."""

    __slots__ = ("affinity", "allowance", "boosted", "budget", "cap", "cpu", "credit", "deadline", "entry", "epoch", "level", "name", "period",
                 "reserved", "runnable", "sleeps_at", "spent", "weight")  # fmt: skip

    def __init__(self, name: int, weight: int = DEFAULT_WEIGHT, cap: int = 0, affinity: frozenset[int] | None = None) -> None:
        self.name, self.weight, self.cap, self.affinity = name, weight, cap, affinity
        self.cpu = -1  # the one it runs on, -1 when none
        self.runnable = False
        self.spent = 0
        # Each scheduler's own; an int means what the scheduler says.
        self.credit = self.budget = self.deadline = self.epoch = self.level = self.sleeps_at = 0
        self.boosted = False
        self.period, self.reserved, self.allowance = 10_000_000, 4_000_000, True  # RTDS: period, budget, extra time
        self.entry: list[object] | None = None

    def may_run_on(self, cpu: int) -> bool:
        return self.affinity is None or cpu in self.affinity


@dataclass(frozen=True, slots=True)
class Queued:
    """A unit in the run queue, for consoles. `priority` in the scheduler's own words."""

    name: int
    credit: int
    priority: str
    weight: int
    cap: int


class RunQueue:
    """Units by key, the smallest first; entering and leaving cost O(log n), leaving lazily."""

    def __init__(self) -> None:
        self._heap: list[list[object]] = []
        self._sequence = 0
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def push(self, unit: Unit, key: int) -> None:
        self._sequence += 1
        unit.entry = [key, self._sequence, unit]
        heapq.heappush(self._heap, unit.entry)
        self._length += 1

    def discard(self, unit: Unit) -> None:
        if unit.entry is not None:
            unit.entry[2] = None
            unit.entry = None
            self._length -= 1

    def first(self) -> Unit | None:
        """The head; stays in the queue."""
        heap = self._heap
        while heap and heap[0][2] is None:
            heapq.heappop(heap)
        unit = heap[0][2] if heap else None
        return unit if isinstance(unit, Unit) else None

    def pop(self, cpu: int) -> Unit | None:
        """The first that may run on `cpu`, taken out."""
        passed: list[list[object]] = []
        found: Unit | None = None
        while (unit := self.first()) is not None:
            entry = heapq.heappop(self._heap)
            if unit.may_run_on(cpu):
                found, unit.entry = unit, None
                self._length -= 1
                break
            passed.append(entry)
        for entry in passed:
            heapq.heappush(self._heap, entry)
        return found

    def units(self) -> list[Unit]:
        """In order."""
        live = [entry for entry in self._heap if entry[2] is not None]
        return [unit for entry in sorted(live, key=lambda e: (e[0], e[1])) if isinstance(unit := entry[2], Unit)]


class Scheduler(ABC):
    """See the module. `cpus`: the physical CPUs it rules."""

    name = ""

    def __init__(self, cpus: Iterable[int]) -> None:
        self.cpus = tuple(cpus)
        self.units: dict[int, Unit] = {}
        self.running: dict[int, Unit] = {}  # by CPU

    # --- what is asked of a scheduler ------------------------------------------------------------------------------------------

    @abstractmethod
    def enqueue(self, unit: Unit, now: int, woken: bool) -> None:
        """A runnable unit that no CPU holds: it woke, or its turn ended."""

    @abstractmethod
    def dequeue(self, unit: Unit) -> None:
        """A unit of the queue goes for good."""

    @abstractmethod
    def choose(self, cpu: int, now: int) -> tuple[Unit, int] | None:
        """The unit to run on `cpu`, taken out of the queue, and for how long (ns)."""

    @abstractmethod
    def charge(self, unit: Unit, ns: int, now: int) -> None:
        """It ran for `ns`."""

    @abstractmethod
    def queue(self) -> list[Queued]:
        """The waiting units in the order they would run."""

    def describe(self, unit: Unit) -> Queued:
        return Queued(unit.name, unit.credit, "", unit.weight, unit.cap)

    def victim(self, unit: Unit, now: int) -> int:
        """The CPU whose unit should make room for one that woke, -1 for none."""
        return -1

    def next_event(self, now: int) -> int:
        """When a unit that is held back may run again (ns), 0 for never."""
        return 0

    def tune(self, **parameters: int) -> None:
        """Set parameters of the scheduler itself, by name. Raises UserError for one that it has not."""
        for name in parameters:
            raise UserError(f"scheduler {self.name} has no parameter {name}")

    @abstractmethod
    def adjusted(self, unit: Unit, now: int) -> None:
        """Weight, cap or affinity changed."""

    # --- what a driver calls ---------------------------------------------------------------------------------------------------

    def add(self, unit: Unit, now: int) -> None:
        self.units[unit.name] = unit
        self.adjusted(unit, now)

    def remove(self, unit: Unit) -> None:
        """The unit must not be on a CPU."""
        if unit.runnable:
            self.dequeue(unit)
            unit.runnable = False
        self.units.pop(unit.name, None)

    def wake(self, unit: Unit, now: int) -> int:
        """It has something to do. Returns the CPU that should be interrupted for it, -1 for none."""
        if unit.runnable:
            return -1
        unit.runnable = True
        self.enqueue(unit, now, True)
        if any(cpu not in self.running and unit.may_run_on(cpu) for cpu in self.cpus):
            return -1
        return self.victim(unit, now)

    def pick(self, cpu: int, now: int) -> tuple[Unit, int] | None:
        chosen = self.choose(cpu, now)
        if chosen is not None:
            unit = chosen[0]
            unit.cpu = cpu
            self.running[cpu] = unit
        return chosen

    def ran(self, unit: Unit, ns: int, now: int, runnable: bool) -> None:
        """Its turn is over after `ns` of CPU time."""
        self.running.pop(unit.cpu, None)
        unit.cpu = -1
        unit.spent += ns
        self.charge(unit, ns, now)
        unit.runnable = runnable
        if runnable:
            self.enqueue(unit, now, False)
        else:
            unit.sleeps_at = now

    def adjust(self, unit: Unit, now: int, *, weight: int | None = None, cap: int | None = None) -> None:
        if weight is not None:
            unit.weight = weight
        if cap is not None:
            unit.cap = cap
        self.adjusted(unit, now)
