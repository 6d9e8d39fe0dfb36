"""struct vcpu_guest_context: the first state of a vCPU as VCPUOP_initialise hands it over (arch_set_info_guest, xen/arch/x86/domain.c)."""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import TYPE_CHECKING, Final

from emulator.abi import xen
from emulator.abi.errno import EINVAL
from emulator.cpu import fpu
from emulator.cpu.core import CS, DS, ES, FS, GDT, GS, IF, IOPL, LDT, MASK64, RSP, SS, VM
from emulator.hypervisor.emulation.control import CR0_TS, CR4_TSD, fix_cr4
from emulator.hypervisor.emulation.msrs import canonical
from emulator.hypervisor.memory.frames import L4, SEG_DESC
from emulator.hypervisor.refusal import Refusal, Restart
from emulator.hypervisor.selectors import check_selector, load_code, load_data
from emulator.hypervisor.vcpu import Callback, TrapEntry

if TYPE_CHECKING:
    from emulator.hypervisor.vcpu import Vcpu

# struct cpu_user_regs: r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi, error code, vector, rip, cs, mask, rflags, rsp, ss es ds fs gs
_USER_REGS: Final = Struct("<15QIIQHxxB3xQQH6xH6xH6xH6xH6x")
_REGISTER_ORDER: Final = (15, 14, 13, 12, 5, 3, 11, 10, 9, 8, 0, 1, 2, 6, 7)  # in x86 encoding
_TRAP_INFO: Final = Struct("<BBHxxxxQ")
_TAIL: Final = Struct("<2Q16QQ2Q8Q8Q3QQ3Q")  # ldt gdt kernel stack, control and debug registers, callbacks, vm_assist, segment bases
_FPU_BYTES: Final = fpu.FXSAVE_BYTES
_CR0: Final = 0x80050033
_REGS_AT: Final = _FPU_BYTES + 8
_TRAPS_AT: Final = _REGS_AT + _USER_REGS.size
_TAIL_AT: Final = _TRAPS_AT + 256 * _TRAP_INFO.size
CONTEXT_BYTES: Final = _TAIL_AT + _TAIL.size

VGCF_I387_VALID, VGCF_IN_KERNEL, VGCF_FAILSAFE_MASKS, VGCF_SYSCALL_MASKS, VGCF_ONLINE = 1, 4, 8, 16, 32


@dataclass(frozen=True, slots=True)
class GuestContext:
    """What is loaded into the core when the vCPU has its first turn; the rest is in the vCPU from the start."""

    registers: tuple[int, ...]
    rip: int
    rflags: int
    cs: int
    ss: int
    data: tuple[int, int, int, int]  # es ds fs gs
    fs_base: int
    gs_base: int
    task_switched: bool
    fpu: bytes = b""  # an FXSAVE image, empty: as after a reset

    def enter(self, vcpu: Vcpu) -> None:
        """The core holds a blank state: make it this one."""
        core, layout = vcpu.core, vcpu.domain.layout
        core.set_table(GDT, layout.gdt_address(vcpu.number), (xen.RESERVED_GDT_PAGE + 1 << 12) - 1)
        if vcpu.ldt_entries:
            core.set_table(LDT, layout.gdt_address(vcpu.number) + (xen.GDT_PAGES << 12), vcpu.ldt_entries * 8 - 1)
        for number, value in zip(_REGISTER_ORDER, self.registers[:15], strict=True):
            core.regs[number] = value
        core.regs[RSP] = self.registers[15]
        core.rip, core.rflags = self.rip, self.rflags
        core.cr3 = (vcpu.cr3_kernel if vcpu.kernel_mode else vcpu.cr3_user) << 12
        es, ds, fs, gs = self.data
        loaded = [load_data(vcpu, number, selector) for number, selector in ((ES, es), (DS, ds), (FS, fs), (GS, gs))]
        core.set_segment_base(FS, self.fs_base)
        core.set_segment_base(GS, self.gs_base)
        if self.fpu:
            fpu.load(core, self.fpu)
        core.task_switched = self.task_switched
        core.forbid_tsc(bool(vcpu.cr4 & CR4_TSD))
        if all(loaded):
            load_code(vcpu, self.cs, self.ss)
        else:
            core.load_code64(self.cs, self.ss)
            failsafe = vcpu.handlers.failsafe
            vcpu.bounce(failsafe.address, failsafe.masks, "failsafe callback", failsafe=(ds, es, fs, gs))


