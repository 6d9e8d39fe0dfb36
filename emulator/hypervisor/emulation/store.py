"""Writable page tables: a guest kernel's store to an L1 table that it maps read-only, carried out under validation.

Follows Xen 4.17's `arch/x86/pv/ro-page-fault.c` over `x86_emulate()`, its refusals included:

- only naturally aligned stores of 1, 2, 4 or 8 bytes in the page that faulted; smaller ones are merged into the whole entry
- no segment base is added (so FS- and GS-relative stores miss the page and are refused)
- nothing that needs the FPU, SSE, a descriptor or CR0: MOVAPS, FST, SGDT, MOV from a segment register; no CMPXCHG16B
- a read-modify-write that changes nothing writes nothing, and a string instruction does one iteration a fault

PUSHF, ENTER and CALL onto a page table, which Xen would carry out, are refused too: no kernel has its stack there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from emulator.hypervisor.emulation.arithmetic import condition, double_shift, operation, subtract
from emulator.hypervisor.emulation.decoding import (
    Immediate,
    Instruction,
    Memory,
    Other,
    Register,
    Registers,
    effective_address,
    reader,
    set_register,
)
from emulator.hypervisor.emulation.state import (
    ARITHMETIC,
    DF,
    MASK64,
    PAGE_MASK,
    RAX,
    RBX,
    RCX,
    RDI,
    RDX,
    RSI,
    RSP,
    UNHANDLED,
    ZF,
    EmulationState,
    Outcome,
    retire,
)

# (address of the entry, old entry, new entry, by compare and exchange) -> whether it was accepted
WriteEntry = Callable[[int, int, int, bool], bool]
StoreHandler = Callable[[EmulationState, int, WriteEntry], Outcome]

_LOCKABLE: Final = frozenset({
    "add", "adc", "and", "btc", "btr", "bts", "cmpxchg", "cmpxchg8b", "dec", "inc", "neg", "not", "or", "sbb", "sub", "xor",
    "xadd", "xchg",
})  # fmt: skip
_CONDITIONS: Final = {
    f"set{name}": code
    for code, name in enumerate(("o", "no", "b", "ae", "e", "ne", "be", "a", "s", "ns", "p", "np", "l", "ge", "le", "g"))
}


def refuse(_state: EmulationState, _fault_va: int, _write: WriteEntry) -> Outcome:
    """The handler of everything that Xen does not emulate here."""
    return UNHANDLED


def compile_store(instruction: Instruction) -> StoreHandler:
    """The handler for one instruction (64-bit code)."""
    name = instruction.name
    if instruction.lock and name not in _LOCKABLE:
        return refuse
    if instruction.opcode[0] in (0xAA, 0xAB):
        return _stos(instruction)
    if instruction.opcode[0] in (0xA4, 0xA5):
        return _movs(instruction)
    if name == "push":
        return _push(instruction)
    operands = instruction.operands
    if not operands or not isinstance(operands[0], Memory) or operands[0].size > 8:
        return refuse
    target = operands[0]
    if name in ("mov", "movabs", "movnti"):
        return _mov(instruction, target)
    if name == "pop":
        return _pop(instruction, target)
    if name in _CONDITIONS:
        return _setcc(instruction, target)
    if name in ("xchg", "xadd", "cmpxchg"):
        return {"xchg": _xchg, "xadd": _xadd, "cmpxchg": _cmpxchg}[name](instruction, target)
    if name == "cmpxchg8b":
        return _cmpxchg8b(instruction, target)
    if name in ("bts", "btr", "btc"):
        return _bit(instruction, target)
    if name in ("shld", "shrd"):
        return _double_shift(instruction, target)
    return _arithmetic(instruction, target)


def _put(state: EmulationState, fault_va: int, write: WriteEntry, address: int, size: int, value: int, locked: bool) -> bool:
    """Xen's ptwr_emulated_update(): the store as a change of one whole entry."""
    if (address ^ fault_va) & PAGE_MASK or address & (size - 1):
        return False
    entry = address & ~7
    old = int.from_bytes(state.read(entry, 8), "little")
    if size != 8:
        shift = (address & 7) * 8
        mask = ((1 << 8 * size) - 1) << shift
        value = old & ~mask | value << shift & mask
    return write(entry, old, value, locked)


def _get(state: EmulationState, address: int, size: int) -> int:
    return int.from_bytes(state.read(address, size), "little")


def _mov(instruction: Instruction, target: Memory) -> StoreHandler:
    operand = instruction.operands[1]
    if not isinstance(operand, Register | Immediate):
        return refuse
    locate, source = effective_address(target, instruction.address_bits), reader(operand)
    size, length = target.size, instruction.length

    def run(state: EmulationState, fault_va: int, write: WriteEntry) -> Outcome:
        regs, following = state.regs, (state.rip + length) & MASK64
        if not _put(state, fault_va, write, locate(regs, following), size, source(regs), False):
            return UNHANDLED
        return retire(state, following)

    return run


