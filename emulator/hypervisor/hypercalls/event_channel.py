"""event_channel_op (xen/common/event_channel.c) and its compatible form."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from emulator.abi import xen
from emulator.abi.errno import EINVAL, ENOSYS, EOPNOTSUPP, EPERM, ESRCH
from emulator.abi.xen import DOMID_SELF
from emulator.hypervisor import channels
from emulator.hypervisor.events import INTERDOMAIN, UNBOUND, VIRQ, Port
from emulator.hypervisor.fifo import LINK_BITS, QUEUES
from emulator.hypervisor.hypercalls.control import PIRQS
from emulator.hypervisor.refusal import Preempted, Refusal

if TYPE_CHECKING:
    from emulator.hypervisor.vcpu import Vcpu

_PIECE: Final = 256
"""Ports that a reset closes at once (XSA-344: it has to let others in)."""


def event_channel_op(vcpu: Vcpu, command: int, argument: int, *_: int) -> int:
    events, guest, domid = vcpu.domain.events, vcpu.domain.guest, vcpu.domain.domid
    command &= xen.MASK32
    if command == xen.EVTCHNOP_send:
        events.send(guest.read_u32(argument))
    elif command == xen.EVTCHNOP_unmask:
        events.unmask(guest.read_u32(argument))
    elif command == xen.EVTCHNOP_bind_virq:
        port = events.bind_virq(guest.read_u32(argument), guest.read_u32(argument + 4))
        guest.write_u32(argument + 8, port)
    elif command == xen.EVTCHNOP_bind_ipi:
        guest.write_u32(argument + 4, events.bind_ipi(guest.read_u32(argument)))
    elif command == xen.EVTCHNOP_alloc_unbound:
        fields = guest.read(argument, 8)
        owner, remote = int.from_bytes(fields[0:2], "little"), int.from_bytes(fields[2:4], "little")
        _check_self(vcpu, owner)
        port = events.allocate(Port(UNBOUND, remote_domain=domid if remote == DOMID_SELF else remote))
        guest.write_u32(argument + 4, port)
    elif command == xen.EVTCHNOP_bind_interdomain:
        remote, remote_port = guest.read_u32(argument) & 0xFFFF, guest.read_u32(argument + 4)
        guest.write_u32(argument + 8, _bind_interdomain(vcpu, remote, remote_port))
    elif command == xen.EVTCHNOP_bind_vcpu:
        events.bind_vcpu(guest.read_u32(argument), guest.read_u32(argument + 4))
    elif command == xen.EVTCHNOP_close:
        events.close(guest.read_u32(argument))
    elif command == xen.EVTCHNOP_status:
        _status(vcpu, argument)
    elif command == xen.EVTCHNOP_reset:
        _check_self(vcpu, guest.read_u32(argument) & 0xFFFF)
        if not events.reset(_PIECE):
            raise Preempted
    elif command == xen.EVTCHNOP_bind_pirq:
        pirq = guest.read_u32(argument)
        raise Refusal(EPERM if pirq < PIRQS else EINVAL, f"physical interrupt {pirq} is not this domain's")
    elif command == xen.EVTCHNOP_init_control:
        mfn, offset, number = guest.read_u64(argument), guest.read_u32(argument + 8), guest.read_u32(argument + 12)
        events.init_control(number, mfn, offset)
        guest.write(argument + 16, bytes([LINK_BITS]))
    elif command == xen.EVTCHNOP_expand_array:
        if events.fifo is None:
            raise Refusal(EOPNOTSUPP, "the domain has no FIFO event channels")
        events.fifo.add_page(guest.read_u64(argument), events.ports)
    elif command == xen.EVTCHNOP_set_priority:
        _set_priority(vcpu, guest.read_u32(argument), guest.read_u32(argument + 4))
    else:
        raise Refusal(ENOSYS, f"event_channel_op {command} is not there")
    return 0


def _check_self(vcpu: Vcpu, domid: int) -> None:
    """Only Domain-0 works on another domain's channels."""
    if domid not in (DOMID_SELF, vcpu.domain.domid):
        known = vcpu.domain.domid_exists(domid)
        raise Refusal(EPERM if known else ESRCH, f"domain {domid} is not the caller" if known else f"domain {domid} does not exist")


def _bind_interdomain(vcpu: Vcpu, remote: int, remote_port: int) -> int:
    """evtchn_bind_interdomain: within the domain (loopback) at once, to another by its consent."""
    domain = vcpu.domain
    if remote not in (DOMID_SELF, domain.domid):
        return channels.bind(vcpu, remote, remote_port)
    far = domain.events.port(remote_port)
    if far.kind != UNBOUND or far.remote_domain != domain.domid:
        raise Refusal(EINVAL, f"port {remote_port} does not await this domain")
    number = domain.events.allocate(Port(INTERDOMAIN, remote_domain=domain.domid, remote_port=remote_port))
    far.kind, far.remote_port = INTERDOMAIN, number
    domain.events.set_pending(number)  # an event may have been sent before the bind
    return number


def _set_priority(vcpu: Vcpu, number: int, priority: int) -> None:
    port = vcpu.domain.events.port(number)
    if vcpu.domain.events.fifo is None:
        raise Refusal(ENOSYS, "two-level event channels have no priorities")
    if priority >= QUEUES:
        raise Refusal(EINVAL, f"priority {priority}: 0 (highest) to {QUEUES - 1}")
    port.priority = priority


def _status(vcpu: Vcpu, argument: int) -> None:
    """struct evtchn_status: u16 dom, u32 port, u32 status, u32 vcpu, union of the far end."""
    events, guest = vcpu.domain.events, vcpu.domain.guest
    _check_self(vcpu, guest.read_u32(argument) & 0xFFFF)
    number = guest.read_u32(argument + 4)
    if number >= events.valid:
        raise Refusal(EINVAL, f"port {number} does not exist")
    port = events.ports.get(number, Port())
    guest.write_u32(argument + 8, port.kind)
    guest.write_u32(argument + 12, port.vcpu)
    if port.kind in (UNBOUND, INTERDOMAIN):
        guest.write(argument + 16, port.remote_domain.to_bytes(2, "little"))
    if port.kind == INTERDOMAIN:
        guest.write_u32(argument + 20, port.remote_port)
    elif port.kind == VIRQ:
        guest.write_u32(argument + 16, port.virq)


def event_channel_op_compat(vcpu: Vcpu, argument: int, *_: int) -> int:
    """struct evtchn_op: the command in the first 32 bits, its structure behind it. Later commands have no place in it."""
    command = vcpu.domain.guest.read_u32(argument)
    if command > xen.EVTCHNOP_unmask:
        raise Refusal(ENOSYS, f"event_channel_op_compat {command} is not there")
    return event_channel_op(vcpu, command, argument + 4)


HYPERCALLS: Final = {"event_channel_op": event_channel_op, "event_channel_op_compat": event_channel_op_compat}