def set_info(vcpu: Vcpu, data: bytes) -> None:
    """Check and take over a context for a vCPU that has none. Raises Refusal and leaves everything as it was."""
    (flags,) = Struct("<Q").unpack_from(data, _FPU_BYTES)
    (*general, _error, _vector, rip, cs, _mask, rflags, rsp, ss, es, ds, fs, gs) = _USER_REGS.unpack_from(data, _REGS_AT)
    (ldt_base, ldt_entries, *rest) = _TAIL.unpack_from(data, _TAIL_AT)
    gdt_frames, gdt_entries, kernel_ss, kernel_sp, control = rest[:16], rest[16], rest[17], rest[18], rest[19:27]
    debug, event, failsafe, syscall = rest[27:35], rest[35], rest[36], rest[37]
    _assist, fs_base, gs_kernel, gs_user = rest[38:42]
    traps = [_TRAP_INFO.unpack_from(data, _TRAPS_AT + 16 * index) for index in range(256)]

    for what, address in (("rip", rip), ("rsp", rsp), ("kernel_sp", kernel_sp), ("ldt_base", ldt_base if ldt_entries else 0), ("fs_base", fs_base),
                          ("gs_base_kernel", gs_kernel), ("gs_base_user", gs_user), ("event callback", event), ("syscall callback", syscall),
                          ("failsafe callback", failsafe), *((f"trap {t[0]}", t[3]) for t in traps)):  # fmt: skip
        if not canonical(address):
            raise Refusal(EINVAL, f"{what} {address:#x} is not canonical")
    if ldt_base & 0xFFF or ldt_entries > 8192 or xen.HYPERVISOR_VIRT_START <= ldt_base < xen.HYPERVISOR_VIRT_END:
        raise Refusal(EINVAL, f"an LDT of {ldt_entries} entries at {ldt_base:#x}")
    if gdt_entries > xen.RESERVED_GDT_ENTRY:
        raise Refusal(EINVAL, f"a GDT of {gdt_entries} entries, {xen.RESERVED_GDT_ENTRY} at most")
    in_kernel = bool(flags & VGCF_IN_KERNEL)
    if not in_kernel and not control[1]:
        raise Refusal(EINVAL, "a start in user mode without user page tables")
    frames = tuple(gdt_frames[: -(-gdt_entries // 512)])
    _take_frames(vcpu, frames, control[3] >> 12, control[1] >> 12)

    vcpu.set_gdt(frames, gdt_entries)
    vcpu.ldt_base, vcpu.ldt_entries = ldt_base, ldt_entries
    vcpu.kernel_mode = in_kernel
    vcpu.kernel_ss, vcpu.kernel_sp = check_selector(kernel_ss & 0xFFFF), kernel_sp
    vcpu.iopl, vcpu.cr4 = rflags & IOPL, fix_cr4(control[4])
    vcpu.gs_base_other = gs_user if in_kernel else gs_kernel
    handlers = vcpu.handlers
    handlers.traps.clear()
    for index, (_vector, trap_flags, trap_cs, address) in enumerate(traps):
        if address:
            handlers.traps[index] = TrapEntry(trap_flags & 3, bool(trap_flags & 4), trap_cs | 3, address)
    handlers.event = Callback(event, True)
    handlers.failsafe = Callback(failsafe, bool(flags & VGCF_FAILSAFE_MASKS))
    handlers.syscall = Callback(syscall, bool(flags & VGCF_SYSCALL_MASKS))
    for number in (0, 1, 2, 3, 6, 7):
        vcpu.debug.write(number, debug[number], cr4=vcpu.cr4)
    vcpu.context = GuestContext((*general, rsp), rip, rflags & ~(IOPL | VM) & MASK64 | IF, cs | 3, ss | 3, (es, ds, fs, gs),
                                fs_base, gs_kernel if in_kernel else gs_user, bool(control[0] & CR0_TS),
                                data[:_FPU_BYTES] if flags & VGCF_I387_VALID else b"")  # fmt: skip
    vcpu.initialised = True
    vcpu.up = bool(flags & VGCF_ONLINE)


def get_info(vcpu: Vcpu) -> bytes:
    """arch_get_info_guest: the context of a vCPU as a question between two slices, or on a domain that nobody holds."""
    domain, core = vcpu.domain, vcpu.core
    data = bytearray(CONTEXT_BYTES)
    flags = (VGCF_ONLINE if vcpu.up else 0) | (VGCF_IN_KERNEL if vcpu.kernel_mode else 0)
    waiting, cr0 = vcpu.context, _CR0
    rest: tuple[int, ...]
    if waiting is not None:  # it had no turn yet
        general, rest = waiting.registers[:15], (waiting.rip, waiting.cs, waiting.rflags, waiting.registers[15], waiting.ss, *waiting.data)
        fs_base, gs_base, cr0 = waiting.fs_base, waiting.gs_base, _CR0 | (CR0_TS if waiting.task_switched else 0)
        data[: len(waiting.fpu)] = waiting.fpu
        flags |= VGCF_I387_VALID if waiting.fpu else 0
    else:
        with domain.rotation.borrowed(vcpu):
            general = tuple(core.regs[number] for number in _REGISTER_ORDER)
            selectors = [core.segment(number)[0] for number in (ES, DS, FS, GS)]
            rest = (core.rip, core.segment(CS)[0], core.rflags, core.regs[RSP], core.segment(SS)[0], *selectors)
            fs_base, gs_base, cr0 = core.segment(FS)[1], core.segment(GS)[1], _CR0 | (CR0_TS if core.task_switched else 0)
            data[:_FPU_BYTES] = fpu.save(core)
        flags |= VGCF_I387_VALID
    rip, cs, rflags, rsp, ss, es, ds, fs, gs = rest
    Struct("<Q").pack_into(data, _FPU_BYTES, flags)
    _USER_REGS.pack_into(data, _REGS_AT, *general, 0, 0, rip, cs, vcpu.upcall_masked if vcpu.info else 1, rflags | vcpu.iopl, rsp, ss, es, ds, fs, gs)
    for index, trap in vcpu.handlers.traps.items():
        _TRAP_INFO.pack_into(data, _TRAPS_AT + 16 * index, index, trap.dpl | 4 * trap.masks, trap.cs, trap.address)
    frames = (*vcpu.gdt_frames, *([0] * 16))[:16]
    cr2 = domain.memory.words[(vcpu.info + xen.VI_CR2) >> 3] if vcpu.info else 0
    control = (cr0, vcpu.cr3_user << 12, cr2, vcpu.cr3_kernel << 12, fix_cr4(vcpu.cr4), 0, 0, 0)
    debug = tuple(vcpu.debug.read(number, cr4=0) or 0 if number not in (4, 5) else 0 for number in range(8))
    kernel_gs, user_gs = (gs_base, vcpu.gs_base_other) if vcpu.kernel_mode else (vcpu.gs_base_other, gs_base)
    handlers = vcpu.handlers
    _TAIL.pack_into(data, _TAIL_AT, vcpu.ldt_base if vcpu.ldt_entries else 0, vcpu.ldt_entries, *frames, vcpu.gdt_entries, vcpu.kernel_ss,
                    vcpu.kernel_sp, *control, *debug, handlers.event.address, handlers.failsafe.address, handlers.syscall.address,
                    domain.vm_assist, fs_base, kernel_gs, user_gs)  # fmt: skip
    return bytes(data)


def _take_frames(vcpu: Vcpu, gdt: tuple[int, ...], kernel: int, user: int) -> None:
    """References on the descriptor frames and the two top tables, all of them or none. Raises Refusal, or Restart to be called again."""
    tables = vcpu.domain.tables
    tables.finish()
    taken: list[int] = []
    try:
        for mfn, kind in (*((mfn, SEG_DESC) for mfn in gdt), (kernel, L4), *(((user, L4),) if user else ())):
            tables.get_type(mfn, kind)
            taken.append(mfn)
    except (Refusal, Restart):
        for mfn in taken:
            tables.drop(mfn)
        raise
    tables.becomes_kernels(kernel)
    if user:
        tables.becomes_users(user)
    vcpu.cr3_kernel, vcpu.cr3_user = kernel, user
