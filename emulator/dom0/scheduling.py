"""How domains share the physical CPUs, as xl has it: weights, caps, affinity, and how many vCPUs are online."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emulator.errors import UserError
from emulator.hypervisor.mailbox import ToBackend
from emulator.hypervisor.scheduler import DEFAULT_WEIGHT, MAX_WEIGHT

if TYPE_CHECKING:
    from emulator.dom0.config import DomainConfig
    from emulator.dom0.guest import Guest
    from emulator.dom0.toolstack import Toolstack


def parse_cpus(text: str, count: int) -> frozenset[int] | None:
    """xl's list of CPUs ("0-3,^1", "all"; a list's items parted by ';' are joined): None for all. Raises UserError."""
    if not text or text.strip() == "all":
        return None
    wanted: set[int] = set()
    for item in text.replace(" ", "").replace(";", ",").split(","):
        if item == "all":
            wanted |= set(range(count))
            continue
        first, _, last = item.lstrip("^").partition("-")
        if not first.isdigit() or (last and not last.isdigit()):
            raise UserError(f"{ascii(item)[:40]} is no CPU or range of CPUs", fix="such as 0-3,^1 or all")
        span = range(int(first), min(int(last or first), count - 1) + 1)
        wanted = wanted - set(span) if item.startswith("^") else wanted | set(span)
    if not wanted:
        raise UserError(f"{ascii(text)[:40]} leaves no CPU", why=f"there are {count}: 0-{count - 1}")
    return None if len(wanted) == count else frozenset(wanted)


def register(tools: Toolstack, guest: Guest, config: DomainConfig) -> None:
    """A new domain comes to the scheduler, with what its cfg says."""
    tools.cpus.add(guest, config.cpu_weight or DEFAULT_WEIGHT, config.cap or 0, parse_cpus(config.cpus, tools.cpus.count))


def adjust(tools: Toolstack, domid: int, weight: int | None, cap: int | None) -> None:
    """xl sched-credit2 -d -w -c. `cap` in percent of one CPU, 0 for none."""
    guest = tools.guest(domid)
    if weight is not None and not 1 <= weight <= MAX_WEIGHT:
        raise UserError(f"a weight of {weight}", fix=f"1 to {MAX_WEIGHT}; {DEFAULT_WEIGHT} is usual")
    most = 100 * len(guest.domain.vcpus)
    if cap is not None and not 0 <= cap <= most:
        raise UserError(f"a cap of {cap} %", fix=f"0 (none) to {most}")
    tools.cpus.adjust(guest, weight, cap)
    said = ", ".join(f"{name} {value}" for name, value in (("weight", weight), ("cap", cap)) if value is not None)
    tools.say("info", domid, f"{guest.name}: {said}")
    tools.tell("state", domid)


def pin(tools: Toolstack, domid: int, cpus: str) -> None:
    """xl vcpu-pin: a domain's vCPUs go together."""
    guest = tools.guest(domid)
    tools.cpus.pin(guest, parse_cpus(cpus, tools.cpus.count))
    tools.say("info", domid, f"{guest.name} may run on CPUs {cpus}")


def set_vcpus(tools: Toolstack, domid: int, count: int) -> None:
    """xl vcpu-set: xenstore says which vCPUs should be online; the guest does it."""
    guest = tools.guest(domid)
    most = len(guest.domain.vcpus)
    if not 1 <= count <= most:
        raise UserError(f"{count} vCPUs", why=f"{guest.name} has at most {most}", fix="maxvcpus= in its cfg says how many")
    for number in range(most):
        path = f"/local/domain/{domid}/cpu/{number}/availability"
        guest.domain.post(ToBackend("xenstore", path.encode() + b"\0" + (b"online" if number < count else b"offline")))
    tools.say("info", domid, f"{guest.name} asked to use {count} of {most} vCPUs")
