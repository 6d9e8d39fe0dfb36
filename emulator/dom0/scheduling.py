"""How domains share the physical CPUs, as xl has it: weights, caps, RTDS' budgets, affinity, and how many vCPUs are online.

A domain's vCPUs go together (`hypervisor.rotation`), so what xl says of one vCPU is said here of the domain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from emulator.errors import UserError
from emulator.hypervisor.mailbox import ToBackend
from emulator.hypervisor.scheduler import DEFAULT_WEIGHT, MAX_WEIGHT, Unit
from emulator.machine.pools import MAIN_POOL, Pool

if TYPE_CHECKING:
    from emulator.dom0.config import DomainConfig
    from emulator.dom0.guest import Guest
    from emulator.dom0.toolstack import Toolstack

RTDS_SHORTEST_US: Final = 10
_RATELIMIT_US: Final = (100, 500_000)  # XEN_SYSCTL_SCHED_RATELIMIT_MIN, _MAX; 0 is none
_TSLICE_MS: Final = (1, 1000)
_MAX_US: Final = 1 << 40


@dataclass(frozen=True, slots=True)
class Verb:
    """What xl sched-NAME sets: terms of a domain, parameters of the scheduler; and its list."""

    terms: tuple[str, ...]
    parameters: tuple[str, ...]
    columns: str = f"{'Weight':>6} {'Cap':>4}"

    def heading(self, each: bool = False) -> str:
        return f"{'Name':<33} {'ID':>4} {'VCPU ' if each else ''}{self.columns}"

    def rows(self, guest: Guest, unit: Unit, vcpus: list[int] | None = None) -> list[str]:
        """One, or one for each of its `vcpus`."""
        terms = f"{unit.weight:>6} {unit.cap:>4}"
        if "period" in self.terms:
            terms = f"{unit.period // 1000:>9} {unit.reserved // 1000:>9} {'yes' if unit.allowance else 'no':>10}"
        return [f"{guest.name:<33} {guest.domid:>4} {vcpu}{terms}" for vcpu in ([""] if vcpus is None else [f"{vcpu:>4} " for vcpu in vcpus])]


VERBS: Final = MappingProxyType({
    "credit2": Verb(("weight", "cap"), ("ratelimit_us",)),
    "credit": Verb(("weight", "cap"), ("tslice_ms", "ratelimit_us")),
    "rtds": Verb(("period", "budget", "extratime"), (), f"{'Period':>9} {'Budget':>9} {'Extratime':>10}"),
    "bvt": Verb(("weight",), ("allowance_us",)),
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class SchedOrder:
    """xl sched-SCHEDULER [-d DOM] [-v VCPU] [-p POOL] [-s] and what it sets; without values it lists. Periods and budgets in µs."""

    scheduler: str
    domid: int = -1
    pool: str = ""
    vcpu: str = ""  # a number or all
    whole: bool = False  # -s: parameters of the scheduler itself
    values: Mapping[str, int] = field(default_factory=dict)


def parse_cpus(text: str, count: int) -> frozenset[int] | None:
    """xl's list of CPUs ("0-3,^1", "all", "node:0"; a list's items parted by ';' are joined): None for all. Raises UserError."""
    if not text or text.strip() == "all":
        return None
    wanted: set[int] = set()
    for item in text.replace(" ", "").replace(";", ",").split(","):
        kind, _, numbers = item.lstrip("^").rpartition(":")
        first, _, last = numbers.partition("-")
        if item == "all":
            first, last = "0", str(count)
        elif kind not in ("", "node", "nodes") or not first.isdecimal() or (last and not last.isdecimal()) or len(numbers) > 20:
            raise UserError(f"{ascii(item)[:40]} is no CPU or range of CPUs", fix="such as 0-3,^1 or all")
        span = range(int(first), min(int(last or first), count - 1) + 1)
        if kind:
            span = range(count if int(first) == 0 else 0)  # the machine is one node
        wanted = wanted - set(span) if item.startswith("^") else wanted | set(span)
    if not wanted:
        raise UserError(f"{ascii(text)[:40]} leaves no CPU", why=f"there are {count}: 0-{count - 1}")
    return None if len(wanted) == count else frozenset(wanted)


def show_cpus(cpus: frozenset[int] | None) -> str:
    """As xl vcpu-list shows an affinity."""
    return "all" if cpus is None else ",".join(map(str, sorted(cpus)))


def make_unit(tools: Toolstack, domid: int, config: DomainConfig) -> Unit:
    """What the scheduler sees of a new domain. Raises UserError."""
    count = tools.cpus.count
    hard, soft = parse_cpus(config.cpus, count), parse_cpus(config.cpus_soft, count)
    unit = Unit(domid, config.cpu_weight or DEFAULT_WEIGHT, config.cap or 0, hard, soft)
    given = {"period": config.period, "budget": config.budget, "extratime": config.extratime}
    for name, value in _rtds({name: value for name, value in given.items() if value is not None}, unit).items():
        setattr(unit, name, value)
    return unit


def check(tools: Toolstack, config: DomainConfig) -> None:
    """Raises UserError when `register` would."""
    pool = tools.cpus.pools.find(config.pool or MAIN_POOL)
    tools.cpus.pools.check_home(pool)
    tools.cpus.pools.check_affinity(pool, make_unit(tools, 0, config).affinity)


def register(tools: Toolstack, guest: Guest, config: DomainConfig) -> None:
    """A new domain comes to its pool's scheduler, with what its cfg says. Raises UserError."""
    tools.cpus.add(guest, make_unit(tools, guest.domid, config), config.pool or MAIN_POOL)


