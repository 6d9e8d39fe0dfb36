"""credit, Xen's scheduler before credit2 (xen/common/sched/credit.c).

Every 30 ms the credits of that time are dealt out by weight to who was active; running burns them. Who has some is UNDER, who has none OVER;
a unit that wakes UNDER is BOOSTed until its turn ends. Within a class the oldest goes first, 30 ms at a turn. A capped unit that is
in debt beyond its cap is parked until it has credit again. Credits are ns here."""

from __future__ import annotations

from collections.abc import Iterable

from emulator.hypervisor.scheduler.base import Queued, RunQueue, Scheduler, Unit

PERIOD = 30_000_000
TURN = 30_000_000
BOOST_TURN = 10_000_000  # a tick: the boost ends there
RATELIMIT = 1_000_000
_NO_LIMIT = 1 << 62
BOOST, UNDER, OVER = range(3)
_NAMES = ("BOOST", "UNDER", "OVER")


class Credit(Scheduler):
    name = "credit"

    def __init__(self, cpus: Iterable[int], *, turn_ns: int = TURN, ratelimit_ns: int = RATELIMIT) -> None:
        super().__init__(cpus)
        self._classes = (RunQueue(), RunQueue(), RunQueue())
        self._parked: dict[int, Unit] = {}
        self._active: dict[int, Unit] = {}
        self._account_at = 0
        self._turn, self._ratelimit = turn_ns, ratelimit_ns
        self._order = 0
        self._burnt = 0

    def _class(self, unit: Unit) -> int:
        return BOOST if unit.boosted else UNDER if unit.credit > 0 else OVER

    def enqueue(self, unit: Unit, now: int, woken: bool) -> None:
        self._account(now)
        if unit.name not in self._active:
            self._active[unit.name] = unit
            if not self._account_at:
                self._account_at = now + PERIOD
        unit.boosted = woken and unit.credit >= 0
        if unit.cap and unit.credit < 0 and unit.budget <= 0:
            self._parked[unit.name] = unit
            return
        self._push(unit)

    def _push(self, unit: Unit) -> None:
        unit.level = self._class(unit)
        self._order += 1
        self._classes[unit.level].push(unit, self._order)

    def dequeue(self, unit: Unit) -> None:
        self._classes[unit.level].discard(unit)
        self._parked.pop(unit.name, None)

    def remove(self, unit: Unit) -> None:
        super().remove(unit)
        self._active.pop(unit.name, None)

    def adjusted(self, unit: Unit, now: int) -> None:
        unit.budget = unit.cap * PERIOD // 100

    def parameters(self) -> dict[str, int]:
        return {"tslice_ms": self._turn // 1_000_000, "ratelimit_us": self._ratelimit // 1000}

    def tune(self, **parameters: int) -> None:
        self._turn = 1_000_000 * parameters.pop("tslice_ms", self._turn // 1_000_000)
        self._ratelimit = 1000 * parameters.pop("ratelimit_us", self._ratelimit // 1000)
        super().tune(**parameters)

    def next_event(self, now: int) -> int:
        return self._account_at if self._parked else 0

    def victim(self, unit: Unit, now: int) -> int:
        if unit.entry is None:
            return -1
        found, worst = -1, unit.level
        for cpu, other in self.running.items():
            if unit.may_run_on(cpu) and other.level > worst:
                found, worst = cpu, other.level
        return found

    def spared_until(self, cpu: int) -> int:
        return self.began[cpu] + self._ratelimit

    def choose(self, cpu: int, now: int) -> tuple[Unit, int] | None:
        self._account(now)
        for queue in self._classes:
            unit = queue.pop(cpu, _NO_LIMIT)
            if unit is not None:
                turn = BOOST_TURN if unit.level == BOOST else self._turn
                return unit, min(turn, max(500_000, unit.budget)) if unit.cap else turn
        return None

    def charge(self, unit: Unit, ns: int, now: int) -> None:
        unit.credit -= ns
        self._burnt += ns
        unit.boosted = False
        if unit.cap:
            unit.budget -= ns

    def _account(self, now: int) -> None:
        """csched_acct: deal out what the CPUs had since the last time, by weight, nobody more than one CPU or its cap can use."""
        if not self._account_at or now < self._account_at:
            return
        elapsed = (now - self._account_at) // PERIOD * PERIOD + PERIOD
        self._account_at += elapsed
        left = min(elapsed * len(self.cpus), self._burnt)  # a CPU that its host did not run deals out nothing
        self._burnt = 0
        takers = list(self._active.values())
        while takers and left > 0:
            total = sum(unit.weight for unit in takers)
            full = [unit for unit in takers if left * unit.weight // total >= self._most(unit, elapsed)]
            if not full:
                for unit in takers:
                    unit.credit += left * unit.weight // total
                break
            for unit in full:
                unit.credit += self._most(unit, elapsed)
                left -= self._most(unit, elapsed)
            takers = [unit for unit in takers if unit not in full]
        for unit in list(self._active.values()):
            if unit.cap:
                quota = unit.cap * elapsed // 100
                unit.budget = min(unit.budget + quota, unit.cap * PERIOD // 100)
            if unit.credit > PERIOD:
                unit.credit = PERIOD // 2  # it does not use what it gets
                if not unit.runnable:
                    del self._active[unit.name]
            elif unit.credit < -PERIOD:
                unit.credit = -PERIOD
        for unit in list(self._parked.values()):
            if unit.budget > 0:
                del self._parked[unit.name]
                self._push(unit)
        self._reclass()
        if not self._active:
            self._account_at = 0

    @staticmethod
    def _most(unit: Unit, elapsed: int) -> int:
        return elapsed * min(unit.cap, 100) // 100 if unit.cap else elapsed

    def _reclass(self) -> None:
        """UNDER and OVER anew, oldest first."""
        waiting = [unit for queue in self._classes[UNDER:] for unit in queue.units()]
        for unit in waiting:
            self._classes[unit.level].discard(unit)
        for unit in waiting:
            self._push(unit)

    def describe(self, unit: Unit) -> Queued:
        return Queued(unit.name, unit.credit, "parked" if unit.name in self._parked else _NAMES[self._class(unit)], unit.weight, unit.cap)

    def queued(self) -> list[Queued]:
        return [self.describe(unit) for queue in self._classes for unit in queue.units()] + [self.describe(unit) for unit in self._parked.values()]
