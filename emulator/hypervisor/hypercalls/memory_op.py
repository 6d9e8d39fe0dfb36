"""memory_op: how many frames a domain owns, and which (xen/common/memory.c, arch/x86/mm.c).

Populate, increase and decrease know no error: they return how many extents were done. Long lists are done in pieces, the number
done carried in the command's upper bits (MEMOP_EXTENT_SHIFT), as Xen's own continuations do.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final

from emulator.abi import xen
from emulator.abi.errno import EACCES, EINVAL, ENOMEM, ENOSYS, EOPNOTSUPP, EPERM, ESRCH
from emulator.abi.xen import DOMID_SELF
from emulator.hypervisor.refusal import Preempted, Refusal

if TYPE_CHECKING:
    from emulator.hypervisor.domain import Domain
    from emulator.hypervisor.vcpu import Vcpu

_RESERVATION: Final = Struct("<QQIIHxxxxxx")  # extent_start nr_extents extent_order mem_flags domid
_EXCHANGE: Final = Struct("<QQIIHxxxxxxQQIIHxxxxxxQ")  # in, out: reservations; nr_exchanged
_E820: Final = Struct("<QQI")
_E820_RAM, _E820_MAX = 1, 1024
_EXTENT_SHIFT: Final = 6
_MOST_EXTENTS: Final = 0xFFFFFFFF >> _EXTENT_SHIFT
_MAX_ORDER: Final = 9  # CONFIG_DOMU_MAX_ORDER
_PIECE: Final = 512  # frames
_FRAME_WORK: Final = 4  # of the domain's allowance (memory/promotion)
_EXACT_NODE: Final = 1 << 17
_POPULATE_ON_DEMAND: Final = 1 << 16


def memory_op(vcpu: Vcpu, command: int, argument: int, *_: int) -> int:
    operation, start = command & 0x3F, command >> _EXTENT_SHIFT
    if operation in (xen.XENMEM_populate_physmap, xen.XENMEM_increase_reservation, xen.XENMEM_decrease_reservation):
        return _adjust(vcpu, operation, argument, start)
    handler = _OPERATIONS.get(operation)
    if handler is None:
        raise Refusal(ENOSYS, f"memory_op {operation} is not there")
    if start:
        raise Refusal(EINVAL, f"memory_op {operation} has no continuation")
    return handler(vcpu, argument)


def _known(vcpu: Vcpu, domid: int) -> bool:
    """rcu_lock_domain_by_any_id: whether `domid` is the caller."""
    if domid in (DOMID_SELF, vcpu.domain.domid):
        return True
    if not vcpu.domain.domid_exists(domid):
        raise Refusal(ESRCH, f"domain {domid} does not exist")
    return False


def _own(vcpu: Vcpu, domid: int) -> None:
    if not _known(vcpu, domid):
        raise Refusal(EPERM, f"domain {domid}'s memory is not the caller's")


# --- populate, increase, decrease ---------------------------------------------------------------------------------------------


def _adjust(vcpu: Vcpu, operation: int, argument: int, start: int) -> int:
    """What is wrong with the request as a whole ends it without an error, nothing done; its reason is told all the same."""
    domain, guest = vcpu.domain, vcpu.domain.guest
    try:
        extents, count, order, flags, domid = _RESERVATION.unpack(guest.read(argument, _RESERVATION.size))
        if count > _MOST_EXTENTS:
            raise Refusal(EINVAL, f"{count} extents, {_MOST_EXTENTS} at most")
        if start >= count:
            return start
        _own(vcpu, domid)
        _check_flags(flags)
        if extents or operation != xen.XENMEM_increase_reservation:
            guest.check_range(extents)
        if order > _MAX_ORDER:
            raise Refusal(EINVAL, f"an extent of order {order}, {_MAX_ORDER} at most")
        if operation == xen.XENMEM_populate_physmap and flags & _POPULATE_ON_DEMAND:
            raise Refusal(EINVAL, "populate-on-demand is not for a domain itself")
    except Refusal as refusal:
        domain.refused(f"memory_op {operation}", refusal)
        return start
    done = start
    end = min(count, start + max(1, _PIECE >> order))
    domain.tables.allowance -= _FRAME_WORK * (end - start << order)
    one = {xen.XENMEM_populate_physmap: _populate, xen.XENMEM_increase_reservation: _increase}.get(operation, _decrease)
    while done < end:
        try:
            one(domain, extents + 8 * done if extents else 0, order)
        except Refusal as refusal:
            domain.refused(f"memory_op {operation}", refusal)
            return done
        done += 1
    if done < count:
        raise Preempted(operation | done << _EXTENT_SHIFT, argument)
    return done


def _check_flags(flags: int) -> None:
    """construct_memop_from_reservation: address bits, NUMA node."""
    bits = flags & 0xFF
    if bits and bits <= 12:
        raise Refusal(EINVAL, f"frames below {bits} address bits")
    if flags >> 8 & 0xFF and flags & _EXACT_NODE:
        raise Refusal(EINVAL, f"NUMA node {(flags >> 8 & 0xFF) - 1} is not the caller's to choose")


def _taken(domain: Domain, order: int) -> int:
    mfn = domain.reservation.take() if not order else domain.reservation.take_extent(order)
    if mfn is None:
        kept = domain.reservation
        raise Refusal(ENOMEM, f"no extent of order {order}: {kept.owned} frames owned, {kept.maximum} at most, {len(kept.free)} free")
    return mfn


def _populate(domain: Domain, at: int, order: int) -> None:
    """extent_start gives the PFN and receives the MFN. A frame that the guest cannot be told of is its own nevertheless."""
    pfn = domain.guest.read_u64(at)
    mfn = _taken(domain, order)
    for offset in range(1 << order):
        domain.layout.set_m2p(mfn + offset, pfn + offset & 0xFFFFFFFFFFFFFFFF)
    domain.guest.write_u64(at, mfn)


def _increase(domain: Domain, at: int, order: int) -> None:
    mfn = _taken(domain, order)
    if at:
        domain.guest.write_u64(at, mfn)


def _decrease(domain: Domain, at: int, order: int) -> None:
    first = domain.guest.read_u64(at)
    for mfn in range(first, first + (1 << order)):
        if not domain.reservation.release(mfn):
            raise Refusal(EINVAL, f"frame {mfn:#x} is not the domain's to give back")


# --- exchange -----------------------------------------------------------------------------------------------------------------


def _exchange(vcpu: Vcpu, argument: int) -> int:
    """memory_exchange: frames for as many others, in chunks of the larger of the two orders."""
    domain, guest = vcpu.domain, vcpu.domain.guest
    (in_start, in_count, in_order, _in_flags, in_domid, out_start, out_count, out_order, out_flags, out_domid,
     exchanged) = _EXCHANGE.unpack(guest.read(argument, _EXCHANGE.size))  # fmt: skip
    counter = argument + _EXCHANGE.size - 8
    if max(in_order, out_order) > _MAX_ORDER:
        raise Refusal(EPERM, f"extents of order {max(in_order, out_order)}, {_MAX_ORDER} at most")
    most = (1 << 64) - 1
    if (exchanged > in_count or in_domid != out_domid or most >> in_order < in_count or most >> out_order < out_count
            or in_count << in_order != out_count << out_order):  # fmt: skip
        raise Refusal(EINVAL, f"{in_count} extents of order {in_order} for {out_count} of order {out_order}, {exchanged} done")
    if exchanged == in_count:
        return 0
    guest.check_range(in_start + 8 * exchanged & most)
    guest.check_range(out_start)
    _check_flags(out_flags)
    _own(vcpu, in_domid)
    domain.tables.allowance -= _FRAME_WORK * _PIECE
    in_each, out_each = 1 << max(0, out_order - in_order), 1 << max(0, in_order - out_order)
    chunk, chunks = exchanged // in_each, in_count // in_each
    end = min(chunks, chunk + max(1, _PIECE >> max(in_order, out_order)))
    try:
        while chunk < end:
            _one_chunk(domain, in_start + 8 * chunk * in_each, in_each, in_order, out_start + 8 * chunk * out_each, out_each, out_order)
            chunk += 1
    except Refusal:
        guest.write_u64(counter, chunk * in_each)
        raise
    guest.write_u64(counter, chunk * in_each if chunk < chunks else in_count)
    if chunk < chunks:
        raise Preempted(xen.XENMEM_exchange, argument)
    return 0


def _one_chunk(domain: Domain, in_at: int, in_each: int, in_order: int, out_at: int, out_each: int, out_order: int) -> None:
    guest, reservation = domain.guest, domain.reservation
    stolen: list[int] = []
    try:
        for index in range(in_each):
            first = guest.read_u64(in_at + 8 * index)
            for mfn in range(first, first + (1 << in_order)):
                if not reservation.steal(mfn):
                    raise Refusal(EINVAL, f"frame {mfn:#x} is in use, or not the domain's: it cannot be exchanged")
                stolen.append(mfn)
        fresh = reservation.swap(stolen, out_each, out_order)
        if fresh is None:
            raise Refusal(ENOMEM, f"no {out_each} extents of order {out_order} are free")
    except Refusal:
        reservation.unsteal(stolen)
        raise
    failure: Refusal | None = None
    for index, first in enumerate(fresh):  # beyond this point the chunk is done, whatever the guest can be told of it
        try:
            pfn = guest.read_u64(out_at + 8 * index)
            for offset in range(1 << out_order):
                domain.layout.set_m2p(first + offset, pfn + offset & 0xFFFFFFFFFFFFFFFF)
            guest.write_u64(out_at + 8 * index, first)
        except Refusal as refusal:
            failure = refusal
    if failure is not None:
        raise failure


# --- questions ----------------------------------------------------------------------------------------------------------------


def _reservation(field: str) -> _Handler:
    def answer(vcpu: Vcpu, argument: int) -> int:
        _own(vcpu, vcpu.domain.guest.read_u32(argument) & 0xFFFF)
        return int(getattr(vcpu.domain.reservation, field))

    return answer


def _maximum_ram_page(vcpu: Vcpu, _argument: int) -> int:
    return vcpu.domain.memory.frames


def _maximum_gpfn(vcpu: Vcpu, argument: int) -> int:
    """What the guest says in shared_info (arch.max_pfn counts, this numbers)."""
    domain = vcpu.domain
    _own(vcpu, domain.guest.read_u32(argument) & 0xFFFF)
    return (domain.memory.words[(domain.layout.shared_info_mfn << 12) + xen.SI_ARCH >> 3] or 1) - 1


def _memory_map(vcpu: Vcpu, argument: int) -> int:
    """The pseudo-physical map: one RAM area of the domain's maximum, as libxl sets it (no e820_host), until the guest sets its own."""
    guest, reservation = vcpu.domain.guest, vcpu.domain.reservation
    room, buffer = guest.read_u32(argument), guest.read_u64(argument + 8)
    entries = reservation.e820 or _E820.pack(0, reservation.e820_frames << 12, _E820_RAM)
    count = min(room, len(entries) // _E820.size)
    if count:
        guest.write(buffer, entries[: count * _E820.size])
    guest.write_u32(argument, count)
    return 0


def _set_memory_map(vcpu: Vcpu, argument: int) -> int:
    guest = vcpu.domain.guest
    domid, count, buffer = guest.read_u32(argument) & 0xFFFF, guest.read_u32(argument + 8), guest.read_u64(argument + 16)
    if count > _E820_MAX:
        raise Refusal(EINVAL, f"a memory map of {count} entries, {_E820_MAX} at most")
    _own(vcpu, domid)
    vcpu.domain.reservation.e820 = guest.read(buffer, count * _E820.size) if count else b""
    return 0


def _machphys_mapping(vcpu: Vcpu, argument: int) -> int:
    start, frames = xen.M2P_VIRT_START, vcpu.domain.memory.frames
    vcpu.domain.guest.write(argument, Struct("<QQQ").pack(start, start + frames * 8, frames - 1))
    return 0


def _machphys_list(vcpu: Vcpu, argument: int) -> int:
    vcpu.domain.guest.write_u32(argument + 16, 0)  # no 2 MiB extents: the mapping is the way
    return 0


def _no_device_memory(vcpu: Vcpu, argument: int) -> int:
    vcpu.domain.guest.read(argument, 4)
    raise Refusal(EPERM, "only Domain-0 asks for that")


def _privileged(_vcpu: Vcpu, _argument: int) -> int:
    raise Refusal(EPERM, "only Domain-0 sees the machine's memory")


def _pod(vcpu: Vcpu, argument: int) -> int:
    """The target's domid follows four numbers."""
    _known(vcpu, vcpu.domain.guest.read_u32(argument + 32) & 0xFFFF)
    raise Refusal(EINVAL, "populate-on-demand is for HVM domains")


def _physmap(vcpu: Vcpu, argument: int) -> int:
    _known(vcpu, vcpu.domain.guest.read_u32(argument) & 0xFFFF)
    raise Refusal(EACCES, "a physmap is for translated domains")


def _vnuma(vcpu: Vcpu, argument: int) -> int:
    _own(vcpu, vcpu.domain.guest.read_u32(argument) & 0xFFFF)
    raise Refusal(EOPNOTSUPP, "no virtual NUMA topology was set for the domain")


def _claim(vcpu: Vcpu, argument: int) -> int:
    start, _count, order, flags, domid = _RESERVATION.unpack(vcpu.domain.guest.read(argument, _RESERVATION.size))
    if start or order or flags or not (domid == vcpu.domain.domid or vcpu.domain.domid_exists(domid)):
        raise Refusal(EINVAL, "a claim names a domain and a number of frames, nothing else")
    raise Refusal(EPERM, "only Domain-0 claims memory")


def _acquire_resource(vcpu: Vcpu, argument: int) -> int:
    domid = vcpu.domain.guest.read_u32(argument) & 0xFFFF
    if not _known(vcpu, domid):
        raise Refusal(EPERM, f"domain {domid}'s resources are not the caller's")
    raise Refusal(EPERM, "a domain does not map its own resources")


if TYPE_CHECKING:
    from collections.abc import Callable

    _Handler = Callable[[Vcpu, int], int]

_OPERATIONS: Final[dict[int, _Handler]] = {
    xen.XENMEM_maximum_ram_page: _maximum_ram_page,
    xen.XENMEM_current_reservation: _reservation("owned"),
    xen.XENMEM_maximum_reservation: _reservation("maximum"),
    xen.XENMEM_machphys_mfn_list: _machphys_list,
    xen.XENMEM_add_to_physmap: _physmap,
    xen.XENMEM_memory_map: _memory_map,
    xen.XENMEM_machine_memory_map: _privileged,
    xen.XENMEM_exchange: _exchange,
    xen.XENMEM_machphys_mapping: _machphys_mapping,
    xen.XENMEM_set_memory_map: _set_memory_map,
    xen.XENMEM_maximum_gpfn: _maximum_gpfn,
    xen.XENMEM_remove_from_physmap: _physmap,
    xen.XENMEM_set_pod_target: _pod,
    xen.XENMEM_get_pod_target: _pod,
    xen.XENMEM_add_to_physmap_batch: _physmap,
    xen.XENMEM_claim_pages: _claim,
    xen.XENMEM_get_vnumainfo: _vnuma,
    xen.XENMEM_reserved_device_memory_map: _no_device_memory,
    xen.XENMEM_acquire_resource: _acquire_resource,
}

HYPERCALLS: Final = {"memory_op": memory_op}
