"""What every scheduler speaks: units, which are domains, and a clock that is handed in.

A domain has one core, so its vCPUs share one physical CPU at a time (`rotation`), and it is the domain that is scheduled. A scheduler is a
pure object: no thread, no clock, no lock. Whoever drives it (`machine.workers`, or a test on a simulated clock) keeps the order

    add → wake → tickle → pick → ran(runnable) → … → remove          times in ns, `now` never going back

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
TERMS = ("weight", "cap", "period", "reserved", "allowance")


class Unit:
    """A domain as schedulers see it. `cap`: percent of one CPU, 0 for none. `affinity`: the CPUs it may run on (hard), `soft`: those it
    would rather run on; None for all. RTDS: `reserved` ns in every `period`, and more when nobody else wants it (`allowance`)."""

    __slots__ = ("affinity", "allowance", "boosted", "budget", "cap", "cpu", "credit", "deadline", "entry", "epoch", "level", "name", "period",
                 "preferred", "reserved", "runnable", "sleeps_at", "soft", "spent", "weight")  # fmt: skip

    def __init__(self, name: int, weight: int = DEFAULT_WEIGHT, cap: int = 0, affinity: frozenset[int] | None = None,
                 soft: frozenset[int] | None = None) -> None:  # fmt: skip
        self.name, self.weight, self.cap, self.affinity, self.soft = name, weight, cap, affinity, soft
        self.preferred: frozenset[int] | None = None  # what of `soft` counts where it is (Scheduler.settle), None: no preference
        self.cpu = -1  # the one it runs on, -1 when none
        self.runnable = False
        self.spent = 0
        # Each scheduler's own; an int means what the scheduler says.
        self.credit = self.budget = self.deadline = self.epoch = self.level = self.sleeps_at = 0
        self.boosted = False
        self.period, self.reserved, self.allowance = 10_000_000, 4_000_000, True
        self.entry: Entry | None = None

    def may_run_on(self, cpu: int) -> bool:
        return self.affinity is None or cpu in self.affinity

    def likes(self, cpu: int) -> bool:
        """Whether it would not rather be elsewhere."""
        return self.preferred is None or cpu in self.preferred


@dataclass(frozen=True, slots=True)
class Queued:
    """A unit in the run queue, for consoles. `priority` in the scheduler's own words."""

    name: int
    credit: int
    priority: str
    weight: int
    cap: int


@dataclass(slots=True)
class Entry:
    """A place in a run queue; without a unit when it left before its time."""

    key: int
    sequence: int
    unit: Unit | None

    def __lt__(self, other: Entry) -> bool:
        return (self.key, self.sequence) < (other.key, other.sequence)


class RunQueue:
    """Units by key, the smallest first; entering and leaving cost O(log n), leaving lazily."""

    def __init__(self) -> None:
        self._heap: list[Entry] = []
        self._sequence = 0
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def push(self, unit: Unit, key: int) -> None:
        self._sequence += 1
        unit.entry = Entry(key, self._sequence, unit)
        heapq.heappush(self._heap, unit.entry)
        self._length += 1

    def discard(self, unit: Unit) -> None:
        if unit.entry is not None:
            unit.entry.unit = None
            unit.entry = None
            self._length -= 1
            if len(self._heap) > 2 * self._length + 16:
                self._heap = [entry for entry in self._heap if entry.unit is not None]
                heapq.heapify(self._heap)

    def first(self) -> Unit | None:
        """The head; stays in the queue."""
        heap = self._heap
        while heap and heap[0].unit is None:
            heapq.heappop(heap)
        return heap[0].unit if heap else None

    def pop(self, cpu: int, slack: int = 0) -> Unit | None:
        """The first that may run on `cpu`, taken out. When that one would rather be elsewhere, the next that would not goes before it, if
        its key is larger by `slack` at most."""
        passed: list[Entry] = []
        found: Entry | None = None
        while (unit := self.first()) is not None and (found is None or self._heap[0].key <= found.key + slack):
            entry = heapq.heappop(self._heap)
            passed.append(entry)
            if unit.may_run_on(cpu) and (unit.likes(cpu) or not slack):
                found = entry
                break
            if found is None and unit.may_run_on(cpu):
                found = entry
        for entry in passed:
            if entry is not found:
                heapq.heappush(self._heap, entry)
        if found is None or found.unit is None:
            return None
        unit, found.unit.entry = found.unit, None
        self._length -= 1
        return unit

    def units(self) -> list[Unit]:
        """In order."""
        return [entry.unit for entry in sorted(self._heap) if entry.unit is not None]