def _seat(tools: Toolstack, guest: Guest) -> tuple[Unit, str]:
    """Its unit and its pool."""
    seat = tools.cpus.seat(guest)
    if seat is None:
        raise UserError(f"domain {guest.domid} is gone")
    return seat[:2]


# --- xl sched-* --------------------------------------------------------------------------------------------------------------


def order(tools: Toolstack, wanted: SchedOrder) -> str:
    """What was set, or the list. Raises UserError."""
    verb = VERBS.get(wanted.scheduler)
    if verb is None:
        raise UserError(f"scheduler {wanted.scheduler[:40]} has nothing to set", fix=f"known: {', '.join(VERBS)}")
    allowed = verb.parameters if wanted.whole else verb.terms
    for name in wanted.values:
        if name not in allowed:
            raise UserError(f"sched-{wanted.scheduler} does not set {name} {'of a scheduler' if wanted.whole else 'of a domain'}")
    if wanted.whole:
        return _whole(tools, wanted)
    if wanted.pool and (wanted.domid >= 0 or wanted.values or wanted.vcpu):
        raise UserError("a pool is named for its list, or with -s")
    if wanted.domid < 0:
        if wanted.values or wanted.vcpu not in ("", "all"):
            raise UserError("whose? a domain must be named", fix="-d DOMAIN")
        return "\n".join(line for pool in _pools(tools, wanted) for line in _listed(tools, pool, verb, bool(wanted.vcpu)))
    guest = tools.guest(wanted.domid)
    unit, pool = _seat(tools, guest)
    ruler = tools.cpus.pools.find(pool).scheduler.name
    if ruler != wanted.scheduler:
        raise UserError(f"{guest.name} is in pool {pool}, whose scheduler is {ruler}, not {wanted.scheduler}", fix=f"sched-{ruler}")
    vcpus = _vcpus(guest, wanted.vcpu, alone=not wanted.values) if wanted.vcpu else None
    if not wanted.values:
        return "\n".join((verb.heading(bool(wanted.vcpu)), *verb.rows(guest, unit, vcpus)))
    _check_shares(guest, wanted.values)
    tools.cpus.adjust(guest, **_rtds(wanted.values, unit))
    said = f"{guest.name}: " + ", ".join(f"{name} {value}" for name, value in wanted.values.items())
    tools.say("info", wanted.domid, said)
    tools.tell("state", wanted.domid)
    return said


def _vcpus(guest: Guest, named: str, *, alone: bool) -> list[int]:
    """xl's VCPU: a number, or all. `alone`: whether it may be one of several, whose terms and affinity belong to all of them. Raises UserError."""
    count = guest.domain.spec.vcpus
    if named == "all":
        return list(range(count))
    if not named.isdecimal() or len(named) > 5 or int(named) >= count:
        raise UserError(f"{guest.name} has no vCPU {ascii(named)[1:-1][:20]}", fix=f"0 to {count - 1}, or all" if count > 1 else "0 or all")
    if count > 1 and not alone:
        raise UserError(f"vCPU {named} cannot have its own", why="a domain's vCPUs go together", fix="all")
    return [int(named)]


def _check_shares(guest: Guest, values: Mapping[str, int]) -> None:
    weight, cap, most = values.get("weight", 1), values.get("cap", 0), 100 * guest.domain.spec.vcpus
    if not 1 <= weight <= MAX_WEIGHT:
        raise UserError(f"a weight of {weight}", fix=f"1 to {MAX_WEIGHT}; {DEFAULT_WEIGHT} is usual")
    if not 0 <= cap <= most:
        raise UserError(f"a cap of {cap} %", fix=f"0 (none) to {most}")


