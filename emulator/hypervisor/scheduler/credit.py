"""credit, Xen's scheduler before credit2 (xen/common/sched/credit.c).

    burn     ns on the CPU
    deal     every 30 ms: what was burnt, by weight, so that the credits of the active units come to 0 in all
    order    BOOST, UNDER (it has credit), OVER (it has none); of the first two the oldest, of OVER the one that is first out of debt
    turn     until the credit is gone, within SHORTEST_TURN and 30 ms; a tick of 10 ms under BOOST
    boost    who wakes and is no more than LOAN in debt, until its turn ends
    cap      a budget of cap % of a period for every period; whoever has none left is parked until the next

Xen deals out what its CPUs could have run, mends the balance when it is negative, bounds credits by 30 ms, lets age decide between those that
are OVER, and a turn lasts 30 ms whatever the credit. There a turn ends in time. Here it ends late, by milliseconds on a busy host, and more was
burnt than dealt out, until all were OVER and the bound forgave the lightest its debts: it got up to three times its share. So the balance itself
is dealt out, nothing more or less; debts count until they are paid; and short turns keep a light unit near its share over seconds.
Credits are ns."""

from __future__ import annotations

from collections.abc import Iterable

from emulator.hypervisor.scheduler.base import DEFAULT_WEIGHT, Queued, RunQueue, Scheduler, Unit

PERIOD = 30_000_000
TURN = 30_000_000
SHORTEST_TURN = 5_000_000
BOOST_TURN = 10_000_000  # a tick: the boost ends there
LOAN = PERIOD // 2
"""As much as Xen's sleepers save. Here they save nothing, so that the others do not miss it when one falls asleep, nor pay when it wakes."""
RATELIMIT = 1_000_000
BOUND = 10 * PERIOD
"""Of credits and debts: where CPUs are pinned, not everybody can run as much as the weights say."""
BOOST, UNDER, OVER = range(3)
_NAMES = ("BOOST", "UNDER", "OVER")


