"""Descriptor tables, stacks, segment bases, debug registers, the FPU's lazy switch (pv/descriptor-tables.c, misc-hypercalls.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from emulator.abi import xen
from emulator.abi.errno import EINVAL, ENODEV
from emulator.cpu.core import FS, GS, MASK64
from emulator.hypervisor.emulation.msrs import canonical
from emulator.hypervisor.memory.descriptors import check_descriptor
from emulator.hypervisor.memory.frames import SEG_DESC, WRITABLE
from emulator.hypervisor.refusal import Refusal
from emulator.hypervisor.selectors import check_selector, load_gs_user

if TYPE_CHECKING:
    from emulator.hypervisor.vcpu import Vcpu


def set_gdt(vcpu: Vcpu, frames_at: int, entries: int, *_: int) -> int:
    """`entries` descriptors in as many validated frames as that takes."""
    domain = vcpu.domain
    entries &= xen.MASK32
    if entries > xen.RESERVED_GDT_ENTRY:
        raise Refusal(EINVAL, f"a GDT of {entries} entries, {xen.RESERVED_GDT_ENTRY} at most")
    count = -(-entries // 512)
    frames = tuple(domain.guest.read_u64(frames_at + 8 * index) for index in range(count))
    taken: list[int] = []
    try:
        for mfn in frames:
            domain.tables.get_type(mfn, SEG_DESC)
            taken.append(mfn)
    except Refusal:
        for mfn in taken:
            domain.tables.put_type(mfn)
        raise
    for mfn in vcpu.gdt_frames:
        domain.tables.put_type(mfn)
    vcpu.set_gdt(frames, entries)
    return 0


def update_descriptor(vcpu: Vcpu, address: int, descriptor: int, *_: int) -> int:
    """One 8-byte descriptor at a machine address, in a descriptor page or a page of plain memory."""
    domain = vcpu.domain
    mfn = address >> 12
    if address & 7:
        raise Refusal(EINVAL, f"descriptor address {address:#x} is not 8-byte aligned")
    checked = check_descriptor(descriptor)
    in_use = mfn < domain.frames.frames and domain.frames.count[mfn] and domain.frames.type[mfn] == SEG_DESC
    kind = SEG_DESC if in_use else WRITABLE
    domain.tables.get_type(mfn, kind)
    domain.memory.words[address >> 3] = checked
    if domain.frames.executable[mfn]:
        domain.core.forget_frame(mfn)
    domain.tables.put_type(mfn)
    for other in domain.vcpus:
        other.forget_taught()
    return 0


def stack_switch(vcpu: Vcpu, ss: int, sp: int, *_: int) -> int:
    vcpu.kernel_ss = check_selector(ss & 0xFFFF)
    vcpu.kernel_sp = sp
    return 0


def set_segment_base(vcpu: Vcpu, which: int, base: int, *_: int) -> int:
    which &= xen.MASK32
    if which != xen.SEGBASE_GS_USER_SEL and not canonical(base):
        raise Refusal(EINVAL, f"segment base {base:#x} is not canonical")
    if which == xen.SEGBASE_FS:
        vcpu.core.set_segment_base(FS, base)
    elif which == xen.SEGBASE_GS_USER:
        vcpu.gs_base_other = base
    elif which == xen.SEGBASE_GS_KERNEL:
        vcpu.core.set_segment_base(GS, base)
    elif which == xen.SEGBASE_GS_USER_SEL:
        load_gs_user(vcpu, base & 0xFFFF)
    else:
        raise Refusal(EINVAL, f"segment base {which} does not exist")
    return 0


def set_debugreg(vcpu: Vcpu, number: int, value: int, *_: int) -> int:
    result = vcpu.debug.write(number & xen.MASK32, value, cr4=vcpu.cr4)
    if result:
        raise Refusal(-result, f"DR{number} = {value:#x}")
    vcpu.domain.arm_breakpoints(vcpu)
    return 0


def get_debugreg(vcpu: Vcpu, number: int, *_: int) -> int:
    value = vcpu.debug.read(number & xen.MASK32, cr4=vcpu.cr4)
    if value is None:
        raise Refusal(ENODEV, f"DR{number} does not exist")
    return value if value < 1 << 63 else value - (MASK64 + 1)


def fpu_taskswitch(vcpu: Vcpu, value: int, *_: int) -> int:
    vcpu.core.task_switched = bool(value & xen.MASK32)
    return 0


HYPERCALLS: Final = {"set_gdt": set_gdt, "update_descriptor": update_descriptor, "stack_switch": stack_switch,
                     "set_segment_base": set_segment_base, "set_debugreg": set_debugreg, "get_debugreg": get_debugreg,
                     "fpu_taskswitch": fpu_taskswitch}  # fmt: skip
