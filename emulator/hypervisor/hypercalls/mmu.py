"""mmu_update, update_va_mapping, mmuext_op: a guest changes its page tables (xen/arch/x86/mm.c).

Long work is done in pieces of an allowance (memory/promotion): the hypercall is issued again for the rest, with events delivered
between, always at the same place, so that the guest's time stays a function of what it executes.

The TLB is invisible: every change of an entry that the processor may have cached flushes at once (`PageTables.stale`), whatever the
guest asks for. Its own requests to flush, some 17,000 in a Linux boot, therefore find nothing to do.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final

import numpy as np

from emulator.abi import xen
from emulator.abi.errno import EACCES, EBUSY, EINVAL, ENOSYS, EOPNOTSUPP, EPERM, ESRCH
from emulator.abi.xen import DOMID_IO, DOMID_SELF, DOMID_XEN, HYPERVISOR_VIRT_END, MMUEXT_NAMES
from emulator.hypervisor.ldt import set_ldt
from emulator.hypervisor.memory.frames import GUEST, L1, NONE, SHARED, WRITABLE
from emulator.hypervisor.refusal import Preempted, Refusal, Restart

if TYPE_CHECKING:
    from emulator.hypervisor.domain import Domain
    from emulator.hypervisor.vcpu import Vcpu

_UPDATE: Final = Struct("<QQ")  # struct mmu_update: ptr val
_EXT: Final = Struct("<IxxxxQQ")  # struct mmuext_op: cmd arg1 arg2
_PREEMPTED: Final = 1 << 31  # MMU_UPDATE_PREEMPTED: a continuation
_OPERATION_WORK: Final = 3  # of the allowance, for each mmuext_op
_MANY: Final = 24  # entries from which on a whole list is cheaper than each by itself (measured)


def page_owner(vcpu: Vcpu, domid: int) -> bool:
    """get_pg_owner: whether `domid` is the caller by the one name it has here. Raises Refusal where there is no such domain."""
    if domid == DOMID_SELF:
        return True
    if domid == vcpu.domain.domid:
        raise Refusal(ESRCH, f"domain {domid} is the caller itself: DOMID_SELF is its name here")
    if domid not in (DOMID_IO, DOMID_XEN) and not vcpu.domain.domid_exists(domid):
        raise Refusal(ESRCH, f"domain {domid} does not exist")
    return False


def _foreign(domid: int) -> Refusal:
    return Refusal(EPERM, f"domain {domid}'s memory is not the caller's")


def _done_so_far(vcpu: Vcpu, count: int, done_at: int) -> tuple[int, int]:
    """(operations to do, done by earlier pieces)."""
    if not count & _PREEMPTED:
        return count, 0
    try:
        return count & ~_PREEMPTED, vcpu.domain.guest.read_u32(done_at) if done_at else 0
    except Refusal:
        return count & ~_PREEMPTED, 0  # the copy's failure is ignored


def _report(vcpu: Vcpu, done_at: int, done: int) -> None:
    """`done` for the guest; whether it can be written changes nothing."""
    if done_at:
        try:
            vcpu.domain.guest.write_u32(done_at, done & 0xFFFFFFFF)
        except Refusal as refusal:
            vcpu.domain.refused("done count", refusal)


def _end(vcpu: Vcpu, what: str, refusal: Refusal) -> None:
    """A refusal whose table could not be let go within the allowance is the answer when that is done. Raises one or the other."""
    if vcpu.domain.frames.unfinished:
        vcpu.domain.refused(what, refusal)
        raise Preempted(0, _PREEMPTED, 0, -refusal.errno)
    raise refusal


def _signed(value: int) -> int:
    value &= xen.MASK32
    return value - (1 << 32) if value >> 31 else value


def mmu_update(vcpu: Vcpu, updates: int, count: int, done_at: int, foreign: int, *_: int) -> int:
    """A list of (machine address of an entry | command, value). `done` counts those carried out before the first refusal."""
    domain = vcpu.domain
    domain.tables.finish()
    count &= xen.MASK32
    if count == _PREEMPTED and not updates:
        return _signed(foreign)
    if count == 1 and foreign == DOMID_SELF and not done_at and _leaf(domain, updates):
        return 0
    count, before = _done_so_far(vcpu, count, done_at)
    domain.guest.check_range(updates)
    table_owner = foreign >> 16 & 0xFFFF
    own_tables = not table_owner or table_owner - 1 == domain.domid
    if not own_tables and (table_owner - 1 >= DOMID_SELF or not domain.domid_exists(table_owner - 1)):
        raise Refusal(ESRCH, f"domain {table_owner - 1} does not exist")
    done = 0
    tables, frames = domain.tables, domain.frames
    try:
        own_pages = page_owner(vcpu, foreign & 0xFFFF)
        while done < count and not frames.unfinished and (not done or tables.allowance > 0):
            if own_pages and own_tables:
                done += _updates(domain, updates + done * 16, count - done)
            else:
                _foreign_update(domain, updates + done * 16, own_tables, foreign & 0xFFFF)
                done += 1
    except _Partly as partly:
        done += partly.done
        if partly.refusal is not None:
            _end(vcpu, "mmu_update", partly.refusal)
    finally:
        domain.stats.mmu_entries += done
        _report(vcpu, done_at, before + done)
    if done < count or frames.unfinished:
        raise Preempted(updates + done * 16, count - done | _PREEMPTED, done_at, foreign)
    return 0


def _leaf(domain: Domain, at: int) -> bool:
    """The commonest list: one L1 entry. False when it is anything else: nothing has happened then. Raises Refusal."""
    if at & 7 or at & 0xFFF > 4096 - _UPDATE.size:
        return False
    domain.guest.check_range(at)
    words, frames = domain.memory.words, domain.frames
    place = domain.guest.offset(at) >> 3
    pointer, value = words[place], words[place + 1]
    mfn, command = pointer >> 12, pointer & 7
    if command not in (xen.MMU_NORMAL_PT_UPDATE, xen.MMU_PT_UPDATE_PRESERVE_AD):
        return False
    if mfn >= frames.frames or frames.type[mfn] != L1 or frames.owner[mfn] != GUEST:
        return False
    domain.tables.allowance -= 1
    domain.tables.write_l1(pointer >> 3, value, command == xen.MMU_PT_UPDATE_PRESERVE_AD)
    domain.stats.mmu_entries += 1
    return True


class _Partly(Exception):
    """Some of a batch was done before the refusal, or before there was enough for once (None)."""

    def __init__(self, done: int, refusal: Refusal | None = None) -> None:
        super().__init__()
        self.done, self.refusal = done, refusal


def _updates(domain: Domain, at: int, count: int) -> int:
    """Those updates that lie on one page of the list; how many were done. Raises _Partly."""
    tables = domain.tables
    batch = min(count, (4096 - (at & 0xFFF)) // 16) or 1
    tables.allowance -= batch
    try:
        data = domain.guest.read(at, batch * 16)
    except Refusal as refusal:
        raise _Partly(0, refusal) from None
    if batch >= _MANY and _all_at_once(domain, data):
        return batch
    frames, words = domain.frames, domain.memory.words
    types, limit = frames.type, frames.frames
    done = 0
    try:
        for pointer, value in _UPDATE.iter_unpack(data):
            command, mfn = pointer & 7, pointer >> 12
            if command == xen.MMU_MACHPHYS_UPDATE:
                if not frames.owned(mfn):
                    raise Refusal(EINVAL, f"frame {mfn:#x} is not the domain's own")
                domain.layout.set_m2p(mfn, value)
            elif command > xen.MMU_PT_UPDATE_NO_TRANSLATE:
                raise Refusal(ENOSYS, f"mmu_update command {command} does not exist")
            elif mfn >= limit or frames.owner[mfn] not in (GUEST, SHARED):
                raise Refusal(EINVAL, f"frame {mfn:#x} is not the domain's own")
            elif types[mfn] == L1:
                tables.write_l1(pointer >> 3, value, command == xen.MMU_PT_UPDATE_PRESERVE_AD)
            elif types[mfn] in (NONE, WRITABLE):
                # Any other page of the guest's own may be written too, where no table is concerned. It may be the list itself.
                tables.get_type(mfn, WRITABLE)
                words[pointer >> 3] = value
                if frames.executable[mfn]:
                    domain.core.forget_frame(mfn)
                tables.put_type(mfn)
                return done + 1
            else:
                tables.write_entry(mfn, pointer >> 3 & 511, value, command == xen.MMU_PT_UPDATE_PRESERVE_AD)
                if frames.unfinished or tables.allowance <= 0:
                    return done + 1
            done += 1
    except Refusal as refusal:
        raise _Partly(done, refusal) from None
    except Restart:
        raise _Partly(done) from None
    return done


def _foreign_update(domain: Domain, at: int, own_tables: bool, domid: int) -> None:
    """One update where tables or pages are said to be another's: what is left of it without the right to touch them (xsm_mmu_update).
    DOMID_IO needs no right, but no frame here is its; entries may be cleared in its name, as on Xen."""
    pointer, value = _UPDATE.unpack(domain.guest.read(at, 16))
    command, mfn, frames = pointer & 7, pointer >> 12, domain.frames
    domain.tables.allowance -= 1
    if command > xen.MMU_PT_UPDATE_NO_TRANSLATE:
        raise Refusal(ENOSYS, f"mmu_update command {command} does not exist")
    if not own_tables or domid not in (DOMID_SELF, DOMID_IO):
        raise Refusal(EPERM, f"tables or pages of domain {domid} are not the caller's")
    if command == xen.MMU_MACHPHYS_UPDATE or mfn >= frames.frames or (frames.type[mfn] > L1 and frames.type[mfn] != WRITABLE):
        raise Refusal(EINVAL, f"frame {mfn:#x} is no L1 table or plain page of DOMID_IO's")
    if frames.type[mfn] == L1 and value & xen.PRESENT:
        domain.tables.check_leaf(value, "L1 entry")
        raise Refusal(EBUSY, f"L1 entry: {value:#x} names a frame that is not DOMID_IO's")
    try:
        _updates(domain, at, 1)
    except _Partly as partly:
        raise partly.refusal or Restart from None


def _all_at_once(domain: Domain, data: bytes) -> bool:
    """A list of L1 entries and nothing else, each named once; False when it is not, or one of them would be refused."""
    pairs = np.frombuffer(data, dtype=np.uint64).reshape(-1, 2)
    pointers = pairs[:, 0]
    command = int(pointers[0]) & 7
    if command not in (xen.MMU_NORMAL_PT_UPDATE, xen.MMU_PT_UPDATE_PRESERVE_AD) or (pointers & np.uint64(7) != np.uint64(command)).any():
        return False
    mfns = pointers >> np.uint64(12)
    frames = domain.frames
    if int(mfns.max()) >= frames.frames or (frames.types[mfns] != L1).any():
        return False
    at = (pointers >> np.uint64(3)).astype(np.int64)
    if not (at[1:] > at[:-1]).all():
        ordered = np.sort(at)
        if (ordered[1:] == ordered[:-1]).any():
            return False
    return domain.tables.write_leaves(at, pairs[:, 1], command == xen.MMU_PT_UPDATE_PRESERVE_AD)


def update_va_mapping(vcpu: Vcpu, va: int, value: int, flags: int, *_: int) -> int:
    """Replace the L1 entry that maps `va` in the current tables, then flush as asked."""
    domain = vcpu.domain
    if 0x800000000000 <= va < HYPERVISOR_VIRT_END:
        raise Refusal(EINVAL, f"{va:#x} is the hypervisor's, or no address")
    index = domain.guest.entry_index(va)
    if index < 0:
        raise Refusal(EINVAL, f"no L1 table maps {va:#x}")
    if domain.frames.type[index >> 9] != L1:
        raise Refusal(EINVAL, f"frame {index >> 9:#x}, which maps {va:#x}, is no L1 table")
    domain.tables.write_l1(index, value)
    kind, mask = flags & xen.UVMF_FLUSHTYPE_MASK, flags & ~xen.UVMF_FLUSHTYPE_MASK
    if kind in (xen.UVMF_TLB_FLUSH, xen.UVMF_INVLPG) and mask not in (0, 1 << 2):  # UVMF_LOCAL, UVMF_ALL
        _vcpu_mask(domain, mask)
    return 0


def _vcpu_mask(domain: Domain, bitmap: int) -> None:
    """A bitmap of vCPUs must be readable; all of them share one processor here, which is flushed whoever is named."""
    for word in range(-(-len(domain.vcpus) // 64)):
        domain.guest.read_u64(bitmap + 8 * word)


def update_va_mapping_otherdomain(vcpu: Vcpu, va: int, value: int, flags: int, domid: int, *_: int) -> int:
    if not page_owner(vcpu, domid & 0xFFFF):
        raise _foreign(domid & 0xFFFF)
    return update_va_mapping(vcpu, va, value, flags)


def mmuext_op(vcpu: Vcpu, operations: int, count: int, done_at: int, foreign: int, *_: int) -> int:
    domain = vcpu.domain
    tables, frames = domain.tables, domain.frames
    tables.finish()
    count &= xen.MASK32
    if count == _PREEMPTED and not operations:
        return _signed(foreign)
    count, before = _done_so_far(vcpu, count, done_at)
    domain.guest.check_range(operations)
    if foreign & 0xFFFF != DOMID_SELF and not page_owner(vcpu, foreign & 0xFFFF):
        raise _foreign(foreign & 0xFFFF)
    done = 0
    try:
        while done < count and not frames.unfinished and (not done or tables.allowance > 0):
            command, arg1, arg2 = _EXT.unpack(domain.guest.read(operations + done * _EXT.size, _EXT.size))
            tables.allowance -= _OPERATION_WORK
            _one_ext(vcpu, domain, command, arg1, arg2)
            done += 1
    except Refusal as refusal:
        _end(vcpu, "mmuext_op", refusal)
    except Restart:
        pass  # this one is to be gone on with
    finally:
        _report(vcpu, done_at, before + done)
    if done < count or frames.unfinished:
        raise Preempted(operations + done * _EXT.size, count - done | _PREEMPTED, done_at, foreign)
    return 0


def _one_ext(vcpu: Vcpu, domain: Domain, command: int, arg1: int, arg2: int) -> None:
    tables = domain.tables
    if command <= xen.MMUEXT_PIN_L4_TABLE:
        tables.pin(arg1, L1 + command)
    elif command == xen.MMUEXT_UNPIN_TABLE:
        if not domain.frames.owned(arg1):
            raise Refusal(EINVAL, f"frame {arg1:#x} is not the domain's own")
        tables.unpin(arg1)
    elif command == xen.MMUEXT_NEW_BASEPTR:
        domain.new_baseptr(vcpu, arg1)
    elif command == xen.MMUEXT_NEW_USER_BASEPTR:
        domain.new_user_baseptr(vcpu, arg1)
    elif command in (xen.MMUEXT_TLB_FLUSH_LOCAL, xen.MMUEXT_TLB_FLUSH_ALL, xen.MMUEXT_INVLPG_LOCAL, xen.MMUEXT_INVLPG_ALL):
        pass  # see the module: no stale translation is ever left to flush
    elif command in (xen.MMUEXT_TLB_FLUSH_MULTI, xen.MMUEXT_INVLPG_MULTI):
        try:
            _vcpu_mask(domain, arg2)
        except Refusal as refusal:
            raise Refusal(EINVAL, f"the bitmap of vCPUs: {refusal.reason}") from None
    elif command == xen.MMUEXT_FLUSH_CACHE:
        raise Refusal(EACCES, "no device, no cache to flush (cache_flush_permitted)")
    elif command == xen.MMUEXT_FLUSH_CACHE_GLOBAL:
        raise Refusal(EINVAL, "no device, no cache to flush (cache_flush_permitted)")
    elif command == xen.MMUEXT_SET_LDT:
        set_ldt(vcpu, arg1, arg2 & 0xFFFFFFFF)
    elif command == xen.MMUEXT_CLEAR_PAGE:
        _plain(domain, arg1)[:] = bytes(4096)
    elif command == xen.MMUEXT_COPY_PAGE:
        if not domain.frames.owned(arg2):
            raise Refusal(EINVAL, f"frame {arg2:#x} is not the domain's own")
        _plain(domain, arg1)[:] = bytes(domain.memory.frame(arg2))
    elif command in (xen.MMUEXT_MARK_SUPER, xen.MMUEXT_UNMARK_SUPER):
        raise Refusal(EOPNOTSUPP, "superpages are not for PV guests")
    else:
        raise Refusal(ENOSYS, f"mmuext_op {MMUEXT_NAMES[command] if command < len(MMUEXT_NAMES) else command} does not exist")


def _plain(domain: Domain, mfn: int) -> memoryview:
    """A frame that may be written as plain memory."""
    domain.tables.get_type(mfn, WRITABLE)
    domain.tables.put_type(mfn)
    if domain.frames.executable[mfn]:
        domain.core.forget_frame(mfn)
    return domain.memory.frame(mfn)


HYPERCALLS: Final = {"mmu_update": mmu_update, "update_va_mapping": update_va_mapping, "mmuext_op": mmuext_op,
                     "update_va_mapping_otherdomain": update_va_mapping_otherdomain}  # fmt: skip
