"""Pools of physical CPUs (xen/common/sched/cpupool.c): each has its own scheduler, a domain is in one of them, a CPU in one or in none.

The books only: who holds a CPU and what must stop first is `workers`' and `physical_cpus`' matter. Refusals are Xen's and name its error."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from emulator.errors import UserError

MAIN_POOL = "Pool-0"
MAX_NAME = 64


class Schedules(Protocol):
    """What of a scheduler is used here (hypervisor.scheduler.Scheduler)."""

    @property
    def name(self) -> str: ...
    def add(self, unit: Any, now: int) -> None: ...
    def remove(self, unit: Any) -> None: ...
    def wake(self, unit: Any, now: int) -> None: ...
    def tickle(self, unit: Any, now: int) -> tuple[int, int]: ...
    def waiting(self) -> int: ...
    def may_pick(self, unit: Any, cpu: int) -> bool: ...
    def pick(self, cpu: int, now: int) -> tuple[Any, int] | None: ...
    def called(self) -> list[int]: ...
    def ran(self, unit: Any, ns: int, now: int, runnable: bool) -> None: ...
    def adjust(self, unit: Any, now: int, **terms: int) -> None: ...
    def pin(self, unit: Any, now: int, affinity: frozenset[int] | None, soft: frozenset[int] | None) -> None: ...
    def set_cpus(self, cpus: Iterable[int], now: int) -> None: ...
    def next_event(self, now: int) -> int: ...
    def queue(self) -> list[Any]: ...
    def describe(self, unit: Any) -> Any: ...
    def parameters(self) -> dict[str, int]: ...
    def tune(self, **parameters: int) -> None: ...


@dataclass(eq=False)
class Pool:
    """`domains`: what is in it, by domain number; Domain-0, which is no actor, is in Pool-0 besides."""

    poolid: int
    name: str
    scheduler: Schedules
    cpus: tuple[int, ...] = ()
    domains: dict[int, Any] = field(default_factory=dict)

    @property
    def count(self) -> int:
        return len(self.domains) + (self.poolid == 0)


class Pools:
    """Over `count` CPUs, all of them in Pool-0 at first."""

    def __init__(self, count: int, scheduler: Schedules) -> None:
        self._count = count
        self.main = Pool(0, MAIN_POOL, scheduler, tuple(range(count)))
        self._pools = {0: self.main}
        self.of_cpu: list[Pool | None] = [self.main] * count

    def __iter__(self) -> Iterator[Pool]:
        return iter(tuple(self._pools.values()))

    def find(self, name: str) -> Pool:
        """By name or number. Raises UserError."""
        for pool in self._pools.values():
            if name in (pool.name, str(pool.poolid)):
                return pool
        raise UserError(f"no pool is called {ascii(name)[:MAX_NAME]}", fix=f"there are {', '.join(pool.name for pool in self._pools.values())}")

    def free(self) -> tuple[int, ...]:
        """CPUs in no pool."""
        return tuple(cpu for cpu, pool in enumerate(self.of_cpu) if pool is None)

    def create(self, name: str, scheduler: Schedules) -> Pool:
        """An empty pool under the lowest free number. Raises UserError."""
        if not name or len(name) > MAX_NAME or not name.isprintable() or name.isdigit():
            raise UserError(f"{ascii(name)[:MAX_NAME]} will not do as a pool's name", fix=f"1 to {MAX_NAME} printable characters, not digits alone")
        if any(pool.name == name for pool in self._pools.values()):
            raise UserError(f"pool {name} exists already", why="EEXIST")
        if len(self._pools) >= 2 * self._count:
            raise UserError(f"{2 * self._count} pools are the most", why="ENOSPC")
        poolid = next(number for number in range(2 * self._count + 1) if number not in self._pools)
        made = self._pools[poolid] = Pool(poolid, name, scheduler)
        return made

    def destroy(self, pool: Pool) -> None:
        """Of a pool without CPUs and domains."""
        self.check_destroy(pool)
        del self._pools[pool.poolid]

    def check_destroy(self, pool: Pool) -> None:
        if pool.count:
            held = "Domain-0 among them" if pool.poolid == 0 else "xl cpupool-migrate moves them"
            raise UserError(f"pool {pool.name} has {pool.count} domain{'s' * (pool.count > 1)}", why=f"EBUSY; {held}")

    def give(self, pool: Pool, cpu: int, now: int) -> None:
        """cpupool-cpu-add: a free CPU comes to the pool."""
        self.check_give(cpu)
        self.of_cpu[cpu] = pool
        pool.cpus = tuple(sorted((*pool.cpus, cpu)))
        pool.scheduler.set_cpus(pool.cpus, now)

    def check_give(self, cpu: int) -> None:
        """Raises UserError when the CPU is not free."""
        self._check_cpu(cpu)
        owner = self.of_cpu[cpu]
        if owner is not None:
            raise UserError(f"CPU {cpu} is in pool {owner.name}", why="ENODEV", fix=f"cpupool-cpu-remove {owner.name} {cpu} makes it free")

    def check_take(self, pool: Pool, cpu: int, gone: int = 0) -> None:
        """Raises UserError when the pool cannot do without the CPU, `gone` others being taken before it."""
        self._check_cpu(cpu)
        if pool.poolid == 0 and cpu == 0:
            raise UserError(f"CPU 0 stays in {pool.name}", why="EINVAL")
        if self.of_cpu[cpu] is not pool:
            raise UserError(f"CPU {cpu} is not in pool {pool.name}", why="EADDRNOTAVAIL")
        if len(pool.cpus) == gone + 1 and pool.count:
            raise UserError(f"CPU {cpu} is the last of pool {pool.name}, which has {pool.count} domain{'s' * (pool.count > 1)}", why="EBUSY")

    def take(self, pool: Pool, cpu: int, now: int) -> None:
        """cpupool-cpu-remove: it is in no pool then; what holds it may end its turn."""
        self.check_take(pool, cpu)
        self.of_cpu[cpu] = None
        pool.cpus = tuple(other for other in pool.cpus if other != cpu)
        pool.scheduler.set_cpus(pool.cpus, now)

    def check_home(self, pool: Pool) -> None:
        """Raises UserError when a domain cannot live there."""
        if not pool.cpus:
            raise UserError(f"pool {pool.name} has no CPU", why="ENODEV", fix=f"cpupool-cpu-add {pool.name} CPU")

    @staticmethod
    def check_affinity(pool: Pool, affinity: frozenset[int] | None) -> None:
        if affinity is not None and not affinity & set(pool.cpus):
            shown = ",".join(map(str, sorted(affinity)))
            raise UserError(f"none of the CPUs {shown} is in pool {pool.name}", why="EINVAL", fix=f"it has {','.join(map(str, pool.cpus))}")

    def _check_cpu(self, cpu: int) -> None:
        if not 0 <= cpu < self._count:
            raise UserError(f"there is no CPU {cpu}", fix=f"0 to {self._count - 1}")
