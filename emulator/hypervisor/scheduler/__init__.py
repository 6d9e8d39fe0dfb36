"""Schedulers: who runs next on which physical CPU, and for how long. `make_scheduler` knows them by the names that Xen's `sched=` uses."""

from __future__ import annotations

from collections.abc import Iterable
from types import MappingProxyType

from emulator.errors import UserError
from emulator.hypervisor.scheduler.base import DEFAULT_WEIGHT, MAX_WEIGHT, Queued, Scheduler, Unit
from emulator.hypervisor.scheduler.bvt import Bvt
from emulator.hypervisor.scheduler.credit import Credit
from emulator.hypervisor.scheduler.credit2 import Credit2
from emulator.hypervisor.scheduler.null import Null
from emulator.hypervisor.scheduler.rtds import Rtds

SCHEDULERS = MappingProxyType({kind.name: kind for kind in (Credit2, Credit, Rtds, Bvt, Null)})
DEFAULT_SCHEDULER = Credit2.name


def make_scheduler(name: str, cpus: Iterable[int]) -> Scheduler:
    """Raises UserError for a name that nobody has."""
    kind = SCHEDULERS.get(name)
    if kind is None:
        raise UserError(f"no scheduler is called {name[:40]!r}", fix=f"known: {', '.join(SCHEDULERS)}")
    return kind(cpus)


__all__ = ["DEFAULT_SCHEDULER", "DEFAULT_WEIGHT", "MAX_WEIGHT", "SCHEDULERS", "Queued", "Scheduler", "Unit", "make_scheduler"]