class Scheduler(ABC):
    """See the module. `cpus`: the physical CPUs it rules. `heeds_soft`: whether soft affinity means anything to it.

    Soft affinity is work-conserving: a CPU with nothing better takes a unit that would rather be elsewhere. But where the two could change
    places with a unit that does not care, the CPU leaves it to the other (`_claims`), which is interrupted for it."""

    name = ""
    heeds_soft = True

    def __init__(self, cpus: Iterable[int]) -> None:
        self.cpus = tuple(cpus)
        self.units: dict[int, Unit] = {}
        self.running: dict[int, Unit] = {}  # by CPU
        self.began: dict[int, int] = {}  # when
        self._claims: dict[int, tuple[Unit, int]] = {}  # CPU -> the unit it is to run next, and for how long
        self._called: list[int] = []
        self._roused: set[int] = set()  # idle CPUs that somebody who woke is to have, until they look
        self._queues: tuple[RunQueue, ...] = ()

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
    def queued(self) -> list[Queued]:
        """The units of the queue in the order they would run."""

    def describe(self, unit: Unit) -> Queued:
        return Queued(unit.name, unit.credit, "", unit.weight, unit.cap)

    def victim(self, unit: Unit, now: int) -> int:
        """The CPU whose unit should make room for one that woke, -1 for none."""
        return -1

    def spared_until(self, cpu: int) -> int:
        """When the unit on `cpu` has had what it may have undisturbed (the rate limit)."""
        return self.began[cpu]

    def next_event(self, now: int) -> int:
        """When a unit that is held back may run again (ns), 0 for never."""
        return 0

    def parameters(self) -> dict[str, int]:
        """Parameters of the scheduler itself by name, in the unit that the name ends with."""
        return {}

    def tune(self, **parameters: int) -> None:
        """Set some of them. Raises UserError for one that it has not."""
        for name in parameters:
            raise UserError(f"scheduler {self.name} has no parameter {name}")

    @abstractmethod
    def adjusted(self, unit: Unit, now: int) -> None:
        """Its terms changed, or it is new."""

    def placed(self) -> None:  # noqa: B027 - most do not care
        """The CPUs changed, or where a unit may run."""

    # --- what a driver calls ---------------------------------------------------------------------------------------------------

    def add(self, unit: Unit, now: int) -> None:
        self.units[unit.name] = unit
        self._settle(unit)
        self.adjusted(unit, now)

    def remove(self, unit: Unit) -> None:
        """The unit must not be on a CPU."""
        if unit.runnable:
            self.dequeue(unit)
            self._claims = {cpu: claim for cpu, claim in self._claims.items() if claim[0] is not unit}
            unit.runnable = False
        self.units.pop(unit.name, None)

    def wake(self, unit: Unit, now: int) -> None:
        """It has something to do."""
        if not unit.runnable:
            unit.runnable = True
            self.enqueue(unit, now, True)

    def waiting(self) -> int:
        """How many units have no CPU, though they may run now."""
        return len(self._claims) + sum(map(len, self._queues))

    def tickle(self, unit: Unit, now: int) -> tuple[int, int]:
        """It woke and waits yet. Returns the CPU that should be interrupted for it, -1 for none, and when (ns). None when one is free for it, but
        each such CPU is for one unit (the mask `tickled` in Xen)."""
        for cpu in self.cpus:
            if cpu not in self.running and cpu not in self._roused and unit.may_run_on(cpu):
                self._roused.add(cpu)
                return -1, now
        cpu = self.victim(unit, now)
        return cpu, max(now, self.spared_until(cpu)) if cpu >= 0 else now

    def may_pick(self, unit: Unit, cpu: int) -> bool:
        """Whether it is any use to rouse an idle `cpu` for the unit."""
        return unit.may_run_on(cpu)

    def pick(self, cpu: int, now: int) -> tuple[Unit, int] | None:
        """What `cpu` runs next. Look at `called` afterwards."""
        self._roused.discard(cpu)
        chosen = self._claims.pop(cpu, None) or self._choose(cpu, now)
        if chosen is not None:
            unit = chosen[0]
            unit.cpu = cpu
            self.running[cpu], self.began[cpu] = unit, now
        return chosen

    def _choose(self, cpu: int, now: int) -> tuple[Unit, int] | None:
        while (chosen := self.choose(cpu, now)) is not None:
            better = self._better(chosen[0], cpu)
            if better < 0:
                break
            self._claims[better] = chosen
            self._called.append(better)
        return chosen

    def _better(self, unit: Unit, cpu: int) -> int:
        """A CPU that the unit prefers to `cpu` and that is idle or held by one which does not mind changing places; -1 for none."""
        for other in () if unit.likes(cpu) else sorted(unit.preferred or ()):
            holder = self.running.get(other)
            if other not in self._claims and (holder is None or (holder.may_run_on(cpu) and other not in (holder.preferred or ()))):
                return other
        return -1

    def called(self) -> list[int]:
        """CPUs that have something new to run since this was asked last: interrupt or rouse them."""
        called, self._called = self._called, []
        return called

    def ran(self, unit: Unit, ns: int, now: int, runnable: bool) -> None:
        """Its turn is over after `ns` of CPU time."""
        self.running.pop(unit.cpu, None)
        unit.spent += ns
        self.charge(unit, ns, now)
        unit.cpu = -1
        unit.runnable = runnable
        if runnable:
            self.enqueue(unit, now, False)
        else:
            unit.sleeps_at = now

    def queue(self) -> list[Queued]:
        """The waiting units in the order they would run."""
        return [self.describe(unit) for unit, _turn in self._claims.values()] + self.queued()

    def adjust(self, unit: Unit, now: int, **terms: int) -> None:
        """New terms: weight, cap, and RTDS' period, reserved (ns) and allowance."""
        for name, value in terms.items():
            if name not in TERMS:
                raise UserError(f"a domain has no {name} under a scheduler")
            setattr(unit, name, value)
        self.adjusted(unit, now)

    def pin(self, unit: Unit, now: int, affinity: frozenset[int] | None, soft: frozenset[int] | None) -> None:
        """Hard and soft affinity, from its next turn on."""
        unit.affinity, unit.soft = affinity, soft
        self._resettle(now)
        self.placed()

    def set_cpus(self, cpus: Iterable[int], now: int) -> None:
        """The CPUs it rules from now on. One that was taken away may still hold a unit until its turn ends."""
        self.cpus = tuple(cpus)
        self._resettle(now)
        self.placed()

    def _resettle(self, now: int) -> None:
        claims, self._claims = self._claims, {}
        for unit, _turn in claims.values():
            self.enqueue(unit, now, False)
        for unit in self.units.values():
            self._settle(unit)

    def _settle(self, unit: Unit) -> None:
        """What soft affinity comes to among the CPUs that the unit may run on (has_soft_affinity in Xen)."""
        may = {cpu for cpu in self.cpus if unit.may_run_on(cpu)}
        wanted = may & unit.soft if unit.soft is not None and self.heeds_soft else set()
        unit.preferred = frozenset(wanted) if wanted and wanted != may else None