def _setcc(instruction: Instruction, target: Memory) -> StoreHandler:
    locate, code, length = effective_address(target, instruction.address_bits), _CONDITIONS[instruction.name], instruction.length

    def run(state: EmulationState, fault_va: int, write: WriteEntry) -> Outcome:
        following = (state.rip + length) & MASK64
        value = int(condition(code, state.rflags))
        if not _put(state, fault_va, write, locate(state.regs, following), 1, value, False):
            return UNHANDLED
        return retire(state, following)

    return run


def _push(instruction: Instruction) -> StoreHandler:
    operand, length = instruction.operands[0], instruction.length
    if isinstance(operand, Other):
        return refuse
    size = 8 if isinstance(operand, Immediate) and instruction.opcode[0] in (0x68, 0x6A) else getattr(operand, "size", 8)
    memory = effective_address(operand, instruction.address_bits) if isinstance(operand, Memory) else None
    source = None if isinstance(operand, Memory) else reader(operand)

    def run(state: EmulationState, fault_va: int, write: WriteEntry) -> Outcome:
        regs, following = state.regs, (state.rip + length) & MASK64
        value = source(regs) if source is not None else _get(state, memory(regs, following), size) if memory is not None else 0
        stack = (regs[RSP] - size) & MASK64
        if not _put(state, fault_va, write, stack, size, value, False):
            return UNHANDLED
        regs[RSP] = stack
        return retire(state, following)

    return run


def _pop(instruction: Instruction, target: Memory) -> StoreHandler:
    locate, size, length = effective_address(target, instruction.address_bits), target.size, instruction.length
    moved = size if target.base == RSP else 0  # the address counts from the popped stack pointer

    def run(state: EmulationState, fault_va: int, write: WriteEntry) -> Outcome:
        regs, following = state.regs, (state.rip + length) & MASK64
        value = _get(state, regs[RSP], size)
        if not _put(state, fault_va, write, (locate(regs, following) + moved) & MASK64, size, value, False):
            return UNHANDLED
        regs[RSP] = (regs[RSP] + size) & MASK64
        return retire(state, following)

    return run


def _arithmetic(instruction: Instruction, target: Memory) -> StoreHandler:
    size, length, locked = target.size, instruction.length, instruction.lock
    operate = operation(instruction.name, 8 * size)
    # D0 and D1 shift by one: Capstone leaves the count out, or says 0 for RCL
    operand = Immediate(1) if len(instruction.operands) < 2 or instruction.opcode[0] in (0xD0, 0xD1) else instruction.operands[1]
    if operate is None or not isinstance(operand, Register | Immediate):
        return refuse
    locate, source = effective_address(target, instruction.address_bits), reader(operand)

    def run(state: EmulationState, fault_va: int, write: WriteEntry) -> Outcome:
        regs, following = state.regs, (state.rip + length) & MASK64
        address = locate(regs, following)
        old = _get(state, address, size)
        new, flags = operate(old, source(regs), state.rflags)
        if new != old and not _put(state, fault_va, write, address, size, new, locked):
            return UNHANDLED
        return retire(state, following, flags)

    return run