def _rtds(values: Mapping[str, int], unit: Unit) -> dict[str, int]:
    """Period and budget in ns under the unit's names, checked as rt_dom_cntl does; the rest as it is."""
    period, budget = values.get("period", unit.period // 1000), values.get("budget", unit.reserved // 1000)
    if not RTDS_SHORTEST_US <= budget <= period <= _MAX_US:
        raise UserError(f"a budget of {budget} µs in a period of {period} µs", why="EINVAL",
                        fix=f"{RTDS_SHORTEST_US} µs or more, and the budget no more than the period")  # fmt: skip
    names = {"period": ("period", 1000), "budget": ("reserved", 1000), "extratime": ("allowance", 1)}
    return {names.get(name, (name, 1))[0]: value * names.get(name, (name, 1))[1] for name, value in values.items()}


def _pools(tools: Toolstack, wanted: SchedOrder) -> list[Pool]:
    """Those under that scheduler, or the one named."""
    pools = [tools.cpus.pools.find(wanted.pool)] if wanted.pool else list(tools.cpus.pools)
    found = [pool for pool in pools if pool.scheduler.name == wanted.scheduler]
    if not found:
        raise UserError(f"no pool{f' {wanted.pool}' if wanted.pool else ''} has the scheduler {wanted.scheduler}",
                        why=", ".join(f"{pool.name} has {pool.scheduler.name}" for pool in pools))  # fmt: skip
    return found


def _head(pool: Pool) -> str:
    """xl's first line of a pool: "Cpupool Pool-0: tslice=30ms ratelimit=1000us"."""
    parameters = pool.scheduler.parameters()
    shown = " ".join(f"{name.rpartition('_')[0]}={value}{name.rpartition('_')[2]}" for name, value in parameters.items())
    return f"Cpupool {pool.name}: {shown or 'sched=' + pool.scheduler.name.upper()}"


def _listed(tools: Toolstack, pool: Pool, verb: Verb, each: bool) -> list[str]:
    """`each`: a row for every vCPU."""
    seats = [(guest, seat.unit) for _domid, seat in sorted(pool.domains.items()) if (guest := tools.guests.get(seat.unit.name)) is not None]
    rows = [row for guest, unit in seats for row in verb.rows(guest, unit, list(range(guest.domain.spec.vcpus)) if each else None)]
    return [_head(pool), verb.heading(each), *rows]


def _whole(tools: Toolstack, wanted: SchedOrder) -> str:
    if wanted.domid >= 0:
        raise UserError("a scheduler's parameters belong to a pool, not to a domain", fix="-s [-p POOL]")
    pools = _pools(tools, wanted)
    if not wanted.values:
        return "\n".join(map(_head, pools))
    if not wanted.pool and len(pools) > 1:
        raise UserError(f"{len(pools)} pools have the scheduler {wanted.scheduler}", fix="-p POOL")
    pool = pools[0]
    values = {**pool.scheduler.parameters(), **wanted.values}
    low, high = _RATELIMIT_US
    limit = values.get("ratelimit_us", 0)
    if limit and not low <= limit <= high:
        raise UserError(f"a rate limit of {limit} µs", why="EINVAL", fix=f"{low} to {high}, or 0 for none")
    slice_ms = values.get("tslice_ms", _TSLICE_MS[1])
    if not _TSLICE_MS[0] <= slice_ms <= _TSLICE_MS[1] or limit > slice_ms * 1000:
        raise UserError(f"a time slice of {slice_ms} ms under a rate limit of {limit} µs", why="EINVAL",
                        fix=f"{_TSLICE_MS[0]} to {_TSLICE_MS[1]} ms, no shorter than the limit")  # fmt: skip
    if values.get("allowance_us", 100) < 100:
        raise UserError(f"an allowance of {values['allowance_us']} µs", fix="100 or more")
    tools.cpus.tune(pool.name, **wanted.values)
    tools.say("info", 0, _head(pool))
    return _head(pool)


# --- affinity, hotplug ---------------------------------------------------------------------------------------------------------


def pin(tools: Toolstack, domid: int, vcpu: str, hard: str, soft: str = "-") -> str:
    """xl vcpu-pin: a domain's vCPUs go together. "-" leaves an affinity as it is."""
    guest = tools.guest(domid)
    _vcpus(guest, vcpu, alone=False)
    unit, _pool = _seat(tools, guest)
    affinity = unit.affinity if hard in ("", "-") else parse_cpus(hard, tools.cpus.count)
    preferred = unit.soft if soft in ("", "-") else parse_cpus(soft, tools.cpus.count)
    tools.cpus.pin(guest, affinity, preferred)
    said = f"{guest.name} may run on CPUs {show_cpus(affinity)}" + (f", rather on {show_cpus(preferred)}" if preferred is not None else "")
    tools.say("info", domid, said)
    tools.tell("state", domid)
    return said


def set_vcpus(tools: Toolstack, domid: int, count: int) -> None:
    """xl vcpu-set: xenstore says which vCPUs should be online; the guest does it."""
    guest = tools.guest(domid)
    most = guest.domain.spec.vcpus
    if not 1 <= count <= most:
        raise UserError(f"{count} vCPUs", why=f"{guest.name} has at most {most}", fix="maxvcpus= in its cfg says how many")
    for number in range(most):
        path = f"/local/domain/{domid}/cpu/{number}/availability"
        guest.domain.post(ToBackend("xenstore", path.encode() + b"\0" + (b"online" if number < count else b"offline")))
    tools.say("info", domid, f"{guest.name} asked to use {count} of {most} vCPUs")
