"""Pools of physical CPUs as xl has them: cpupool-list, -create, -destroy, -cpu-add, -cpu-remove and -migrate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from emulator.dom0.cfgfile import parse_settings
from emulator.dom0.scheduling import parse_cpus
from emulator.errors import UserError
from emulator.hypervisor.scheduler import make_scheduler

if TYPE_CHECKING:
    from emulator.dom0.toolstack import Toolstack


@dataclass(frozen=True, slots=True)
class PoolReport:
    """`domains`: how many; Domain-0 counts in Pool-0."""

    poolid: int
    name: str
    scheduler: str
    cpus: tuple[int, ...]
    domains: int


class CpuPools:
    """Of a toolstack. Every verb raises UserError for what Xen refuses."""

    def __init__(self, tools: Toolstack) -> None:
        self._tools = tools

    def reports(self, name: str = "") -> tuple[PoolReport, ...]:
        """All pools, or the one of that name or number."""
        pools = (self._tools.cpus.pools.find(name),) if name else tuple(self._tools.cpus.pools)
        return tuple(PoolReport(pool.poolid, pool.name, pool.scheduler.name, pool.cpus, pool.count) for pool in pools)

    def create(self, text: str) -> str:
        """`text`: settings as xl's cpupool file has them, `name=`, `sched=` and `cpus=`, on lines of their own or parted by blanks; without
        `cpus` the pool has none, without `sched` it has Pool-0's. Only free CPUs will do."""
        given = _settings(text)
        cpus = self._tools.cpus
        name, sched = given.get("name", ""), given.get("sched", cpus.pools.main.scheduler.name)
        wanted = self._cpus(given["cpus"]) if given.get("cpus") else ()
        cpus.create_pool(name, make_scheduler(sched, ()), wanted)
        return self._said(f"pool {name} made: scheduler {sched}, {_listed(wanted)}")

    def destroy(self, name: str) -> str:
        self._tools.cpus.destroy_pool(name)
        return self._said(f"pool {name} is no more; its CPUs are free")

    def cpu_add(self, name: str, cpus: str) -> str:
        wanted = self._cpus(cpus)
        self._tools.cpus.give_cpus(name, wanted)
        return self._said(f"{_listed(wanted)} added to pool {name}")

    def cpu_remove(self, name: str, cpus: str) -> str:
        wanted = self._cpus(cpus)
        broken = set(self._tools.cpus.take_cpus(name, wanted))
        lost = f"; breaking affinity for {', '.join(f'd{domid}' for domid in sorted(broken))}" if broken else ""
        return self._said(f"{_listed(wanted)} taken from pool {name}{lost}")

    def migrate(self, domid: int, name: str) -> str:
        guest = self._tools.guest(domid)
        self._tools.cpus.move(guest, name)
        self._tools.tell("state", domid)
        return self._said(f"{guest.name} is in pool {name} now")

    def _cpus(self, text: str) -> tuple[int, ...]:
        count = self._tools.cpus.count
        wanted = parse_cpus(text, count)
        return tuple(range(count)) if wanted is None else tuple(sorted(wanted))

    def _said(self, text: str) -> str:
        self._tools.say("info", 0, text)
        return text


def _listed(cpus: tuple[int, ...]) -> str:
    return f"CPU{'s' * (len(cpus) > 1)} {','.join(map(str, cpus))}" if cpus else "no CPU"


def _settings(text: str) -> dict[str, str]:
    """name, sched and cpus. Raises UserError."""
    given: dict[str, str] = {}
    for key, setting in parse_settings(text if "\n" in text else _lines(text), "<cpupool>").items():
        if key not in ("name", "sched", "cpus"):
            raise UserError(f"a pool has no {ascii(key)[:40]}", fix="name=, sched= and cpus= are known")
        given[key] = setting.value if isinstance(setting.value, str) else ",".join(str(item) for item in setting.value)
    if not given.get("name"):
        raise UserError("a pool needs a name", fix="name=…")
    return given


def _lines(text: str) -> str:
    """Words of a prompt as settings; what is in no quotes yet is put into some."""
    words = (word.partition("=") for word in text.split())
    return "\n".join(f"{key}{equals}" + (value if value[-1:] in tuple("\"']") else f'"{value}"') for key, equals, value in words)
