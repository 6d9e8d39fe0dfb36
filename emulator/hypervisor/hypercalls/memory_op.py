"""memory_op: how many frames a domain owns, and which (xen/common/memory.c)."""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final

from emulator.abi import xen
from emulator.abi.errno import EACCES, EFAULT, EINVAL, ENOSYS, EPERM, ESRCH
from emulator.abi.xen import DOMID_SELF
from emulator.hypervisor.refusal import Refusal

if TYPE_CHECKING:
    from emulator.hypervisor.vcpu import Vcpu

_RESERVATION: Final = Struct("<QQIIHxxxxxx")  # extent_start nr_extents extent_order mem_flags domid
_E820_RAM: Final = 1


def memory_op(vcpu: Vcpu, command: int, argument: int, *_: int) -> int:
    domain, guest = vcpu.domain, vcpu.domain.guest
    operation = command & 0x3F
    if operation in (xen.XENMEM_populate_physmap, xen.XENMEM_increase_reservation):
        return _populate(vcpu, argument, operation == xen.XENMEM_populate_physmap)
    if operation == xen.XENMEM_decrease_reservation:
        return _decrease(vcpu, argument)
    if operation == xen.XENMEM_maximum_ram_page:
        return domain.memory.frames - 1
    if operation in (xen.XENMEM_current_reservation, xen.XENMEM_maximum_reservation):
        _check(vcpu, guest.read_u32(argument) & 0xFFFF)
        return domain.reservation.owned if operation == xen.XENMEM_current_reservation else domain.reservation.maximum
    if operation == xen.XENMEM_memory_map:
        return _memory_map(vcpu, argument)
    if operation == xen.XENMEM_machphys_mapping:
        start = xen.M2P_VIRT_START
        guest.write(argument, Struct("<QQQ").pack(start, start + domain.memory.frames * 8, domain.memory.frames - 1))
        return 0
    if operation == xen.XENMEM_machphys_mfn_list:
        guest.write_u32(argument + 16, 0)  # no 2 MiB extents: the mapping above is the way
        return 0
    if operation == xen.XENMEM_add_to_physmap:
        raise Refusal(EACCES, "add_to_physmap is for translated domains")
    if operation == xen.XENMEM_machine_memory_map:
        raise Refusal(EPERM, "only Domain-0 sees the machine's memory map")
    raise Refusal(ENOSYS, f"memory_op {operation} is not there")


def _check(vcpu: Vcpu, domid: int) -> None:
    if domid not in (DOMID_SELF, vcpu.domain.domid):
        raise Refusal(EPERM if vcpu.domain.domid_exists(domid) else ESRCH, f"domain {domid}'s memory is not the caller's")


def _populate(vcpu: Vcpu, argument: int, at_pfns: bool) -> int:
    """New frames; extent_start gives the PFNs and receives the MFNs. Returns the extents done."""
    domain, guest = vcpu.domain, vcpu.domain.guest
    start, count, order, _flags, domid = _RESERVATION.unpack(guest.read(argument, _RESERVATION.size))
    _check(vcpu, domid)
    if order:
        return 0  # contiguous frames are for devices, and the domain has none (max_order)
    done = 0
    while done < count:
        mfn = domain.reservation.take()
        if mfn is None:
            break
        if start:
            try:
                pfn = guest.read_u64(start + 8 * done) if at_pfns else 0
                guest.write_u64(start + 8 * done, mfn)
            except Refusal:
                domain.reservation.give(mfn)
                raise
            if at_pfns:
                domain.layout.set_m2p(mfn, pfn)
        done += 1
    return done




def _decrease(vcpu: Vcpu, argument: int) -> int:
    domain, guest = vcpu.domain, vcpu.domain.guest
    start, count, order, _flags, domid = _RESERVATION.unpack(guest.read(argument, _RESERVATION.size))
    _check(vcpu, domid)
    if order > 9:
        raise Refusal(EPERM, f"order {order} is beyond a guest's")
    done = 0
    while done < count:
        try:
            first = guest.read_u64(start + 8 * done)
        except Refusal:
            if not done:
                raise Refusal(EFAULT, f"the list at {start:#x} cannot be read") from None
            break
        if not all(domain.reservation.release(first + offset) for offset in range(1 << order)):
            break
        done += 1
    return done


def _memory_map(vcpu: Vcpu, argument: int) -> int:
    """The pseudo-physical map: one RAM area of the domain's maximum, as libxl sets it (no e820_host)."""
    domain, guest = vcpu.domain, vcpu.domain.guest
    room, buffer = guest.read_u32(argument), guest.read_u64(argument + 8)
    if not domain.reservation.e820_frames:
        raise Refusal(ENOSYS, "no memory map was set for the domain")
    if room < 1:
        raise Refusal(EINVAL, "no room for one e820 entry")
    guest.write(buffer, Struct("<QQI").pack(0, domain.reservation.e820_frames << 12, _E820_RAM))
    guest.write_u32(argument, 1)
    return 0


HYPERCALLS: Final = {"memory_op": memory_op}
