"""Commands of the domains' memory: xl's mem-set and mem-max, and what ours has beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from emulator.control.command import Arguments, Command
from emulator.control.hostapi import HostApi
from emulator.control.messages import CommandResult
from emulator.errors import UserError


def _amount(act: Callable[[HostApi, int, int], None], said: str) -> Command:
    def run(host: HostApi, args: Arguments) -> CommandResult:
        domid, kib = args.domid(), args.get("kib", 0)
        act(host, domid, kib)
        return CommandResult(ok=True, domid=domid, message=f"domain {domid} {said} {kib >> 10} MiB")

    return Command(run, {"domid": int, "kib": int}, {})


def _balloon_policy(host: HostApi, args: Arguments) -> CommandResult:
    """On or off; what it is and who takes part, either way."""
    if args.has("state"):
        state = args.get("state", "")
        if state not in ("on", "off"):
            raise UserError(f"{ascii(state)[:40]} is neither on nor off", where="balloon-policy")
        host.set_balloon_policy(state == "on")
    report = host.balloon_policy()
    lines = [f"balloon policy {'on: memory goes from idle to hungry domains by itself' if report.on else 'off: memory stays where it is'}"]
    lines.append(f"{'Name':<24}   ID   Minimum    Target   Maximum  Free, by its own word")
    for name, one in report.members:
        free = "not said: left alone" if one.free is None else f"{one.free >> 10:>7}m {100 * one.free // max(one.target, 1):>3} %"
        lines.append(f"{name:<24.24}{one.domid:>5} {one.least >> 10:>8}m {one.target >> 10:>8}m {one.most >> 10:>8}m  {free}")
    return CommandResult(ok=True, message="\n".join(lines))


MEMORY: Mapping[str, Command] = {
    "mem-set": _amount(lambda host, domid, kib: host.set_memory(domid, kib), "asked to go to"),
    "mem-max": _amount(lambda host, domid, kib: host.set_max_memory(domid, kib), "may have up to"),
    "mem-min": _amount(lambda host, domid, kib: host.set_min_memory(domid, kib), "is left by the balloon policy at least"),
    "balloon-policy": Command(_balloon_policy, {}, {"state": str}),
}
