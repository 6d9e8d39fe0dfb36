"""Event channels of one domain, two-level ones and FIFO ones (xen/common/event_channel.c, event_2l.c; `fifo`).

A port is a number the guest holds; behind it stands a virtual interrupt, another vCPU (IPI), or the far end in another domain.
With two levels pending and mask bits live in shared_info, where the guest clears and sets them itself:

    send: set pending[port]; if it was clear and mask[port] is clear: set the word's bit in pending_sel, then upcall_pending

The domain's own worker runs everything here; a send from elsewhere arrives as a message.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from emulator.abi.errno import EEXIST, EINVAL, ENOENT, ENOSPC
from emulator.abi.xen import EVENT_PORTS, GLOBAL_VIRQS, NR_VIRQS, SI_MASK, SI_PENDING, VIRQ_NAMES
from emulator.hypervisor import channels
from emulator.hypervisor.fifo import DEFAULT_PRIORITY, PORTS, Fifo
from emulator.hypervisor.refusal import Refusal

if TYPE_CHECKING:
    from emulator.hypervisor.vcpu import Vcpu

# EVTCHNSTAT_* of event_channel.h are the positions.
KINDS = ("free", "unbound", "interdomain", "pirq", "virq", "ipi")
FREE, UNBOUND, INTERDOMAIN, PIRQ, VIRQ, IPI = range(6)
_BUCKET: Final = 64  # EVTCHNS_PER_BUCKET


@dataclass(slots=True)
class Port:
    kind: int = FREE
    vcpu: int = 0
    virq: int = 0
    remote_domain: int = 0
    remote_port: int = 0
    backend: str = ""  # name of the Domain-0 backend at the far end
    count: int = 0
    priority: int = DEFAULT_PRIORITY  # FIFO only, these two
    held: bool = False  # raised while its event word was missing


@dataclass
class EventChannels:
    """`base` is the byte offset of shared_info in the machine memory. `backends`: what Domain-0 does when the guest kicks it."""

    memory: memoryview
    words: memoryview
    base: int
    vcpus: list[Vcpu]
    ports: dict[int, Port] = field(default_factory=dict)
    virqs: dict[tuple[int, int], int] = field(default_factory=dict)  # (virq, vcpu) -> port
    backends: dict[str, Callable[[], None]] = field(default_factory=dict)
    unhurried: dict[str, Callable[[], None]] = field(default_factory=dict)  # what it does when it was kicked and put it off
    late: set[int] = field(default_factory=set)  # ports with an event that can wait until the guest has nothing else to do
    put_off: set[str] = field(default_factory=set)  # backends that wait so
    lazy: set[int] = field(default_factory=set)  # ports with an event that can wait for another, even while the guest sleeps
    lazy_until: int = 0  # but no longer than this, system time in ns; 0: there is none
    sent: int = 0
    fifo: Fifo | None = None
    _valid: int = _BUCKET
    _lowest: int = 1  # all ports below are in use

    def allocate(self, port: Port) -> int:
        """The lowest free port number (0 is never one)."""
        while self._lowest in self.ports:
            self._lowest += 1
        most = EVENT_PORTS if self.fifo is None else PORTS
        numbers = range(self._lowest, most) if self.fifo is None else self.fifo.idle(self._lowest)
        number = next((number for number in numbers if number not in self.ports), most)
        if number >= most:
            raise Refusal(ENOSPC, f"all {most} event channels are in use")
        self.ports[number] = port
        while number >= self._valid:
            self._valid += _BUCKET
        return number

    @property
    def valid(self) -> int:
        """Ports below this exist, in use or not: as many buckets as the highest one in use needed (d->valid_evtchns)."""
        return self._valid

    def port(self, number: int) -> Port:
        found = self.ports.get(number)
        if found is None or found.kind == FREE:
            raise Refusal(EINVAL, f"port {number} is not allocated")
        return found

    def bind_virq(self, virq: int, vcpu: int) -> int:
        if virq >= NR_VIRQS:
            raise Refusal(EINVAL, f"VIRQ {virq} does not exist")
        if virq in GLOBAL_VIRQS and vcpu:
            raise Refusal(EINVAL, f"VIRQ {virq} is global: vCPU 0 only")
        self._check_vcpu(vcpu)
        if (virq, vcpu) in self.virqs:
            raise Refusal(EEXIST, f"VIRQ {virq} of vCPU {vcpu} is bound already")
        number = self.allocate(Port(VIRQ, vcpu, virq))
        self.virqs[virq, vcpu] = number
        return number

    def bind_ipi(self, vcpu: int) -> int:
        self._check_vcpu(vcpu)
        return self.allocate(Port(IPI, vcpu))

    def bind_vcpu(self, number: int, vcpu: int) -> None:
        self._check_vcpu(vcpu)
        port = self.port(number)
        if (port.kind == VIRQ and port.virq not in GLOBAL_VIRQS) or port.kind == IPI:
            raise Refusal(EINVAL, f"port {number} belongs to its vCPU for good")
        port.vcpu = vcpu

    def close(self, number: int) -> None:
        port = self.port(number)
        if port.kind == VIRQ:
            del self.virqs[port.virq, 0 if port.virq in GLOBAL_VIRQS else port.vcpu]
        self.part(number, port)
        if port.kind == INTERDOMAIN and not port.backend and self.leads_to(port.remote_port, port.remote_domain, number):
            self.unbind(port.remote_port)
        self._free(number)
        self._clear(number)

    def _free(self, number: int) -> None:
        del self.ports[number]
        self._lowest = min(self._lowest, number)

    def _clear(self, number: int) -> None:
        if self.fifo is not None:
            self.fifo.clear(number)
            return
        at = (self.base + SI_PENDING >> 3) + (number >> 6)
        self.words[at] &= ~(1 << (number & 63))

    # --- channels to other guests: see `channels` --------------------------------------------------------------------------------

    def _abroad(self, port: Port) -> bool:
        return port.kind == INTERDOMAIN and not port.backend and port.remote_domain != self.vcpus[0].domain.domid

    def part(self, number: int, port: Port) -> None:
        """Tell the guest at the other end, if there is one (or about to be), that the port goes."""
        if self._abroad(port) or port.kind == FREE:
            channels.part(self.vcpus[0].domain, number, port.remote_domain, port.remote_port)

    def leads_to(self, number: int, domid: int, far_port: int) -> bool:
        """Whether `number` is one end of a channel whose other end is `far_port` of domain `domid`."""
        port = self.ports.get(number)
        return port is not None and port.kind == INTERDOMAIN and not port.backend and (port.remote_domain, port.remote_port) == (domid, far_port)

    def unbind(self, number: int) -> None:
        """The other end was closed: the port awaits the same domain again."""
        port = self.ports[number]
        port.kind, port.remote_port = UNBOUND, 0

    def accept(self, number: int, domid: int, far_port: int) -> None:
        """`far_port` of domain `domid` becomes the other end of an unbound port. Refusal unless that domain is awaited there."""
        if self.leads_to(number, domid, far_port):
            return  # asked again after a restore
        port = self.port(number)
        if port.kind != UNBOUND or port.remote_domain != domid:
            raise Refusal(EINVAL, f"port {number} does not await domain {domid}")
        port.kind, port.remote_port = INTERDOMAIN, far_port

    def set_aside(self, domid: int, far_port: int, others: int = 0) -> int:
        """A port number for a channel that is being bound; after a restore one that is there for it already. `others`: how many vCPUs
        wait for a binding of that same far port, each with a number of its own, of which the far end will take one."""
        there = [number for number, port in self.ports.items()
                 if port.kind == FREE and (port.remote_domain, port.remote_port) == (domid, far_port)]  # fmt: skip
        if len(there) > others:
            return there[others]
        return self.allocate(Port(FREE, remote_domain=domid, remote_port=far_port))

    def take_up(self, number: int, domid: int, far_port: int, bound: bool) -> None:
        """What was set aside is a port now, with an event pending as one may have been lost before; or it is free again."""
        port = self.ports.get(number)
        if port is None or (port.kind, port.remote_domain, port.remote_port) != (FREE, domid, far_port):
            return  # a reset came between
        if bound:
            port.kind = INTERDOMAIN
            self.set_pending(number)
        else:
            self._free(number)

    def abroad(self) -> frozenset[tuple[int, int, int]]:
        """(port, domain, port there) of all channels to other guests."""
        return _abroad_of(self.ports, self.vcpus[0].domain.domid)

    def abroad_in(self, state: tuple[Any, ...]) -> frozenset[tuple[int, int, int]]:
        """The same in a saved state."""
        return _abroad_of(state[0], self.vcpus[0].domain.domid)

    # --- events ------------------------------------------------------------------------------------------------------------------

    def send(self, number: int) -> None:
        """EVTCHNOP_send by the guest."""
        port = self.port(number)
        if port.kind == INTERDOMAIN:
            port.count += 1
            handler = self.backends.get(port.backend)
            if handler is not None:
                handler()
            elif self._abroad(port):
                channels.signal(self.vcpus[0].domain, number, port)
            elif not port.backend:  # a channel of the domain to itself
                self.set_pending(port.remote_port)
        elif port.kind == IPI:
            self.set_pending(number)
            target = self.vcpus[port.vcpu]
            target.domain.rotation.hurry(target)
        elif port.kind != UNBOUND:  # a send to an unbound port is silently lost, as in Xen
            raise Refusal(EINVAL, f"port {number} is a {KINDS[port.kind]}: nothing to send to")

    def raise_virq(self, virq: int, vcpu: int) -> None:
        number = self.virqs.get((virq, vcpu))
        if number is not None:
            self.set_pending(number)

    def set_pending(self, number: int) -> None:
        """An event for the guest: evtchn_2l_set_pending."""
        port = self.ports.get(number)
        if port is None:
            return
        port.count += 1
        self.sent += 1
        if self.fifo is not None:
            self.fifo.set_pending(number, port)
            vcpu = self.vcpus[port.vcpu]
            if number in vcpu.polled:
                vcpu.wake()
            return
        word, bit = number >> 6, 1 << (number & 63)
        words, base = self.words, self.base >> 3
        vcpu = self.vcpus[port.vcpu]
        was = words[base + (SI_PENDING >> 3) + word]
        if not was & bit:
            words[base + (SI_PENDING >> 3) + word] = was | bit
            if not words[base + (SI_MASK >> 3) + word] & bit:
                vcpu.mark_pending(word)
        if number in vcpu.polled:
            vcpu.wake()

    def set_pending_late(self, number: int) -> None:
        """An event that only says "go on": the guest gets it when a vCPU is about to sleep, or with the next look at the clock.

        A backend that answers at once would otherwise interrupt its guest for every few bytes, which no backend on another CPU does."""
        self.late.add(number)

    def set_pending_lazily(self, number: int, until: int) -> None:
        """An event that tells the guest nothing new: it gets it with whatever it wakes up for next, or when its clock reads `until` at the latest."""
        self.lazy.add(number)
        if not self.lazy_until:
            self.lazy_until = until

    def flush_lazy(self) -> None:
        if self.lazy:
            for number in sorted(self.lazy):
                self.set_pending(number)
            self.lazy.clear()
            self.lazy_until = 0

    def flush_late(self) -> None:
        while self.put_off:
            self.put_off.discard(name := min(self.put_off))  # a replay looks in the same order
            look = self.unhurried.get(name)
            if look is not None:
                look()
        if self.late:
            for number in sorted(self.late):
                self.set_pending(number)
            self.late.clear()

    def save(self) -> tuple[Any, ...]:
        fifo = self.fifo.save() if self.fifo is not None else None
        later = tuple(sorted(self.late)), tuple(sorted(self.put_off)), tuple(sorted(self.lazy)), self.lazy_until
        return copy.deepcopy(self.ports), dict(self.virqs), later, fifo, self._valid

    def load(self, state: tuple[Any, ...]) -> None:
        ports, virqs, (late, put_off, lazy, self.lazy_until), fifo, self._valid = state
        self.late, self.put_off, self.lazy = set(late), set(put_off), set(lazy)
        self.fifo = Fifo(self.memory, self.vcpus) if fifo is not None else None
        if self.fifo is not None:
            self.fifo.load(fifo)
        self._lowest = 1
        self.ports, self.virqs = copy.deepcopy(ports), dict(virqs)

    def unmask(self, number: int) -> None:
        """EVTCHNOP_unmask: an event that waited behind the mask is delivered now. A port that is not in use is left alone."""
        if number >= self._valid:
            raise Refusal(EINVAL, f"port {number} does not exist")
        port = self.ports.get(number)
        if port is None or port.kind == FREE:
            return
        if self.fifo is not None:
            self.fifo.unmask(number, port)
            return
        word, bit = number >> 6, 1 << (number & 63)
        words, base = self.words, self.base >> 3
        was = words[base + (SI_MASK >> 3) + word]
        if was & bit:
            words[base + (SI_MASK >> 3) + word] = was & ~bit
            if words[base + (SI_PENDING >> 3) + word] & bit:
                self.vcpus[port.vcpu].mark_pending(word)

    def pending(self, number: int) -> bool:
        if self.fifo is not None:
            return self.fifo.pending(number)
        return bool(self.words[(self.base + SI_PENDING >> 3) + (number >> 6)] >> (number & 63) & 1)

    def masked(self, number: int) -> bool:
        if self.fifo is not None:
            return self.fifo.masked(number)
        return bool(self.words[(self.base + SI_MASK >> 3) + (number >> 6)] >> (number & 63) & 1)

    def reset(self, most: int) -> bool:
        """EVTCHNOP_reset: close all, but not more than `most` at once; whether it is done, and two levels are there again."""
        for number, port in list(islice(self.ports.items(), most)):
            if port.kind == FREE:
                self._free(number)
            else:
                self.close(number)
        if self.ports:
            return False
        if self.fifo is not None:
            self.fifo.release()
            self.fifo = None
        return True

    def init_control(self, vcpu: int, mfn: int, offset: int) -> None:
        """EVTCHNOP_init_control: the first one changes over to FIFO, what is pending then comes along."""
        self._check_vcpu(vcpu)
        if self.fifo is not None:
            self.fifo.add_control(vcpu, mfn, offset)
            return
        fifo = Fifo(self.memory, self.vcpus)
        fifo.add_control(vcpu, mfn, offset)
        for number, port in self.ports.items():
            port.held, port.priority = self.pending(number), DEFAULT_PRIORITY
        self.fifo = fifo

    def _check_vcpu(self, vcpu: int) -> None:
        if vcpu >= len(self.vcpus):
            raise Refusal(ENOENT, f"vCPU {vcpu} does not exist")

    def describe(self, port: Port) -> str:
        """Where a port leads, for people."""
        if port.kind == VIRQ:
            return f"VIRQ_{VIRQ_NAMES[port.virq]}" if port.virq < len(VIRQ_NAMES) else f"VIRQ {port.virq}"
        if port.kind == IPI:
            return f"vCPU {port.vcpu}"
        if port.kind == INTERDOMAIN:
            return f"domain {port.remote_domain} ({port.backend})" if port.backend else f"domain {port.remote_domain} port {port.remote_port}"
        return f"awaits domain {port.remote_domain}" if port.kind == UNBOUND else ""


def _abroad_of(ports: dict[int, Port], domid: int) -> frozenset[tuple[int, int, int]]:
    return frozenset((number, port.remote_domain, port.remote_port) for number, port in ports.items()
                     if port.kind == INTERDOMAIN and not port.backend and port.remote_domain != domid)  # fmt: skip
