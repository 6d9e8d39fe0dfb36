"""Commands of the schedulers and of the pools of CPUs, in xl's names."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from emulator.control.command import Arguments, Command
from emulator.control.hostapi import HostApi
from emulator.control.messages import CommandResult

_VALUES = ("weight", "cap", "period", "budget", "extratime", "ratelimit_us", "tslice_ms", "allowance_us")


def _sched(scheduler: str) -> Callable[[HostApi, Arguments], CommandResult]:
    def run(host: HostApi, args: Arguments) -> CommandResult:
        from emulator.dom0.scheduling import SchedOrder

        values = {name: args.get(name, 0) for name in _VALUES if args.has(name)}
        domid = args.get("domid", -1)
        said = host.sched(SchedOrder(scheduler, domid, args.get("pool", ""), args.get("vcpu", ""), args.get("whole", False), values))
        return CommandResult(ok=True, domid=domid, message=said)

    return run


def _pin(host: HostApi, args: Arguments) -> CommandResult:
    said = host.pin(args.domid(), args.get("vcpu", ""), args.get("cpus", "-"), args.get("soft", "-"))
    return CommandResult(ok=True, domid=args.domid(), message=said)


def _pools(host: HostApi, args: Arguments) -> CommandResult:
    """xl's columns (main_cpupoollist)."""
    lines = [f"{'Name':<19}CPUs   Sched     Active   Domain count   CPU list"]
    for pool in host.cpupools.reports(args.get("pool", "")):
        listed = ",".join(map(str, pool.cpus))
        lines.append(f"{pool.name:<19}{len(pool.cpus):>3} {pool.scheduler:>9}       y       {pool.domains:>4}         {listed}")
    return CommandResult(ok=True, message="\n".join(lines))


def _told(act: Callable[[HostApi, Arguments], str]) -> Callable[[HostApi, Arguments], CommandResult]:
    return lambda host, args: CommandResult(ok=True, message=act(host, args))


_POOL, _POOL_CPUS = {"pool": str}, {"pool": str, "cpus": str}
_LIST = {"domid": int, "pool": str, "whole": bool}
SCHEDULING: Mapping[str, Command] = {
    "sched-credit2": Command(_sched("credit2"), {}, {**_LIST, "weight": int, "cap": int, "ratelimit_us": int}),
    "sched-credit": Command(_sched("credit"), {}, {**_LIST, "weight": int, "cap": int, "ratelimit_us": int, "tslice_ms": int}),
    "sched-rtds": Command(_sched("rtds"), {}, {**_LIST, "vcpu": str, "period": int, "budget": int, "extratime": int}),
    "sched-bvt": Command(_sched("bvt"), {}, {**_LIST, "weight": int, "allowance_us": int}),
    "vcpu-pin": Command(_pin, {"domid": int, "vcpu": str, "cpus": str}, {"soft": str}),
    "cpupool-list": Command(_pools, {}, _POOL),
    "cpupool-create": Command(_told(lambda host, args: host.cpupools.create(args.get("settings", ""))), {"settings": str}, {}),
    "cpupool-destroy": Command(_told(lambda host, args: host.cpupools.destroy(args.get("pool", ""))), _POOL, {}),
    "cpupool-cpu-add": Command(_told(lambda host, args: host.cpupools.cpu_add(args.get("pool", ""), args.get("cpus", ""))), _POOL_CPUS, {}),
    "cpupool-cpu-remove": Command(_told(lambda host, args: host.cpupools.cpu_remove(args.get("pool", ""), args.get("cpus", ""))), _POOL_CPUS, {}),
    "cpupool-migrate": Command(_told(lambda host, args: host.cpupools.migrate(args.domid(), args.get("pool", ""))), {"domid": int, "pool": str}, {}),
}
