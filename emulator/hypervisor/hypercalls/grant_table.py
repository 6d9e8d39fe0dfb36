"""grant_table_op: a guest grants frames to others, and maps or copies what others grant to it (xen/common/grant_table.c).

An operation that concerns another domain parks the vCPU until that domain has answered (grants.peers); the hypercall is then issued
again for what is left of its list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from struct import Struct
from typing import TYPE_CHECKING, Final

from emulator.abi import grant_table as abi
from emulator.abi.errno import EILSEQ, EINVAL, ENOSYS, EOPNOTSUPP, EPERM, ESRCH
from emulator.abi.xen import DOMID_SELF, MASK32
from emulator.hypervisor.grants import peers
from emulator.hypervisor.grants.active import GrantError
from emulator.hypervisor.grants.mappings import Mapping, pin_kinds
from emulator.hypervisor.grants.operations import Map, Unmap
from emulator.hypervisor.hypercalls.grant_copy import Ahead, copy, plan_copy, transfer
from emulator.hypervisor.memory.frames import FOREIGN, GUEST, SHARED
from emulator.hypervisor.refusal import Preempted, Refusal

if TYPE_CHECKING:
    from emulator.hypervisor.domain import Domain
    from emulator.hypervisor.vcpu import Vcpu

_PIECE: Final = 512
_OPERATION_WORK: Final = 4  # of the domain's allowance (memory/promotion): a multicall of lists is no longer than one list
_COMMAND_MASK: Final = (1 << 12) - 1


def grant_table_op(vcpu: Vcpu, command: int, operations: int, count: int, *_: int) -> int:
    command, count = command & MASK32, count & MASK32
    if count >> 31:
        raise Refusal(EINVAL, f"{count} operations")
    number = command & _COMMAND_MASK
    if command != number and number != abi.GNTTABOP_cache_flush:
        raise Refusal(EINVAL, f"grant_table_op {command:#x} has no continuation")
    single = _SINGLE.get(number)
    if single is not None:
        if count != 1 and number not in (abi.GNTTABOP_set_version, abi.GNTTABOP_get_version):
            raise Refusal(EINVAL, f"{count} operations where one is allowed")
        return single(vcpu, operations)
    listed = _LISTS.get(number)
    if listed is None:
        raise Refusal(ENOSYS, f"grant_table_op {number} does not exist")
    if command != number and count and _idle(vcpu, operations):
        raise Refusal(EILSEQ, f"grant_table_op {command:#x}: no flush was interrupted there")
    size = listed.layout.size
    guest = vcpu.domain.guest
    guest.check_range(operations)
    vcpu.domain.tables.allowance -= _OPERATION_WORK * min(count, _PIECE)
    for index in range(min(count, _PIECE)):
        at = operations + index * size
        data = guest.read(at, size)
        try:
            listed.one(vcpu, at, data, partial(_ahead, vcpu, listed, operations, range(index, count)))
        except Preempted:
            raise Preempted(command, at, count - index) from None
    if vcpu.answers:
        peers.forget_answers(vcpu, range(operations, operations + count * size))
    if count > _PIECE:
        raise Preempted(command, operations + _PIECE * size, count - _PIECE)
    return 0


def _ahead(vcpu: Vcpu, listed: _List, operations: int, indices: range) -> Iterator[peers.Ask]:
    """What the rest of the list will ask of other domains, as far as it may be asked before what comes first is done: maps in any
    order; copies up to the first that goes the other way, since it might read what one before it writes. (A transitive entry
    that leads back to the caller can tell the difference.)"""
    first: peers.Ask | None = None
    for index in indices[: peers.BATCH]:
        at = operations + index * listed.layout.size
        try:
            wanted = listed.plan(vcpu, at, vcpu.domain.guest.read(at, listed.layout.size))
        except Refusal:
            return
        if first is None:
            first = wanted
            if wanted is None:
                return
        elif wanted is not None and wanted.key[0] == first.key[0]:
            yield wanted
        elif listed.ordered:
            return


def _told(vcpu: Vcpu, what: str, error: GrantError) -> int:
    """A status other than okay is kept for people, as a refusal is."""
    vcpu.domain.refused(f"grant_table_op {what}", Refusal(EINVAL, str(error)))
    return error.status


def _own(vcpu: Vcpu, domid: int) -> None:
    """rcu_lock_domain_by_any_id and XSM_TARGET. Raises GrantError for any domain but the caller."""
    if domid in (DOMID_SELF, vcpu.domain.domid):
        return
    if not vcpu.domain.domid_exists(domid):
        raise GrantError(abi.GNTST_bad_domain, f"domain {domid} does not exist")
    raise GrantError(abi.GNTST_permission_denied, f"domain {domid}'s grant table is not the caller's")


# --- the table itself -------------------------------------------------------------------------------------------------------------


def _setup_table(vcpu: Vcpu, at: int) -> int:
    domain, guest = vcpu.domain, vcpu.domain.guest
    domid, frames, _status, room = abi.SETUP_TABLE.unpack(guest.read(at, abi.SETUP_TABLE.size))
    guest.check_range(room)
    status = abi.GNTST_okay
    try:
        _own(vcpu, domid)
        if frames > domain.grants.limit or not domain.grants.grow(frames):
            raise GrantError(abi.GNTST_general_error, f"a table of {frames} frames, {domain.grants.limit} at most")
        status = _write_frames(vcpu, room, domain.grants.shared[:frames])
    except GrantError as error:
        status = _told(vcpu, "setup_table", error)
    guest.write(at + 8, status.to_bytes(2, "little", signed=True))
    return 0


def _write_frames(vcpu: Vcpu, room: int, frames: list[int]) -> int:
    status = abi.GNTST_okay
    for index, mfn in enumerate(frames):
        try:
            vcpu.domain.guest.write_u64(room + 8 * index, mfn)
        except Refusal as refusal:
            status = _told(vcpu, "list of frames", GrantError(abi.GNTST_bad_virt_addr, refusal.reason))
    return status


def _query_size(vcpu: Vcpu, at: int) -> int:
    guest, grants = vcpu.domain.guest, vcpu.domain.grants
    domid, frames, most, _status = abi.QUERY_SIZE.unpack(guest.read(at, abi.QUERY_SIZE.size))
    status = abi.GNTST_okay
    try:
        _own(vcpu, domid)
        frames, most = len(grants.shared), grants.limit
    except GrantError as error:
        status = _told(vcpu, "query_size", error)
    guest.write(at, abi.QUERY_SIZE.pack(domid, frames, most, status))
    return 0


def _set_version(vcpu: Vcpu, at: int) -> int:
    guest, grants = vcpu.domain.guest, vcpu.domain.grants
    wanted = guest.read_u32(at)
    try:
        grants.set_version(wanted)
    finally:
        guest.write_u32(at, grants.version)
    return 0


def _get_version(vcpu: Vcpu, at: int) -> int:
    guest = vcpu.domain.guest
    domid, _pad, _version = abi.GET_VERSION.unpack(guest.read(at, abi.GET_VERSION.size))
    try:
        _own(vcpu, domid)
    except GrantError as error:
        raise Refusal(ESRCH if error.status == abi.GNTST_bad_domain else EPERM, error.reason) from None
    guest.write_u32(at + 4, vcpu.domain.grants.version)
    return 0


def _get_status_frames(vcpu: Vcpu, at: int) -> int:
    domain, guest = vcpu.domain, vcpu.domain.guest
    frames, domid, _status, room = abi.GET_STATUS_FRAMES.unpack(guest.read(at, abi.GET_STATUS_FRAMES.size))
    guest.check_range(room)
    status = abi.GNTST_okay
    try:
        _own(vcpu, domid)
        if frames > len(domain.grants.status):
            raise GrantError(abi.GNTST_general_error, f"{frames} status frames, there are {len(domain.grants.status)}")
        status = _write_frames(vcpu, room, domain.grants.status[:frames])
    except GrantError as error:
        status = _told(vcpu, "get_status_frames", error)
    guest.write(at + 6, status.to_bytes(2, "little", signed=True))
    return 0


# --- map and unmap --------------------------------------------------------------------------------------------------------------


def _plan_map(vcpu: Vcpu, at: int, data: bytes) -> peers.Ask | None:
    _address, flags, ref, domid, _status, _handle, _bus = abi.MAP_REF.unpack(data)
    kinds = pin_kinds(flags)
    if not kinds or domid == vcpu.domain.domid:
        return None
    return peers.Ask(domid, ("map", at, data[:18]), Map(vcpu.domain.domid, ref, kinds))


def _map(vcpu: Vcpu, at: int, data: bytes, ahead: Ahead) -> None:
    domain = vcpu.domain
    address, flags, ref, domid, _status, handle, bus = abi.MAP_REF.unpack(data)
    try:
        handle, bus = _map_one(vcpu, at, data, ahead)
        status = abi.GNTST_okay
    except GrantError as error:
        status = _told(vcpu, f"map of grant {ref} of domain {domid}", error)
    domain.guest.write(at, abi.MAP_REF.pack(address, flags, ref, domid, status, handle, bus))


def _map_one(vcpu: Vcpu, at: int, data: bytes, ahead: Ahead) -> tuple[int, int]:
    """Returns the handle and the machine address as the mapper names it."""
    domain = vcpu.domain
    address, flags, ref, domid, *_ = abi.MAP_REF.unpack(data)
    kinds = pin_kinds(flags)
    if not kinds:
        raise GrantError(abi.GNTST_bad_gntref, f"flags {flags:#x} ask for no mapping")
    wanted = _plan_map(vcpu, at, data)
    reply: peers.Reply | None = None
    peer: Domain | None = None
    if wanted is None:
        domain.mappings.room(False)
        mfn = domain.grants.map(ref, domid, not flags & abi.GNTMAP_readonly, kinds)
    else:
        if wanted.key not in vcpu.answers:
            domain.mappings.room(True)
        reply = peers.ask(vcpu, wanted, ahead)
        peer = reply.granter
        mfn = _shown(vcpu, domid, reply)
    try:
        if flags & abi.GNTMAP_host_map:
            domain.mappings.map_host(address, mfn, flags)
    except GrantError:
        if reply is None:
            domain.grants.unmap(ref, kinds)
        else:
            domain.mappings.close(mfn)
            peers.unclaimed(reply)
        raise
    return domain.mappings.add(Mapping(domid, ref, flags, mfn, peer)), mfn << 12


def _shown(vcpu: Vcpu, domid: int, reply: peers.Reply) -> int:
    """The frame of the window that shows what was granted."""
    mappings = vcpu.domain.mappings
    try:
        if reply.file is None or vcpu.domain.peer(domid) is not reply.granter:
            raise GrantError(abi.GNTST_bad_domain, f"domain {domid} is gone")
        mappings.room(True)  # another vCPU may have taken the last meanwhile
        return mappings.open(reply.file, reply.mfn)
    except GrantError:
        peers.unclaimed(reply)
        raise


def _unmap(vcpu: Vcpu, at: int, data: bytes, _ahead: Ahead) -> None:
    address, bus, handle, _status = abi.UNMAP_REF.unpack(data)
    _unmap_any(vcpu, at + 20, "unmap", address, bus, handle, 0)


def _unmap_and_replace(vcpu: Vcpu, at: int, data: bytes, _ahead: Ahead) -> None:
    address, new_address, handle, _status = abi.UNMAP_REPLACE.unpack(data)
    _unmap_any(vcpu, at + 20, "unmap_and_replace", address, 0, handle, new_address)


def _unmap_any(vcpu: Vcpu, status_at: int, what: str, address: int, bus: int, handle: int, new_address: int) -> None:
    status = abi.GNTST_okay
    try:
        _unmap_one(vcpu, address, bus, handle, new_address)
    except GrantError as error:
        status = _told(vcpu, f"{what} of handle {handle}", error)
    vcpu.domain.guest.write(status_at, status.to_bytes(2, "little", signed=True))


def _unmap_one(vcpu: Vcpu, address: int, bus: int, handle: int, new_address: int) -> None:
    """unmap_common: host and device mapping go one by one or together; the handle with the last."""
    domain = vcpu.domain
    mapping = domain.mappings.find(handle)
    done = 0
    if bus and mapping.flags & abi.GNTMAP_device_map and bus != mapping.mfn << 12:
        raise GrantError(abi.GNTST_bad_dev_addr, f"bus address {bus:#x} is not that of frame {mapping.mfn:#x}")
    if address and mapping.flags & abi.GNTMAP_host_map:
        domain.mappings.unmap_host(address, mapping, new_address)
        done |= abi.GNTMAP_host_map
    if bus and mapping.flags & abi.GNTMAP_device_map:
        done |= abi.GNTMAP_device_map
    if not done:
        return
    kinds = pin_kinds(done | mapping.flags & abi.GNTMAP_readonly)
    mapping.flags &= ~done
    if not mapping.flags & (abi.GNTMAP_host_map | abi.GNTMAP_device_map):
        domain.mappings.drop(handle)
        if mapping.peer is not None:
            domain.mappings.close(mapping.mfn)
    if mapping.peer is None:
        domain.grants.unmap(mapping.ref, kinds)
    else:
        peers.tell(mapping.peer, Unmap(mapping.ref, kinds))


# --- swap, cache flush ----------------------------------------------------------------------------------------------------------


def _swap(vcpu: Vcpu, _at: int, data: bytes, _ahead: Ahead) -> None:
    a, b, _status = abi.SWAP_REF.unpack(data)
    vcpu.domain.grants.swap(a, b)


def _told_at(offset: int, what: str, act: Callable[[Vcpu, int, bytes, Ahead], None]) -> Callable[[Vcpu, int, bytes, Ahead], None]:
    """An operation whose status alone is written back, `offset` bytes into its structure."""

    def one(vcpu: Vcpu, at: int, data: bytes, ahead: Ahead) -> None:
        status = abi.GNTST_okay
        try:
            act(vcpu, at, data, ahead)
        except GrantError as error:
            status = _told(vcpu, what, error)
        vcpu.domain.guest.write(at + offset, status.to_bytes(2, "little", signed=True))

    return one


def _idle(vcpu: Vcpu, at: int) -> bool:
    """Whether a flush flushes nothing."""
    _address, _offset, length, what = abi.CACHE_FLUSH.unpack(vcpu.domain.guest.read(at, abi.CACHE_FLUSH.size))
    return not length or not what


def _cache_flush(vcpu: Vcpu, _at: int, data: bytes, _ahead: Ahead) -> None:
    """There is no cache to flush; what may be asked is checked all the same."""
    domain = vcpu.domain
    address, offset, length, what = abi.CACHE_FLUSH.unpack(data)
    if offset >= 4096 or length > 4096 or offset + length > 4096 or what & ~(abi.GNTTAB_CACHE_INVAL | abi.GNTTAB_CACHE_CLEAN):
        raise Refusal(EINVAL, f"{length} bytes at {offset}, operation {what:#x}")
    if not length or not what:
        return
    mfn = address >> 12
    if mfn >= domain.frames.frames:
        raise Refusal(EINVAL, f"frame {mfn:#x} is beyond the machine's end")
    if domain.frames.owner[mfn] not in (GUEST, SHARED, FOREIGN):
        raise Refusal(EPERM, f"frame {mfn:#x} is no domain's")
    if not domain.frames.owned(mfn) and not domain.mappings.shows(mfn):
        raise Refusal(EINVAL, f"frame {mfn:#x} is not granted to the domain any more")
    if what == abi.GNTTAB_CACHE_INVAL:
        raise Refusal(EOPNOTSUPP, "x86 knows no invalidation without writing back")


_SINGLE: Final[dict[int, Callable[[Vcpu, int], int]]] = {
    abi.GNTTABOP_setup_table: _setup_table, abi.GNTTABOP_query_size: _query_size, abi.GNTTABOP_set_version: _set_version,
    abi.GNTTABOP_get_version: _get_version, abi.GNTTABOP_get_status_frames: _get_status_frames,
}  # fmt: skip


def _no_plan(_vcpu: Vcpu, _at: int, _data: bytes) -> peers.Ask | None:
    return None


@dataclass(frozen=True, slots=True)
class _List:
    """Operations that come as a list. `plan` tells what one will ask of another domain, `ordered` whether one that will not must be
    done before any after it is asked for."""

    one: Callable[[Vcpu, int, bytes, Ahead], None]
    layout: Struct
    plan: Callable[[Vcpu, int, bytes], peers.Ask | None] = _no_plan
    ordered: bool = True


_LISTS: Final = {
    abi.GNTTABOP_map_grant_ref: _List(_map, abi.MAP_REF, _plan_map, ordered=False),
    abi.GNTTABOP_unmap_grant_ref: _List(_unmap, abi.UNMAP_REF),
    abi.GNTTABOP_unmap_and_replace: _List(_unmap_and_replace, abi.UNMAP_REPLACE),
    abi.GNTTABOP_transfer: _List(_told_at(16, "transfer", transfer), abi.TRANSFER),
    abi.GNTTABOP_copy: _List(_told_at(36, "copy", copy), abi.COPY, plan_copy),
    abi.GNTTABOP_swap_grant_ref: _List(_told_at(8, "swap_grant_ref", _swap), abi.SWAP_REF),
    abi.GNTTABOP_cache_flush: _List(_cache_flush, abi.CACHE_FLUSH),
}

HYPERCALLS: Final = {"grant_table_op": grant_table_op}
