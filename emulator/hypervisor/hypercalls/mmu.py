"""mmu_update, update_va_mapping, mmuext_op: a guest changes its page tables (xen/arch/x86/mm.c)."""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final

from emulator.abi import xen
from emulator.abi.errno import EINVAL, ENOSYS, EPERM, ESRCH
from emulator.abi.xen import DOMID_SELF, MMUEXT_NAMES
from emulator.hypervisor.memory.frames import L1, NONE, WRITABLE
from emulator.hypervisor.refusal import Refusal

if TYPE_CHECKING:
    from emulator.hypervisor.domain import Domain
    from emulator.hypervisor.vcpu import Vcpu

_UPDATE: Final = Struct("<QQ")  # struct mmu_update: ptr val
_EXT: Final = Struct("<IxxxxQQ")  # struct mmuext_op: cmd arg1 arg2
_PREEMPTED: Final = 1 << 31  # MMU_UPDATE_PREEMPTED: a continuation of ours; a guest has no business with it


def _check_domain(vcpu: Vcpu, foreign: int) -> None:
    foreign &= 0xFFFFFFFF
    if foreign & 0xFFFF not in (DOMID_SELF, vcpu.domain.domid) or foreign >> 16 not in (0, DOMID_SELF + 1, vcpu.domain.domid + 1):
        known = vcpu.domain.domid_exists(foreign & 0xFFFF)
        raise Refusal(EPERM if known else ESRCH, f"domain {foreign & 0xFFFF}'s memory is not the caller's")


def _report(vcpu: Vcpu, done_at: int, done: int) -> None:
    if done_at:
        vcpu.domain.guest.write_u32(done_at, done)


def mmu_update(vcpu: Vcpu, updates: int, count: int, done_at: int, foreign: int, *_: int) -> int:
    """A list of (machine address of an entry | command, value). `done` counts those carried out before the first refusal."""
    domain = vcpu.domain
    count &= 0xFFFFFFFF
    if count & _PREEMPTED:
        raise Refusal(EINVAL, "a continuation that nobody began")
    if foreign & 0xFFFFFFFF != DOMID_SELF:
        _check_domain(vcpu, foreign)
    guest, tables, frames = domain.guest, domain.tables, domain.frames
    done = 0
    try:
        while done < count:
            batch = min(count - done, 256)
            data = guest.read(updates + done * 16, batch * 16)
            for pointer, value in _UPDATE.iter_unpack(data):
                command = pointer & 3
                mfn = pointer >> 12
                if command == xen.MMU_MACHPHYS_UPDATE:
                    if not frames.owned(mfn):
                        raise Refusal(EINVAL, f"frame {mfn:#x} is not the domain's own")
                    domain.layout.set_m2p(mfn, value)
                elif command == xen.MMU_PT_UPDATE_NO_TRANSLATE:
                    raise Refusal(ENOSYS, "MMU_PT_UPDATE_NO_TRANSLATE is for translated domains")
                elif mfn >= frames.frames:
                    raise Refusal(EINVAL, f"frame {mfn:#x} is beyond the machine's end")
                elif frames.type[mfn] == L1:
                    if pointer & 4:
                        raise Refusal(EINVAL, f"entry address {pointer:#x} is not 8-byte aligned")
                    tables.write_l1(pointer >> 3, value, command == xen.MMU_PT_UPDATE_PRESERVE_AD)
                elif frames.type[mfn] in (NONE, WRITABLE):
                    # Any other page of the guest's own may be written too, where no table is concerned.
                    tables.get_type(mfn, WRITABLE)
                    domain.memory.words[pointer >> 3] = value
                    tables.put_type(mfn)
                else:
                    tables.write_entry(mfn, pointer >> 3 & 511, value, command == xen.MMU_PT_UPDATE_PRESERVE_AD)
                done += 1
    finally:
        domain.stats.mmu_entries += done
        _report(vcpu, done_at, done)
    return 0


