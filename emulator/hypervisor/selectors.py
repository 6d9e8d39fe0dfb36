"""Segment registers from selectors, as the processor checks them: for the way back to a guest, a vCPU's first context, SEGBASE_GS_USER_SEL.

What IRETQ refuses is the guest's own fault, at the place it was to go to (.Lft0 in xen/arch/x86/x86_64/entry.S; SDM 2A, IRET); what a data
segment's load refuses becomes null (load_segments, xen/arch/x86/domain.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from emulator.abi.errno import EINVAL
from emulator.abi.xen import FLAT_KERNEL_CS, FLAT_KERNEL_SS, RESERVED_GDT_ENTRY, TRAP_GP, TRAP_NP, TRAP_PF, TRAP_SS
from emulator.cpu.core import CS, GS, MASK64, SS
from emulator.hypervisor.ldt import map_ldt_page
from emulator.hypervisor.refusal import Refusal

if TYPE_CHECKING:
    from emulator.hypervisor.vcpu import Vcpu

_ACCESSED, _WRITABLE, _CONFORMING, _CODE, _SEGMENT = 1 << 40, 1 << 41, 1 << 42, 1 << 43, 1 << 44
_DPL3, _PRESENT, _LONG, _DEFAULT_BIG = 3 << 45, 1 << 47, 1 << 53, 1 << 54
_SELECTED: Final = 0xFFFC


class _Fault(Exception):
    """What a load raises; `cr2` for a #PF."""

    def __init__(self, vector: int, error_code: int, cr2: int = 0) -> None:
        super().__init__(f"vector {vector}, error code {error_code:#x}")
        self.vector, self.error_code, self.cr2 = vector, error_code, cr2


def check_selector(selector: int) -> int:
    """fixup_guest_stack_selector: the RPL is 3 whatever the guest says. Raises Refusal."""
    if selector > 0xFFFF:
        raise Refusal(EINVAL, f"selector {selector:#x} is wider than 16 bits")
    return selector | 3


def _descriptor(vcpu: Vcpu, selector: int) -> int:
    """The descriptor a selector names, 0 when it names none. The GDT is as long as Xen's own page at its end reaches; what the guest has of
    it counts whole frames. A page of the LDT is mapped at its first use."""
    index = selector >> 3
    words = vcpu.domain.memory.words
    if selector & 4:
        if index >= vcpu.ldt_entries:
            return 0
        page = index >> 9
        if page not in vcpu.ldt_frames and not map_ldt_page(vcpu, page):
            raise _Fault(TRAP_PF, 0, vcpu.ldt_base + index * 8 & MASK64)
        return words[vcpu.ldt_frames[page] << 9 | index & 511]
    if index >= RESERVED_GDT_ENTRY:
        return words[(vcpu.domain.layout.gdt_mfn << 9) + (index & 511)] if index < RESERVED_GDT_ENTRY + 512 else 0
    frames = vcpu.gdt_frames
    return words[frames[index >> 9] << 9 | index & 511] if index >> 9 < len(frames) else 0


def _code(vcpu: Vcpu, selector: int) -> int:
    named = selector & _SELECTED
    if not named:
        raise _Fault(TRAP_GP, 0)
    found = _descriptor(vcpu, selector)
    if not found & _SEGMENT or not found & _CODE or (not found & _CONFORMING and found & _DPL3 != _DPL3):
        raise _Fault(TRAP_GP, named)
    if found & _LONG and found & _DEFAULT_BIG:
        raise _Fault(TRAP_GP, named)
    if not found & _PRESENT:
        raise _Fault(TRAP_NP, named)
    return found | _ACCESSED


def _stack(vcpu: Vcpu, selector: int) -> int:
    named = selector & _SELECTED
    if not named:
        raise _Fault(TRAP_GP, 0)  # null is for the more privileged levels of 64-bit code
    found = _descriptor(vcpu, selector)
    if not found & _SEGMENT or found & _CODE or not found & _WRITABLE or found & _DPL3 != _DPL3:
        raise _Fault(TRAP_GP, named)
    if not found & _PRESENT:
        raise _Fault(TRAP_SS, named)
    return found | _ACCESSED


def load_code(vcpu: Vcpu, cs: int, ss: int) -> None:
    """CS and SS, of RPL 3, on the way back to the guest at RIP, whose fault it is when they cannot be loaded. Raises DomainCrash."""
    core = vcpu.core
    if cs == FLAT_KERNEL_CS and ss == FLAT_KERNEL_SS:
        core.load_code64(cs, ss)
        if not vcpu.kernel_mode:
            vcpu.teach_user_segments(cs, ss)
        return
    try:
        code, stack = _code(vcpu, cs), _stack(vcpu, ss)
    except _Fault as fault:
        core.load_code64(cs, ss)
        vcpu.inject(fault.vector, fault.error_code, fault.cr2, by_processor=False)
        return
    core.load_descriptor(CS, cs, code)
    core.load_descriptor(SS, ss, stack)
    if code & _LONG:
        vcpu.teach_user_segments(cs, ss)


def _data(vcpu: Vcpu, selector: int) -> tuple[int, int]:
    """(selector, descriptor) of ES, DS, FS or GS, 0 for both where nothing can be loaded."""
    if selector <= 3:
        return 0, 0
    try:
        found = _descriptor(vcpu, selector)
    except _Fault:
        return 0, 0
    readable = found & _SEGMENT and (not found & _CODE or found & _WRITABLE)  # the same bit makes code readable
    return (selector | 3, found) if readable and found & _PRESENT else (0, 0)


def load_data(vcpu: Vcpu, number: int, selector: int) -> bool:
    """ES, DS, FS or GS; whether it could be loaded (null can)."""
    loaded, found = _data(vcpu, selector)
    if loaded:
        vcpu.core.load_descriptor(number, loaded, found)
    else:
        vcpu.core.clear_segment(number)
    return bool(loaded) or selector <= 3


def load_gs_user(vcpu: Vcpu, selector: int) -> None:
    """SEGBASE_GS_USER_SEL: the user's GS from a descriptor; a bad selector loads null."""
    core = vcpu.core
    current = core.segment(GS)[1]
    loaded, found = _data(vcpu, selector)
    load_data(vcpu, GS, loaded)
    core.set_segment_base(GS, current)
    vcpu.gs_base_other = found >> 16 & 0xFFFFFF | found >> 32 & 0xFF000000