class Credit(Scheduler):
    name = "credit"

    def __init__(self, cpus: Iterable[int], *, turn_ns: int = TURN, ratelimit_ns: int = RATELIMIT) -> None:
        super().__init__(cpus)
        self._queues = (RunQueue(), RunQueue(), RunQueue())
        self._parked: dict[int, Unit] = {}
        self._active: dict[int, Unit] = {}
        self._dealt_at = 0
        self._held = self._burnt = 0  # since then: how long the CPUs were held by the clock, and the CPU time of it
        self._charged: dict[int, tuple[int, int]] = {}  # the same of turns that last yet, CPU time first
        self._turn, self._ratelimit = turn_ns, ratelimit_ns

    def add(self, unit: Unit, now: int) -> None:
        unit.credit = 0
        super().add(unit, now)

    def enqueue(self, unit: Unit, now: int, woken: bool) -> None:
        self._account(now)
        if not self._active:
            self._dealt_at = now
        self._active[unit.name] = unit
        unit.boosted = woken and unit.credit >= -LOAN
        if unit.cap and unit.budget <= 0:
            self._parked[unit.name] = unit
        else:
            self._push(unit, now)

    def _push(self, unit: Unit, since: int) -> None:
        unit.level, unit.deadline = self._class(unit), since
        self._queues[unit.level].push(unit, -unit.credit * DEFAULT_WEIGHT // unit.weight if unit.level == OVER else since)

    @staticmethod
    def _class(unit: Unit) -> int:
        return BOOST if unit.boosted else UNDER if unit.credit > 0 else OVER

    def dequeue(self, unit: Unit) -> None:
        self._queues[unit.level].discard(unit)
        self._parked.pop(unit.name, None)

    def remove(self, unit: Unit) -> None:
        super().remove(unit)
        self._active.pop(unit.name, None)

    def adjusted(self, unit: Unit, now: int) -> None:
        unit.budget = unit.cap * PERIOD // 100
        if self._parked.pop(unit.name, None) is not None:
            self._push(unit, now)

    def parameters(self) -> dict[str, int]:
        return {"tslice_ms": self._turn // 1_000_000, "ratelimit_us": self._ratelimit // 1000}

    def tune(self, **parameters: int) -> None:
        self._turn = 1_000_000 * parameters.pop("tslice_ms", self._turn // 1_000_000)
        self._ratelimit = 1000 * parameters.pop("ratelimit_us", self._ratelimit // 1000)
        super().tune(**parameters)

    def next_event(self, now: int) -> int:
        return self._dealt_at + PERIOD if self._parked else 0

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
        for queue in self._queues:
            unit = queue.pop(cpu, TURN)
            if unit is not None:
                turn = min(self._turn, BOOST_TURN if unit.boosted else max(SHORTEST_TURN, unit.credit))
                return unit, min(turn, max(500_000, unit.budget)) if unit.cap else turn
        return None

    def charge(self, unit: Unit, ns: int, now: int) -> None:
        self._burn(unit, ns, now - self.began[unit.cpu])
        self._charged.pop(unit.name, None)
        unit.boosted = False
        if unit.cap:
            unit.budget -= ns

    def _burn(self, unit: Unit, ns: int, held: int) -> None:
        """`ns` in all of a turn that has lasted `held`. Of one that lasts yet ns is a guess, put right at its end."""
        charged, counted = self._charged.get(unit.name, (0, 0))
        self._charged[unit.name] = ns, held
        unit.credit -= ns - charged
        self._burnt += ns - charged
        self._held += held - counted

    def _account(self, now: int) -> None:
        """csched_acct, and the burn_credits of its ticks."""
        if now < self._dealt_at + PERIOD or not self._active:
            return
        last, self._dealt_at = self._dealt_at, now - (now - self._dealt_at) % PERIOD
        elapsed = self._dealt_at - last
        for cpu, unit in self.running.items():
            held = now - self.began[cpu]
            self._burn(unit, min(held, self._turn), held)  # one that lasts for seconds is not run by the host
        self._deal(elapsed)
        for unit in list(self._active.values()):
            if unit.cap:
                unit.budget = min(unit.budget + unit.cap * elapsed // 100, unit.cap * PERIOD // 100)
            unit.credit = max(-BOUND, min(unit.credit, BOUND))
            if not unit.runnable and (not unit.credit or (unit.credit > 0 and unit.sleeps_at < last)):
                unit.credit = 0  # it does not use what it has
                del self._active[unit.name]
        for unit in list(self._parked.values()):
            if unit.budget > 0:
                del self._parked[unit.name]
                self._push(unit, now)
        self._reclass()

    def _deal(self, elapsed: int) -> None:
        """By weight; to nobody more than it could have used."""
        takers = list(self._active.values())
        left = -sum(unit.credit for unit in takers)
        most = elapsed * max(self._burnt, 0) // self._held if self._held else elapsed  # of a CPU that its host did not run, nothing
        self._held = self._burnt = 0
        while takers and left > 0:
            total = sum(unit.weight for unit in takers)
            rest = []
            dealt = 0
            for unit in takers:
                room = self._room(unit, most)
                if left * unit.weight // total < room:
                    rest.append(unit)
                else:
                    unit.credit += room
                    dealt += room
            if len(rest) == len(takers):
                for unit in takers:
                    unit.credit += left * unit.weight // total
                break
            takers, left = rest, left - dealt

    @staticmethod
    def _room(unit: Unit, most: int) -> int:
        if not unit.runnable:
            return min(most, max(0, -unit.credit))
        return most * min(unit.cap, 100) // 100 if unit.cap else most

    def _reclass(self) -> None:
        waiting = [unit for queue in self._queues[UNDER:] for unit in queue.units()]
        for unit in waiting:
            self._queues[unit.level].discard(unit)
        for unit in waiting:
            self._push(unit, unit.deadline)

    def describe(self, unit: Unit) -> Queued:
        return Queued(unit.name, unit.credit, "parked" if unit.name in self._parked else _NAMES[self._class(unit)], unit.weight, unit.cap)

    def queued(self) -> list[Queued]:
        return [self.describe(unit) for queue in self._queues for unit in queue.units()] + [self.describe(unit) for unit in self._parked.values()]
