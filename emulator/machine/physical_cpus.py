"""Physical CPUs: who runs on them is changed and looked at here; the threads that do it are `workers`'."""

from __future__ import annotations

import time
from typing import Any

from emulator.errors import UserError
from emulator.machine.pools import Pool, Schedules
from emulator.machine.seats import GONE, HELD, MOVING, READY, SLEEPING, Actor
from emulator.machine.workers import Workers


class PhysicalCpus(Workers):
    """Workers in pools, with the terms of whom they run."""

    def adjust(self, actor: Actor, **terms: int) -> None:
        """New terms (Scheduler.adjust), from now on. Raises UserError, as `pin` and `move` do, when it has gone."""
        with self._lock:
            seat = self._seats.of(actor)
            seat.pool.scheduler.adjust(seat.unit, time.monotonic_ns(), **terms)
            self._idle.ring(*seat.pool.cpus)  # without a cap, it may go on

    def pin(self, actor: Actor, affinity: frozenset[int] | None, soft: frozenset[int] | None) -> None:
        """Hard and soft affinity, from its next turn on. Raises UserError when its pool has none of the former."""
        with self._lock:
            seat = self._seats.of(actor)
            self.pools.check_affinity(seat.pool, affinity)
            seat.pool.scheduler.pin(seat.unit, time.monotonic_ns(), affinity, soft)
            if seat.state == HELD:
                seat.actor.preempt()
            self._idle.ring(*range(self.count))

    # --- pools: cpupool-create, -destroy, -cpu-add, -cpu-remove, -migrate. All raise UserError for what Xen refuses --------------------

    def create_pool(self, name: str, scheduler: Schedules, cpus: tuple[int, ...]) -> None:
        """Of CPUs that are free."""
        with self._lock:
            pool = self.pools.create(name, scheduler)
            try:
                for cpu in cpus:
                    self._give(pool, cpu)
            except UserError:
                for cpu in pool.cpus:
                    self.pools.take(pool, cpu, time.monotonic_ns())
                self.pools.destroy(pool)
                raise

    def destroy_pool(self, name: str) -> None:
        """Its CPUs are free then."""
        with self._lock:
            pool = self.pools.find(name)
            self.pools.check_destroy(pool)
            for cpu in pool.cpus:
                self._take(pool, cpu)
            self.pools.destroy(pool)

    def give_cpus(self, name: str, cpus: tuple[int, ...]) -> None:
        """All or none of them."""
        with self._lock:
            pool = self.pools.find(name)
            for cpu in cpus:
                self.pools.check_give(cpu)
            for cpu in cpus:
                self._give(pool, cpu)

    def take_cpus(self, name: str, cpus: tuple[int, ...]) -> tuple[int, ...]:
        """All or none of them. Returns when no domain of the pool holds them. The domains whose hard affinity was broken by it: they may run
        anywhere now."""
        with self._lock:
            pool = self.pools.find(name)
            for number, cpu in enumerate(cpus):
                self.pools.check_take(pool, cpu, number)
            return tuple(domid for cpu in cpus for domid in self._take(pool, cpu))

    def _give(self, pool: Pool, cpu: int) -> None:
        self.pools.give(pool, cpu, time.monotonic_ns())
        self._idle.ring(cpu)

    def _take(self, pool: Pool, cpu: int) -> tuple[int, ...]:
        now = time.monotonic_ns()
        self.pools.take(pool, cpu, now)
        broken = [seat for seat in pool.domains.values() if seat.unit.affinity is not None and not seat.unit.affinity & set(pool.cpus)]
        for seat in broken:
            pool.scheduler.pin(seat.unit, now, None, seat.unit.soft)
        holder = self._holding[cpu]
        if holder is not None:
            self._evict(holder.actor, lambda: self._holding[cpu] is not holder)
        self._idle.ring(*pool.cpus)  # what waited for the one that went
        return tuple(seat.unit.name for seat in broken)

    def move(self, actor: Actor, name: str) -> None:
        """Its affinity is forgotten, as Xen does."""
        with self._lock:
            seat, pool = self._seats.of(actor), self.pools.find(name)
            self.pools.check_home(pool)
            self._released.wait_for(lambda: seat.state != MOVING)
            if seat.pool is pool or seat.state == GONE:
                return
            ready = seat.state in (READY, HELD)
            if seat.state == HELD:
                seat.state = MOVING  # nobody takes it up again meanwhile
                self._evict(actor, lambda: seat not in self._holding)
                self._released.notify_all()
                if seat.state == GONE:
                    return  # removed while we waited
                seat.state = SLEEPING
            now = time.monotonic_ns()
            if pool not in self.pools or not pool.cpus:
                pool = seat.pool  # the other went while we waited
            self._leave_pool(seat)
            seat.unit.affinity = seat.unit.soft = None
            seat.pool = pool
            pool.domains[seat.unit.name] = seat
            pool.scheduler.add(seat.unit, now)
            if ready:
                seat.state = SLEEPING
                self._wake(seat, now)

    # --- looking ---------------------------------------------------------------------------------------------------------------

    @property
    def scheduler(self) -> str:
        return " ".join(dict.fromkeys(pool.scheduler.name for pool in self.pools))

    def describe(self, actor: Actor) -> Any:
        """The scheduler's view of it (hypervisor.scheduler.Queued), None when it has gone. Without the lock: a look may be a turn old."""
        seat = self._seats.get(id(actor))
        return seat.pool.scheduler.describe(seat.unit) if seat is not None else None

    def spent(self, actor: Actor) -> int:
        """CPU time of its turns, ns."""
        seat = self._seats.get(id(actor))
        return int(seat.unit.spent) if seat is not None else 0

    def tune(self, name: str, **parameters: int) -> None:
        """Parameters of a pool's scheduler (Scheduler.tune)."""
        with self._lock:
            self.pools.find(name).scheduler.tune(**parameters)

    def seat(self, actor: Actor) -> tuple[Any, str, int] | None:
        """Its unit, its pool's name, and whether it waits or runs or sleeps; None when it has gone."""
        seat = self._seats.get(id(actor))
        return (seat.unit, seat.pool.name, seat.state) if seat is not None else None

    def standing(self) -> tuple[list[tuple[int, Any]], list[Any]]:
        """Who holds which CPU, and the run queues in order: one look at both, so that nobody stands in two places."""
        with self._lock:
            held = [(cpu, seat.pool.scheduler.describe(seat.unit)) for cpu, seat in enumerate(self._holding) if seat is not None]
            return held, [queued for pool in self.pools for queued in pool.scheduler.queue()]
