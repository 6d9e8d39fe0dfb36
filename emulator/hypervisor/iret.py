"""The iret hypercall (do_iret, xen/arch/x86/pv/iret.c, and the way out in x86_64/entry.S): the frame on the guest kernel's stack says where to."""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final

from emulator.abi.xen import FLAT_KERNEL_CS, FLAT_KERNEL_SS, FLAT_RING3_CS32, FLAT_RING3_DS, VMASST_TYPE_architectural_iopl
from emulator.cpu.core import CS, IF, IOPL, R11, RCX, RF, RSP, SS, VM
from emulator.hypervisor.refusal import DomainCrash, Refusal
from emulator.hypervisor.selectors import load_code

if TYPE_CHECKING:
    from emulator.hypervisor.vcpu import Vcpu

_FRAME: Final = Struct("<9Q")  # struct iret_context: rax r11 rcx flags rip cs rflags rsp ss
_VGCF_IN_SYSCALL: Final = 256
FLAT_CODE32, FLAT_DATA32 = 0x00CFFB000000FFFF, 0x00CFF3000000FFFF
"""Descriptors of Xen's flat ring-3 segments for 32-bit code."""


def iret(vcpu: Vcpu) -> tuple[int, bool]:
    """The guest's RAX, and whether it is gone back to by SYSRET: that is the way of a frame that came by a system call. RCX and R11 are what
    SYSRET takes then, and the segments are Xen's flat ones whatever the frame names. Any other goes by IRETQ. Raises DomainCrash."""
    core, regs, domain = vcpu.core, vcpu.core.regs, vcpu.domain
    try:
        rax, r11, rcx, flags, rip, cs, rflags, rsp, ss = _FRAME.unpack(domain.guest.read(regs[RSP], _FRAME.size))
    except Refusal as refusal:
        raise DomainCrash(f"iret: {refusal.reason}") from None
    if cs & 3 == 3:
        if not vcpu.cr3_user:
            raise DomainCrash("iret to user mode without user page tables (MMUEXT_NEW_USER_BASEPTR)")
        vcpu.toggle_mode()
    if domain.vm_assist >> VMASST_TYPE_architectural_iopl & 1:
        vcpu.iopl = rflags & IOPL
        vcpu.refresh_io_rights()
    shown = rflags & ~(IOPL | VM) | IF
    regs[RSP] = rsp
    vcpu.upcall_masked = not rflags & IF
    _unmask_nmi(vcpu)
    if flags & _VGCF_IN_SYSCALL:
        regs[RCX], regs[R11] = rip, shown
        _sysret(vcpu, rip, shown & ~RF, cs & 0xFFFF | 3)
    else:
        regs[RCX], regs[R11] = rcx, r11
        core.rip = rip
        core.rflags = shown if vcpu.debug.active else shown & ~RF  # RF is for breakpoints only, and would cost the core a translation
        load_code(vcpu, cs & 0xFFFF | 3, ss & 0xFFFF | 3)
    return rax, bool(flags & _VGCF_IN_SYSCALL)


def _sysret(vcpu: Vcpu, rip: int, rflags: int, cs: int) -> None:
    core = vcpu.core
    core.rflags = rflags
    if cs == FLAT_RING3_CS32:
        core.rip = rip & 0xFFFFFFFF
        core.load_descriptor(CS, cs, FLAT_CODE32)
        core.load_descriptor(SS, FLAT_RING3_DS, FLAT_DATA32)
    else:
        core.rip = rip
        core.load_code64(FLAT_KERNEL_CS, FLAT_KERNEL_SS)


def _unmask_nmi(vcpu: Vcpu) -> None:
    """async_exception_cleanup: what waited behind the mask is delivered at once."""
    if vcpu.nmi_masked:
        vcpu.nmi_masked = False
        if vcpu.nmi_pending:
            vcpu.domain.rotation.fresh = True
            vcpu.core.stop()
