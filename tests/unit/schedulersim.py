"""A host on a simulated clock: CPUs, units that spin or come and go, and a scheduler between them."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

from emulator.hypervisor.scheduler import Scheduler, Unit

MS = 1_000_000


@dataclass
class Work:
    """`burst` ns of work after every `pause` ns of sleep; no burst: it spins for ever."""

    unit: Unit
    burst: int = 0
    pause: int = 0
    left: int = 0
    woke_at: int = -1
    waits: list[int] = field(default_factory=list)


class Simulation:
    """`late` ns are added to every turn, as real slices end late. `given`: what percent of each CPU its host gives, the rest is stolen.
    `stalls`: after so many turns the host does not run a CPU for two seconds, 0 for never."""

    def __init__(self, scheduler: Scheduler, late: int = 0, given: tuple[int, ...] = (), stalls: int = 0) -> None:
        self.scheduler, self.late, self.given = scheduler, late, given or (100,) * len(scheduler.cpus)
        self.stalls, self._turns = stalls, 0
        self._lasts: dict[int, int] = {}  # CPU -> its turn, ns, without a stall
        self.now = 0
        self.idle_ns = 0
        self.where: dict[int, dict[int, int]] = {}  # unit -> CPU -> ns
        self._works: dict[int, Work] = {}
        self._events: list[tuple[int, int, int, str, int]] = []  # (time, sequence, what for, kind, stamp)
        self._sequence = 0
        self._busy: dict[int, tuple[Work, int, int]] = {}  # cpu -> work, began, stamp
        self._idle_since = dict.fromkeys(scheduler.cpus, 0)

    def _at(self, time: int, target: int, kind: str, stamp: int = 0) -> None:
        self._sequence += 1
        heapq.heappush(self._events, (time, self._sequence, target, kind, stamp))

    def add(self, name: int, *, weight: int = 256, cap: int = 0, burst: int = 0, pause: int = 0, start: int = 0,
            affinity: frozenset[int] | None = None, soft: frozenset[int] | None = None) -> Work:  # fmt: skip
        unit = Unit(name, weight, cap, affinity, soft)
        work = self._works[name] = Work(unit, burst, pause, burst)
        self.scheduler.add(unit, self.now)
        self._at(self.now + start, name, "wake")
        return work

    def run(self, until: int) -> None:
        while self._events and self._events[0][0] <= until:
            self.now, _sequence, target, kind, stamp = heapq.heappop(self._events)
            if kind == "wake":
                self._wake(self._works[target])
            elif kind == "end" and target in self._busy and self._busy[target][2] == stamp:
                self._end(target)
            self._dispatch()
        self.now = until

    def _wake(self, work: Work) -> None:
        work.woke_at = self.now
        self.scheduler.wake(work.unit, self.now)
        victim, at = self.scheduler.tickle(work.unit, self.now)
        if victim >= 0 and at <= self.now:
            self._end(victim)
        elif victim >= 0:
            self._at(at, victim, "end", self._busy[victim][2])

    def _end(self, cpu: int) -> None:
        work, began, _stamp = self._busy.pop(cpu)
        spent = -(-min(self.now - began, self._lasts[cpu]) * self.given[cpu] // 100)  # rounded up: a piece of work must end
        self.where[work.unit.name][cpu] += spent
        self._idle_since[cpu] = self.now
        runnable = True
        if work.burst:
            work.left -= spent
            if work.left <= 0:
                runnable = False
                work.left = work.burst
                self._at(self.now + work.pause, work.unit.name, "wake")
        self.scheduler.ran(work.unit, spent, self.now, runnable)

    def _dispatch(self) -> None:
        waiting = [cpu for cpu in self.scheduler.cpus if cpu not in self._busy]
        while waiting:
            cpu = waiting.pop(0)
            chosen = self.scheduler.pick(cpu, self.now)
            for other in self.scheduler.called():
                if other in self._busy:
                    self._end(other)
                if other not in waiting:
                    waiting.append(other)
                if chosen is None and cpu not in waiting:
                    waiting.append(cpu)
            if chosen is None:
                event = self.scheduler.next_event(self.now)
                if event > self.now:
                    self._at(event, cpu, "look")
                continue
            unit, turn = chosen
            work = self._works[unit.name]
            self.where.setdefault(unit.name, {}).setdefault(cpu, 0)
            assert unit.runnable and turn > 0
            assert all(other[0] is not work for other in self._busy.values())
            self.idle_ns += self.now - self._idle_since[cpu]
            if work.woke_at >= 0:
                work.waits.append(self.now - work.woke_at)
                work.woke_at = -1
            turn += self.late
            if work.burst:
                turn = min(turn, work.left)
            self._lasts[cpu] = turn
            self._turns += 1
            if self.stalls and self._turns % self.stalls == 0:
                turn += 2_000 * MS
            self._sequence += 1
            self._busy[cpu] = (work, self.now, self._sequence)
            self._at(self.now + turn, cpu, "end", self._sequence)
