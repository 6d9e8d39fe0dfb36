"""grant_table_op: a guest grants frames to others, and maps or copies what others grant to it (xen/common/grant_table.c).

An operation that concerns another domain parks the vCPU until that domain has answered (grants.peers); the hypercall is then issued
again for what is left of its list.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import TYPE_CHECKING, Final

from emulator.abi import grant_table as abi
from emulator.abi.errno import EINVAL, ENOSYS, EOPNOTSUPP, EPERM, ESRCH
from emulator.abi.xen import DOMID_SELF
from emulator.hypervisor.grants import peers
from emulator.hypervisor.grants.mappings import Mapping, pin_kinds
from emulator.hypervisor.grants.table import GrantError
from emulator.hypervisor.memory.frames import GUEST, SHARED, WRITABLE
from emulator.hypervisor.refusal import Preempted, Refusal

if TYPE_CHECKING:
    from emulator.hypervisor.vcpu import Vcpu

_PIECE: Final = 512
_COMMAND_MASK: Final = (1 << 12) - 1


def grant_table_op(vcpu: Vcpu, command: int, operations: int, count: int, *_: int) -> int:
    command, count = command & 0xFFFFFFFF, count & 0xFFFFFFFF
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
    found = _LISTS.get(number)
    if found is None:
        raise Refusal(ENOSYS, f"grant_table_op {number} does not exist")
    one, size = found
    guest = vcpu.domain.guest
    guest.check_range(operations)
    if number == abi.GNTTABOP_transfer:
        raise Refusal(EOPNOTSUPP, "transfer of frames is off (gnttab=no-transfer)")
    for index in range(min(count, _PIECE)):
        at = operations + index * size
        data = guest.read(at, size)
        try:
            one(vcpu, at, data)
        except Preempted:
            raise Preempted(command, at, count - index) from None
    if count > _PIECE:
        raise Preempted(command, operations + _PIECE * size, count - _PIECE)
    return 0


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
    try:
        for index, mfn in enumerate(frames):
            vcpu.domain.guest.write_u64(room + 8 * index, mfn)
    except Refusal as refusal:
        raise GrantError(abi.GNTST_bad_virt_addr, refusal.reason) from None
    return abi.GNTST_okay


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


def _map(vcpu: Vcpu, at: int, data: bytes) -> None:
    domain = vcpu.domain
    address, flags, ref, domid, _status, handle, bus = abi.MAP_REF.unpack(data)
    try:
        handle, bus = _map_one(vcpu, at, address, flags, ref, domid)
        status = abi.GNTST_okay
    except GrantError as error:
        status = _told(vcpu, f"map of grant {ref} of domain {domid}", error)
    domain.guest.write(at, abi.MAP_REF.pack(address, flags, ref, domid, status, handle, bus))


def _map_one(vcpu: Vcpu, at: int, address: int, flags: int, ref: int, domid: int) -> tuple[int, int]:
    """Returns the handle and the machine address as the mapper names it."""
    domain = vcpu.domain
    kinds = pin_kinds(flags)
    if not kinds:
        raise GrantError(abi.GNTST_bad_gntref, f"flags {flags:#x} ask for no mapping")
    own = domid == domain.domid
    write = not flags & abi.GNTMAP_readonly
    if own:
        domain.mappings.room(False)
        mfn, peer = domain.grants.map(ref, domid, write, kinds), None
    else:
        key = ("map", at, address, flags, ref, domid)
        if key not in vcpu.answers:
            domain.mappings.room(True)
        reply, peer = peers.ask(vcpu, domid, key, peers.Map(domain.domid, ref, write, kinds))
        try:
            domain.mappings.room(True)  # another vCPU may have taken the last meanwhile
        except GrantError:
            peers.tell(peer, peers.Unmap(ref, kinds))
            raise
        mfn = domain.mappings.open(reply.fd, reply.mfn)
    try:
        if flags & abi.GNTMAP_host_map:
            domain.mappings.map_host(address, mfn, flags)
    except GrantError:
        if peer is None:
            domain.grants.unmap(ref, kinds)
        else:
            domain.mappings.close(mfn)
            peers.tell(peer, peers.Unmap(ref, kinds))
        raise
    return domain.mappings.add(Mapping(domid, ref, flags, mfn, peer)), mfn << 12


def _unmap(vcpu: Vcpu, at: int, data: bytes) -> None:
    address, bus, handle, _status = abi.UNMAP_REF.unpack(data)
    _unmap_any(vcpu, at + 20, "unmap", address, bus, handle, 0)


def _unmap_and_replace(vcpu: Vcpu, at: int, data: bytes) -> None:
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
        peers.tell(mapping.peer, peers.Unmap(mapping.ref, kinds))


# --- copy -------------------------------------------------------------------------------------------------------------------------


def _copy(vcpu: Vcpu, at: int, data: bytes) -> None:
    source, source_domid, source_offset, dest, dest_domid, dest_offset, length, flags, _status = abi.COPY.unpack(data)
    status = abi.GNTST_okay
    try:
        _copy_one(vcpu, at, (source, source_domid, source_offset), (dest, dest_domid, dest_offset), length, flags)
    except GrantError as error:
        status = _told(vcpu, "copy", error)
    vcpu.domain.guest.write(at + 36, status.to_bytes(2, "little", signed=True))


def _copy_one(vcpu: Vcpu, at: int, source: tuple[int, int, int], dest: tuple[int, int, int], length: int, flags: int) -> None:
    """gnttab_copy_one: claim the source, claim the destination, check the bounds, copy. What lies in another domain comes and goes
    as bytes in messages."""
    by_ref = (bool(flags & abi.GNTCOPY_source_gref), bool(flags & abi.GNTCOPY_dest_gref))
    for (_what, domid, _offset), granted in zip((source, dest), by_ref, strict=True):
        if domid != DOMID_SELF and not granted:
            raise GrantError(abi.GNTST_permission_denied, f"a frame of domain {domid} is named by its number: only DOMID_SELF's may be")
        if domid not in (DOMID_SELF, vcpu.domain.domid) and not vcpu.domain.domid_exists(domid):
            raise GrantError(abi.GNTST_bad_domain, f"domain {domid} does not exist")
    crosses = source[2] + length > 4096 or dest[2] + length > 4096
    began: list[Callable[[], None]] = []
    replies: dict[peers.Key, peers.Reply] = {}
    try:
        data, inside = _fetch(vcpu, at, source, length, by_ref[0], began, replies)
        _store(vcpu, at, dest, length, by_ref[1], began, None if crosses or not inside else data)
    except Preempted:
        vcpu.answers.update(replies)  # the source's answer is wanted again when the destination's has come
        raise
    finally:
        for end in began:
            end()
    if crosses:
        raise GrantError(abi.GNTST_bad_copy_arg, f"{length} bytes from {source[2]} to {dest[2]} cross a page's end")
    if not inside:
        raise GrantError(abi.GNTST_general_error, f"{length} bytes from {source[2]} lie outside of what is granted")


def _fetch(vcpu: Vcpu, at: int, source: tuple[int, int, int], length: int, granted: bool, began: list[Callable[[], None]],
           replies: dict[peers.Key, peers.Reply]) -> tuple[bytes, bool]:  # fmt: skip
    """The bytes of the source, and whether they lie inside of what may be read."""
    domain = vcpu.domain
    what, domid, offset = source
    start, room = 0, 4096
    if not granted:
        mfn = what
        if mfn >= domain.frames.frames or domain.frames.owner[mfn] not in (GUEST, SHARED):
            raise GrantError(abi.GNTST_bad_page, f"frame {mfn:#x} is not the domain's own")
    elif domid in (DOMID_SELF, domain.domid):
        ref = what & 0xFFFFFFFF
        onward = domain.grants.transitive(ref, domain.domid)
        if onward is not None:
            raise GrantError(abi.GNTST_general_error, "transitive grants cannot be self-referential")
        active = domain.grants.use(ref, domain.domid, False)
        began.append(lambda: domain.grants.over(ref, False))
        mfn, start, room = active.mfn, active.start, active.length
    else:
        key = ("source", at, *source, length)
        reply, _peer = peers.ask(vcpu, domid, key, peers.Copy(domain.domid, what & 0xFFFFFFFF, offset, length, False))
        replies[key] = reply
        inside = reply.start <= offset and offset + length <= reply.start + reply.length
        return reply.data, inside
    inside = start <= offset and offset + length <= start + room
    return bytes(domain.memory.bytes[(mfn << 12) + offset : (mfn << 12) + min(offset + length, 4096)]), inside


def _store(vcpu: Vcpu, at: int, dest: tuple[int, int, int], length: int, granted: bool, began: list[Callable[[], None]], data: bytes | None) -> None:
    """Claim the destination; write `data` if it is not None and fits."""
    domain = vcpu.domain
    what, domid, offset = dest
    start, room = 0, 4096
    if granted and domid not in (DOMID_SELF, domain.domid):
        key = ("dest", at, *dest, length)
        reply, _peer = peers.ask(vcpu, domid, key, peers.Copy(domain.domid, what & 0xFFFFFFFF, offset, length, True, data or b""))
        start, room = reply.start, reply.length
        data = None if data is None or (start <= offset and offset + length <= start + room) else data
        if data is None:
            return
    elif granted:
        ref = what & 0xFFFFFFFF
        active = domain.grants.use(ref, domain.domid, True)
        began.append(lambda: domain.grants.over(ref, True))
        mfn, start, room = active.mfn, active.start, active.length
    else:
        mfn = what
        if not domain.frames.owned(mfn):
            raise GrantError(abi.GNTST_bad_page, f"frame {mfn:#x} is not the domain's own")
        try:
            domain.tables.get_type(mfn, WRITABLE)
        except Refusal as refusal:
            raise GrantError(abi.GNTST_general_error, refusal.reason) from None
        began.append(lambda: domain.tables.put_type(mfn))
    if data is None:
        return
    if not (start <= offset and offset + length <= start + room):
        raise GrantError(abi.GNTST_general_error, f"{length} bytes to {offset} lie outside of what is granted")
    domain.memory.bytes[(mfn << 12) + offset : (mfn << 12) + offset + length] = data
    domain.core.forget_frame(mfn)


# --- swap, cache flush ----------------------------------------------------------------------------------------------------------


def _swap(vcpu: Vcpu, at: int, data: bytes) -> None:
    a, b, _status = abi.SWAP_REF.unpack(data)
    status = abi.GNTST_okay
    try:
        vcpu.domain.grants.swap(a, b)
    except GrantError as error:
        status = _told(vcpu, "swap_grant_ref", error)
    vcpu.domain.guest.write(at + 8, status.to_bytes(2, "little", signed=True))


def _cache_flush(vcpu: Vcpu, _at: int, data: bytes) -> None:
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
    if not domain.frames.owned(mfn) and all(mapping.mfn != mfn for mapping in domain.mappings.handles.values()):
        raise Refusal(EPERM, f"frame {mfn:#x} is neither the domain's own nor granted to it")
    if what == abi.GNTTAB_CACHE_INVAL:
        raise Refusal(EOPNOTSUPP, "x86 knows no invalidation without writing back")


_SINGLE: Final[dict[int, Callable[[Vcpu, int], int]]] = {
    abi.GNTTABOP_setup_table: _setup_table, abi.GNTTABOP_query_size: _query_size, abi.GNTTABOP_set_version: _set_version,
    abi.GNTTABOP_get_version: _get_version, abi.GNTTABOP_get_status_frames: _get_status_frames,
}  # fmt: skip


def _list(one: Callable[[Vcpu, int, bytes], None], layout: Struct) -> tuple[Callable[[Vcpu, int, bytes], None], int]:
    return one, layout.size


_LISTS: Final = {
    abi.GNTTABOP_map_grant_ref: _list(_map, abi.MAP_REF), abi.GNTTABOP_unmap_grant_ref: _list(_unmap, abi.UNMAP_REF),
    abi.GNTTABOP_unmap_and_replace: _list(_unmap_and_replace, abi.UNMAP_REPLACE), abi.GNTTABOP_copy: _list(_copy, abi.COPY),
    abi.GNTTABOP_swap_grant_ref: _list(_swap, abi.SWAP_REF), abi.GNTTABOP_cache_flush: _list(_cache_flush, abi.CACHE_FLUSH),
    abi.GNTTABOP_transfer: _list(_swap, Struct("<24x")),
}  # fmt: skip

HYPERCALLS: Final = {"grant_table_op": grant_table_op}