def update_va_mapping(vcpu: Vcpu, va: int, value: int, flags: int, *_: int) -> int:
    """Replace the L1 entry that maps `va` in the current tables, then flush as asked."""
    domain = vcpu.domain
    index = domain.guest.entry_index(va)
    if index < 0 or xen.HYPERVISOR_VIRT_START <= va < xen.HYPERVISOR_VIRT_END:
        raise Refusal(EINVAL, f"no L1 table maps {va:#x}")
    if domain.frames.type[index >> 9] != L1:
        raise Refusal(EINVAL, f"frame {index >> 9:#x}, which maps {va:#x}, is no L1 table")
    domain.tables.write_l1(index, value)
    kind = flags & xen.UVMF_FLUSHTYPE_MASK
    if kind == xen.UVMF_TLB_FLUSH:
        domain.tables.stale = True
    elif kind == xen.UVMF_INVLPG:
        vcpu.core.flush_page(va)
    return 0


def update_va_mapping_otherdomain(vcpu: Vcpu, va: int, value: int, flags: int, domid: int, *_: int) -> int:
    _check_domain(vcpu, domid)
    return update_va_mapping(vcpu, va, value, flags)


def mmuext_op(vcpu: Vcpu, operations: int, count: int, done_at: int, foreign: int, *_: int) -> int:
    count &= 0xFFFFFFFF
    if count & _PREEMPTED:
        raise Refusal(EINVAL, "a continuation that nobody began")
    if foreign & 0xFFFFFFFF != DOMID_SELF:
        _check_domain(vcpu, foreign)
    done = 0
    try:
        while done < count:
            command, arg1, arg2 = _EXT.unpack(vcpu.domain.guest.read(operations + done * _EXT.size, _EXT.size))
            _one_ext(vcpu, vcpu.domain, command, arg1, arg2)
            done += 1
    finally:
        _report(vcpu, done_at, done)
    return 0


def _one_ext(vcpu: Vcpu, domain: Domain, command: int, arg1: int, arg2: int) -> None:
    tables = domain.tables
    if command <= xen.MMUEXT_PIN_L4_TABLE:
        tables.pin(arg1, L1 + command)
    elif command == xen.MMUEXT_UNPIN_TABLE:
        tables.unpin(arg1)
    elif command == xen.MMUEXT_NEW_BASEPTR:
        domain.new_baseptr(vcpu, arg1)
    elif command == xen.MMUEXT_NEW_USER_BASEPTR:
        domain.new_user_baseptr(vcpu, arg1)
    elif command in (xen.MMUEXT_TLB_FLUSH_LOCAL, xen.MMUEXT_TLB_FLUSH_MULTI, xen.MMUEXT_TLB_FLUSH_ALL):
        tables.stale = True
    elif command in (xen.MMUEXT_INVLPG_LOCAL, xen.MMUEXT_INVLPG_MULTI, xen.MMUEXT_INVLPG_ALL):
        vcpu.core.flush_page(arg1)
    elif command == xen.MMUEXT_FLUSH_CACHE or command == xen.MMUEXT_FLUSH_CACHE_GLOBAL:
        raise Refusal(EPERM, "no device, no cache to flush (cache_flush_permitted)")
    elif command == xen.MMUEXT_SET_LDT:
        domain.set_ldt(vcpu, arg1, arg2)
    elif command == xen.MMUEXT_CLEAR_PAGE:
        _plain(domain, arg1)[:] = bytes(4096)
    elif command == xen.MMUEXT_COPY_PAGE:
        if not domain.frames.owned(arg2):
            raise Refusal(EINVAL, f"frame {arg2:#x} is not the domain's own")
        _plain(domain, arg1)[:] = domain.memory.frame(arg2)
    elif command in (xen.MMUEXT_MARK_SUPER, xen.MMUEXT_UNMARK_SUPER):
        raise Refusal(ENOSYS, "superpages are not for PV guests")
    else:
        raise Refusal(ENOSYS, f"mmuext_op {MMUEXT_NAMES[command] if command < len(MMUEXT_NAMES) else command} does not exist")


def _plain(domain: Domain, mfn: int) -> memoryview:
    """A frame that may be written as plain memory."""
    domain.tables.get_type(mfn, WRITABLE)
    domain.tables.put_type(mfn)
    domain.core.forget_frame(mfn)
    return domain.memory.frame(mfn)


HYPERCALLS: Final = {"mmu_update": mmu_update, "update_va_mapping": update_va_mapping, "mmuext_op": mmuext_op,
                     "update_va_mapping_otherdomain": update_va_mapping_otherdomain}  # fmt: skip
