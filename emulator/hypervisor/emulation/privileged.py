"""Privileged instructions of a PV guest, by decoding: what Xen 4.17's `arch/x86/pv/emul-priv-op.c` carries out after a #GP(0).

Carried out: CLI and STI (without effect) under virtual IOPL; IN, OUT, INS, OUTS under virtual IOPL or the I/O bitmap; MOV to and
from CR and DR, CLTS, WBINVD (ignored), RDMSR, WRMSR, XSETBV in guest kernel mode; RDTSC, RDTSCP and CPUID anywhere. The guest
has no hardware: ports read all ones and writes are lost (Xen would keep a PCI configuration address for it).

Everything else stays a #GP, as on Xen: HLT, INVD, INVLPG, LMSW, LGDT, LIDT, LLDT, LTR, SWAPGS, SYSRET, MWAIT and an IRET to a
more privileged selector. IRET to ring 3 and SMSW, SGDT, SIDT need no privilege and are executed by the core.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from emulator.hypervisor.emulation.control import CR0_TS, CR4_DE, CR4_OSXSAVE, CR4_TSD, cr0_acceptable, fix_cr4
from emulator.hypervisor.emulation.decoding import (
    Immediate,
    Instruction,
    Memory,
    Other,
    Register,
    Registers,
    set_register,
)
from emulator.hypervisor.emulation.msrs import MISC_FEATURES_CPUID_FAULTING, MSR_IA32_TSC, MSR_MISC_FEATURES_ENABLES, MSR_TSC_AUX
from emulator.hypervisor.emulation.state import (
    DF,
    FAULT_GP,
    FAULT_UD,
    MASK64,
    RAX,
    RBX,
    RCX,
    RDI,
    RDX,
    RSI,
    TF,
    UNHANDLED,
    EmulationState,
    GuestPageFault,
    Outcome,
    page_fault,
    retire,
)

PrivilegedHandler = Callable[[EmulationState], Outcome]

_LOW: Final = 0xFFFFFFFF
_CONTROL_REGISTERS: Final = frozenset({0, 2, 3, 4, 8})
_MAX_REPEAT: Final = 4096  # iterations of INS or OUTS before the vCPU can be preempted


def iopl_ok(state: EmulationState) -> bool:
    """Whether virtual IOPL allows what IOPL governs: a guest kernel is CPL 1 for it (0 if it asked for that), its user CPL 3."""
    level = (0 if state.architectural_iopl else 0x1000) if state.in_kernel else 0x3000
    return level <= state.iopl


def _io_ok(state: EmulationState, port: int, size: int) -> bool:
    return iopl_ok(state) or state.io_permitted(port, size)


def refuse(_state: EmulationState) -> Outcome:
    """The handler of everything that Xen does not emulate."""
    return UNHANDLED


def compile_privileged(instruction: Instruction) -> PrivilegedHandler:
    """The handler for one instruction."""
    if instruction.lock:
        return refuse
    maker = _MAKERS.get(instruction.name)
    return refuse if maker is None else maker(instruction)


def _cli_sti(instruction: Instruction) -> PrivilegedHandler:
    length = instruction.length

    def run(state: EmulationState) -> Outcome:
        # The event mask is not touched: a POPF that is meant to open it again could not be seen.
        return retire(state, (state.rip + length) & MASK64) if iopl_ok(state) else UNHANDLED

    return run


def _port(operand: object) -> Callable[[Registers], int]:
    if isinstance(operand, Immediate):
        value = operand.value & 0xFF
        return lambda regs: value
    return lambda regs: regs[RDX] & 0xFFFF


def _in(instruction: Instruction) -> PrivilegedHandler:
    target, length = instruction.operands[0], instruction.length
    if not isinstance(target, Register):
        return refuse
    port, size = _port(instruction.operands[1]), target.size

    def run(state: EmulationState) -> Outcome:
        regs = state.regs
        if not _io_ok(state, port(regs), size):
            return UNHANDLED
        set_register(regs, target, (1 << 8 * size) - 1)
        return retire(state, (state.rip + length) & MASK64)

    return run


def _out(instruction: Instruction) -> PrivilegedHandler:
    source, length = instruction.operands[1], instruction.length
    if not isinstance(source, Register):
        return refuse
    port, size = _port(instruction.operands[0]), source.size

    def run(state: EmulationState) -> Outcome:
        if not _io_ok(state, port(state.regs), size):
            return UNHANDLED
        return retire(state, (state.rip + length) & MASK64)

    return run


def _ins(instruction: Instruction) -> PrivilegedHandler:
    return _string(instruction, RDI, "es", writes=True)


def _outs(instruction: Instruction) -> PrivilegedHandler:
    memory = next((operand for operand in instruction.operands if isinstance(operand, Memory)), None)
    return _string(instruction, RSI, memory.segment if memory is not None and memory.segment else "ds", writes=False)


def _string(instruction: Instruction, pointer: int, segment: str, *, writes: bool) -> PrivilegedHandler:
    memory = next((operand for operand in instruction.operands if isinstance(operand, Memory)), None)
    if memory is None:
        return refuse
    size, length, repeat, mask = memory.size, instruction.length, instruction.repeat, (1 << instruction.address_bits) - 1

    def run(state: EmulationState) -> Outcome:
        regs, following, flags = state.regs, (state.rip + length) & MASK64, state.rflags
        if not _io_ok(state, regs[RDX] & 0xFFFF, size):
            return UNHANDLED
        count = regs[RCX] & mask if repeat else 1
        if not count:
            if mask != MASK64:
                regs[RCX], regs[pointer] = 0, regs[pointer] & mask
            return retire(state, following)
        base = 0 if state.code_size == 64 and segment not in ("fs", "gs") else state.segment_base(segment)
        step = -size if flags & DF else size
        fault: Outcome | None = None
        done = 0
        for _ in range(1 if flags & TF else min(count, _MAX_REPEAT)):
            address = (base + (regs[pointer] & mask)) & (MASK64 if state.code_size == 64 else _LOW)
            try:
                if writes:
                    state.write(address, b"\xff" * size)
                else:
                    state.read(address, size)
            except GuestPageFault as error:
                fault = page_fault(error.va, error.error_code)
                break
            regs[pointer] = (regs[pointer] + step) & mask
            done += 1
        if repeat:
            regs[RCX] = (count - done) & mask
        if fault is not None:
            return fault
        return retire(state, state.rip if repeat and count > done else following)

    return run


def _mov(instruction: Instruction) -> PrivilegedHandler:
    target, source = instruction.operands
    if isinstance(source, Other) and isinstance(target, Register):
        return _read_control(source.name, target, instruction.length)
    if isinstance(target, Other) and isinstance(source, Register):
        return _write_control(target.name, source, instruction.length)
    return refuse


def _control_register(name: str) -> tuple[str, int]:
    return (name[:2], int(name[2:])) if name[:2] in ("cr", "dr") and name[2:].isdigit() else ("", 0)


def _no_such_register(_state: EmulationState) -> Outcome:
    """A processor says that before it looks at the privilege level; this core has looked already."""
    return FAULT_UD


def _read_control(name: str, target: Register, length: int) -> PrivilegedHandler:
    kind, number = _control_register(name)
    if not kind:
        return refuse
    if kind == "cr" and number not in _CONTROL_REGISTERS:
        return _no_such_register

    def run(state: EmulationState) -> Outcome:
        if not state.in_kernel:
            return UNHANDLED
        value: int | None
        if kind == "cr":
            if number not in (0, 2, 3, 4):
                return UNHANDLED
            value = state.read_cr(number)
        else:
            index = _debug_register(state, number)
            value = None if index is None else state.read_dr(index)
            if value is None:
                return FAULT_UD
        set_register(state.regs, target, value)
        return retire(state, (state.rip + length) & MASK64)

    return run


def _debug_register(state: EmulationState, number: int) -> int | None:
    """DR4 and DR5 are DR6 and DR7 unless CR4.DE says that there are none."""
    if number in (4, 5):
        return None if state.read_cr(4) & CR4_DE else number + 2
    return number if number < 8 else None


def _write_control(name: str, source: Register, length: int) -> PrivilegedHandler:
    kind, number = _control_register(name)
    if not kind:
        return refuse
    if kind == "cr" and number not in _CONTROL_REGISTERS:
        return _no_such_register
    register, mask = source.index, (1 << 8 * source.size) - 1

    def run(state: EmulationState) -> Outcome:
        if not state.in_kernel:
            return UNHANDLED
        value = state.regs[register] & mask
        if kind == "cr":
            if number == 4:
                value = fix_cr4(value)
            elif number == 0 and not cr0_acceptable(state.read_cr(0), value):
                return UNHANDLED
            if number not in (0, 2, 3, 4) or not state.write_cr(number, value):
                return UNHANDLED
        else:
            index = _debug_register(state, number)
            if index is None:
                return FAULT_UD
            if not state.write_dr(index, value):
                return FAULT_GP
        return retire(state, (state.rip + length) & MASK64)

    return run


def _clts(instruction: Instruction) -> PrivilegedHandler:
    length = instruction.length

    def run(state: EmulationState) -> Outcome:
        if not state.in_kernel or not state.write_cr(0, state.read_cr(0) & ~CR0_TS):
            return UNHANDLED
        return retire(state, (state.rip + length) & MASK64)

    return run


def _wbinvd(instruction: Instruction) -> PrivilegedHandler:
    length = instruction.length
    return lambda state: retire(state, (state.rip + length) & MASK64) if state.in_kernel else UNHANDLED


def _rdmsr(instruction: Instruction) -> PrivilegedHandler:
    length = instruction.length

    def run(state: EmulationState) -> Outcome:
        regs = state.regs
        value = state.read_msr(regs[RCX] & _LOW) if state.in_kernel else None
        if value is None:
            return UNHANDLED
        regs[RAX], regs[RDX] = value & _LOW, value >> 32
        return retire(state, (state.rip + length) & MASK64)

    return run


def _wrmsr(instruction: Instruction) -> PrivilegedHandler:
    length = instruction.length

    def run(state: EmulationState) -> Outcome:
        regs = state.regs
        value = (regs[RDX] & _LOW) << 32 | regs[RAX] & _LOW
        if not state.in_kernel or not state.write_msr(regs[RCX] & _LOW, value):
            return UNHANDLED
        return retire(state, (state.rip + length) & MASK64)

    return run


def _rdtsc(instruction: Instruction) -> PrivilegedHandler:
    length, with_aux = instruction.length, instruction.name == "rdtscp"

    def run(state: EmulationState) -> Outcome:
        if not state.in_kernel and state.read_cr(4) & CR4_TSD:
            return UNHANDLED
        aux = state.read_msr(MSR_TSC_AUX) if with_aux else 0
        counter = state.read_msr(MSR_IA32_TSC)
        if counter is None or aux is None:
            return UNHANDLED
        regs = state.regs
        regs[RAX], regs[RDX] = counter & _LOW, counter >> 32 & _LOW
        if with_aux:
            regs[RCX] = aux & _LOW
        return retire(state, (state.rip + length) & MASK64)

    return run


def _cpuid(instruction: Instruction) -> PrivilegedHandler:
    length = instruction.length

    def run(state: EmulationState) -> Outcome:
        if not state.in_kernel and (state.read_msr(MSR_MISC_FEATURES_ENABLES) or 0) & MISC_FEATURES_CPUID_FAULTING:
            return UNHANDLED
        answer_cpuid(state)
        return retire(state, (state.rip + length) & MASK64)

    return run


def answer_cpuid(state: EmulationState) -> None:
    """CPUID's effect on the registers."""
    regs = state.regs
    regs[RAX], regs[RBX], regs[RCX], regs[RDX] = state.cpuid(regs[RAX] & _LOW, regs[RCX] & _LOW)


def _xsetbv(_instruction: Instruction) -> PrivilegedHandler:
    # The CPU shows no XSAVE, so CR4.OSXSAVE never sticks and no extended control register can be written.
    return lambda state: FAULT_GP if state.read_cr(4) & CR4_OSXSAVE else FAULT_UD


_MAKERS: Final[dict[str, Callable[[Instruction], PrivilegedHandler]]] = {
    "cli": _cli_sti, "sti": _cli_sti, "in": _in, "out": _out,
    "insb": _ins, "insw": _ins, "insd": _ins, "outsb": _outs, "outsw": _outs, "outsd": _outs,
    "mov": _mov, "clts": _clts, "wbinvd": _wbinvd, "wbnoinvd": _wbinvd, "rdmsr": _rdmsr, "wrmsr": _wrmsr,
    "rdtsc": _rdtsc, "rdtscp": _rdtsc, "cpuid": _cpuid, "xsetbv": _xsetbv,
}  # fmt: skip