def _bit(instruction: Instruction, target: Memory) -> StoreHandler:
    size, length, locked = target.size, instruction.length, instruction.lock
    bits, operand = 8 * size, instruction.operands[1]
    operate = operation(instruction.name, bits)
    if operate is None or not isinstance(operand, Register | Immediate):
        return refuse
    locate, source = effective_address(target, instruction.address_bits), reader(operand)
    by_register, sign = isinstance(operand, Register), 1 << (bits - 1)

    def run(state: EmulationState, fault_va: int, write: WriteEntry) -> Outcome:
        regs, following = state.regs, (state.rip + length) & MASK64
        address, offset = locate(regs, following), source(regs)
        if by_register:  # a signed offset reaches beyond the operand, in steps of its size; an immediate one does not
            offset = (offset ^ sign) - sign
            address = (address + offset // bits * size) & MASK64
        old = _get(state, address, size)
        new, flags = operate(old, offset % bits, state.rflags)
        if new != old and not _put(state, fault_va, write, address, size, new, locked):
            return UNHANDLED
        return retire(state, following, flags)

    return run


def _double_shift(instruction: Instruction, target: Memory) -> StoreHandler:
    size, length = target.size, instruction.length
    register, count = instruction.operands[1:3]
    if not isinstance(register, Register) or not isinstance(count, Register | Immediate):
        return refuse
    operate = double_shift(instruction.name, 8 * size)
    locate, source, amount = effective_address(target, instruction.address_bits), reader(register), reader(count)

    def run(state: EmulationState, fault_va: int, write: WriteEntry) -> Outcome:
        regs, following = state.regs, (state.rip + length) & MASK64
        address = locate(regs, following)
        old = _get(state, address, size)
        new, flags = operate(old, source(regs), amount(regs), state.rflags)
        if new != old and not _put(state, fault_va, write, address, size, new, False):
            return UNHANDLED
        return retire(state, following, flags)

    return run


def _xchg(instruction: Instruction, target: Memory) -> StoreHandler:
    register, size, length = instruction.operands[1], target.size, instruction.length
    if not isinstance(register, Register):
        return refuse
    locate, source = effective_address(target, instruction.address_bits), reader(register)

    def run(state: EmulationState, fault_va: int, write: WriteEntry) -> Outcome:
        regs, following = state.regs, (state.rip + length) & MASK64
        address = locate(regs, following)
        old, new = _get(state, address, size), source(regs)
        if new != old and not _put(state, fault_va, write, address, size, new, True):
            return UNHANDLED
        set_register(regs, register, old)
        return retire(state, following)

    return run


def _xadd(instruction: Instruction, target: Memory) -> StoreHandler:
    register, size, length, locked = instruction.operands[1], target.size, instruction.length, instruction.lock
    operate = operation("add", 8 * size)
    if not isinstance(register, Register) or operate is None:
        return refuse
    locate, source = effective_address(target, instruction.address_bits), reader(register)

    def run(state: EmulationState, fault_va: int, write: WriteEntry) -> Outcome:
        regs, following = state.regs, (state.rip + length) & MASK64
        address = locate(regs, following)
        old = _get(state, address, size)
        new, flags = operate(old, source(regs), state.rflags)
        if new != old and not _put(state, fault_va, write, address, size, new, locked):
            return UNHANDLED
        set_register(regs, register, old)
        return retire(state, following, flags)

    return run


def _cmpxchg(instruction: Instruction, target: Memory) -> StoreHandler:
    register, size, length = instruction.operands[1], target.size, instruction.length
    if not isinstance(register, Register):
        return refuse
    locate, source = effective_address(target, instruction.address_bits), reader(register)
    bits, accumulator = 8 * size, Register(RAX, size, 0)
    mask = (1 << bits) - 1

    def run(state: EmulationState, fault_va: int, write: WriteEntry) -> Outcome:
        regs, following = state.regs, (state.rip + length) & MASK64
        address = locate(regs, following)
        old, expected = _get(state, address, size), regs[RAX] & mask
        flags = state.rflags & ~ARITHMETIC | subtract(expected, old, 0, bits)[1]
        if old != expected:
            set_register(regs, accumulator, old)
        elif not _put(state, fault_va, write, address, size, source(regs), True):
            return UNHANDLED
        return retire(state, following, flags)

    return run


def _cmpxchg8b(instruction: Instruction, target: Memory) -> StoreHandler:
    locate, length = effective_address(target, instruction.address_bits), instruction.length
    low = 0xFFFFFFFF

    def run(state: EmulationState, fault_va: int, write: WriteEntry) -> Outcome:
        regs, following = state.regs, (state.rip + length) & MASK64
        address = locate(regs, following)
        old = _get(state, address, 8)
        if old != (regs[RDX] & low) << 32 | regs[RAX] & low:
            regs[RAX], regs[RDX] = old & low, old >> 32
            return retire(state, following, state.rflags & ~ZF)
        if not _put(state, fault_va, write, address, 8, (regs[RCX] & low) << 32 | regs[RBX] & low, True):
            return UNHANDLED
        return retire(state, following, state.rflags | ZF)

    return run


def _stos(instruction: Instruction) -> StoreHandler:
    return _string(instruction, lambda _state, regs, _mask, size: regs[RAX] & ((1 << 8 * size) - 1), moves_source=False)


def _movs(instruction: Instruction) -> StoreHandler:
    return _string(instruction, lambda state, regs, mask, size: _get(state, regs[RSI] & mask, size), moves_source=True)


def _string(
    instruction: Instruction, load: Callable[[EmulationState, Registers, int, int], int], *, moves_source: bool
) -> StoreHandler:
    """STOS and MOVS, one iteration: RCX counts down and RIP stays until it is zero."""
    target = instruction.operands[0]
    if not isinstance(target, Memory):
        return refuse
    size, length, repeat, mask = target.size, instruction.length, instruction.repeat, (1 << instruction.address_bits) - 1
    moved = (RSI, RDI) if moves_source else (RDI,)

    def run(state: EmulationState, fault_va: int, write: WriteEntry) -> Outcome:
        regs, following = state.regs, (state.rip + length) & MASK64
        if repeat and not regs[RCX] & mask:
            if mask != MASK64:  # a 32-bit count of zero still zero-extends what it would have used
                for index in (RCX, *moved):
                    regs[index] &= mask
            return retire(state, following)
        if not _put(state, fault_va, write, regs[RDI] & mask, size, load(state, regs, mask, size), False):
            return UNHANDLED
        step = -size if state.rflags & DF else size
        for index in moved:
            regs[index] = (regs[index] + step) & mask
        if repeat:
            regs[RCX] = (regs[RCX] - 1) & mask
            if regs[RCX]:
                following = state.rip
        return retire(state, following)

    return run
