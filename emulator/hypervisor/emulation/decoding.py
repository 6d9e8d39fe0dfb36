"""Instruction decoding by Capstone, done once for each byte sequence: the result is a compiled handler.

Handlers are kept by the 15 bytes found at RIP (one look-up, no length needed) and, behind that, by the instruction's own
bytes, so that a site met for the first time costs no decoding when the same instruction was met elsewhere. Both tables are
bounded: a guest that makes up instructions empties them and pays with decoding.
"""

from __future__ import annotations

from collections.abc import Callable, MutableSequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Generic, TypeVar

import capstone
from capstone import x86

from emulator.hypervisor.emulation.state import MASK64

Handler = TypeVar("Handler")
Registers = MutableSequence[int]

_WINDOWS: Final = 8192  # entries of about 200 bytes
_HANDLERS: Final = 2048

_LOW: Final = (
    "al cl dl bl spl bpl sil dil", "ax cx dx bx sp bp si di", "eax ecx edx ebx esp ebp esi edi",
    "rax rcx rdx rbx rsp rbp rsi rdi",
)  # fmt: skip


def _registers() -> dict[str, tuple[int, int, int]]:
    table = {f"{name}h": (index, 1, 8) for index, name in enumerate("acdb")}
    for size, names in zip((1, 2, 4, 8), _LOW, strict=True):
        table.update({name: (index, size, 0) for index, name in enumerate(names.split())})
    for index in range(8, 16):
        table.update({f"r{index}{suffix}": (index, size, 0) for suffix, size in (("b", 1), ("w", 2), ("d", 4), ("", 8))})
    return table


_REGISTERS: Final = _registers()


@dataclass(frozen=True, slots=True)
class Register:
    """A general register or a part of one: `shift` is 8 for AH CH DH BH."""

    index: int
    size: int
    shift: int


@dataclass(frozen=True, slots=True)
class Immediate:
    """Sign-extended by the encoding, cut to the operand's size."""

    value: int


@dataclass(frozen=True, slots=True)
class Memory:
    """A memory operand; -1 for an absent register, base 16 is RIP (of the next instruction)."""

    size: int
    base: int
    index: int
    scale: int
    displacement: int
    segment: str


@dataclass(frozen=True, slots=True)
class Other:
    """A segment, control, debug or vector register, by name."""

    name: str


Operand = Register | Immediate | Memory | Other


@dataclass(frozen=True, slots=True)
class Instruction:
    """One decoded instruction. `address_bits`: 64, 32 or 16; `repeat`: any of REP, REPE, REPNE."""

    name: str
    length: int
    operands: tuple[Operand, ...]
    address_bits: int
    lock: bool
    repeat: bool
    opcode: bytes


RIP: Final = 16


class Disassembler:
    """Capstone, made when the first instruction is met: it takes 0.1 ms and 80 KiB, and few small guests ever need one. One thread at a time."""

    def __init__(self, bits: int) -> None:
        self._mode = capstone.CS_MODE_64 if bits == 64 else capstone.CS_MODE_32

    @cached_property
    def _engine(self) -> capstone.Cs:
        engine = capstone.Cs(capstone.CS_ARCH_X86, self._mode)
        engine.detail = True
        return engine

    def first(self, window: bytes) -> Any:
        """The instruction that `window` begins with (capstone.CsInsn), or None."""
        return next(self._engine.disasm(window, 0, 1), None)


class Decoder(Generic[Handler]):
    """Turns code bytes into handlers made by `build`; `build` is called on a miss only. One thread at a time."""

    def __init__(self, disassembler: Disassembler, build: Callable[[Instruction], Handler]) -> None:
        self._disassembler = disassembler
        self._build = build
        self._windows: dict[bytes, Handler] = {}
        self._handlers: dict[bytes, Handler] = {}

    def handler(self, window: bytes) -> Handler | None:
        """The handler of the instruction that `window` begins with, or None where it is no (whole) instruction."""
        found = self._windows.get(window)
        return found if found is not None else self._miss(window)

    def _miss(self, window: bytes) -> Handler | None:
        decoded = self._disassembler.first(window)
        if decoded is None:
            return None
        code = bytes(decoded.bytes)
        handler = self._handlers.get(code)
        if handler is None:
            if len(self._handlers) >= _HANDLERS:
                self._handlers.clear()
            handler = self._handlers[code] = self._build(_instruction(decoded))
        if len(self._windows) >= _WINDOWS:
            self._windows.clear()
        self._windows[window] = handler
        return handler


def _instruction(decoded: Any) -> Instruction:
    return Instruction(
        name=decoded.insn_name(),
        length=decoded.size,
        operands=tuple(_operand(decoded, each) for each in decoded.operands),
        address_bits=decoded.addr_size * 8,
        lock=decoded.prefix[0] == x86.X86_PREFIX_LOCK,
        repeat=decoded.prefix[0] in (x86.X86_PREFIX_REP, x86.X86_PREFIX_REPNE),
        opcode=bytes(decoded.opcode),
    )


def _operand(decoded: Any, operand: Any) -> Operand:
    if operand.type == x86.X86_OP_IMM:
        return Immediate(operand.imm & ((1 << 8 * operand.size) - 1))
    if operand.type == x86.X86_OP_MEM:
        memory = operand.mem
        segment = decoded.reg_name(memory.segment) if memory.segment else ""
        base, index = _address_register(decoded, memory.base), _address_register(decoded, memory.index)
        return Memory(operand.size, base, index, memory.scale, memory.disp & MASK64, segment)
    name = decoded.reg_name(operand.reg)
    known = _REGISTERS.get(name)
    return Register(*known) if known is not None else Other(name)


def _address_register(decoded: Any, number: int) -> int:
    name = decoded.reg_name(number) if number else None
    if name in ("rip", "eip"):
        return RIP
    known = _REGISTERS.get(name) if name else None
    return known[0] if known is not None else -1  # none, or riz


def effective_address(memory: Memory, bits: int) -> Callable[[Registers, int], int]:
    """The operand's offset as a function of the registers and the next instruction's address; the segment's base is not in it."""
    mask, base, index, scale, displacement = (1 << bits) - 1, memory.base, memory.index, memory.scale, memory.displacement
    if base == RIP:
        return lambda regs, following: (following + displacement) & mask
    if index < 0 and base < 0:
        fixed = displacement & mask
        return lambda regs, following: fixed
    if index < 0:
        return lambda regs, following: (regs[base] + displacement) & mask
    if base < 0:
        return lambda regs, following: (regs[index] * scale + displacement) & mask
    return lambda regs, following: (regs[base] + regs[index] * scale + displacement) & mask


def reader(operand: Register | Immediate) -> Callable[[Registers], int]:
    """The operand's value, zero-extended from its size."""
    if isinstance(operand, Immediate):
        value = operand.value
        return lambda regs: value
    index, shift = operand.index, operand.shift
    if operand.size == 8:
        return lambda regs: regs[index]
    mask = (1 << 8 * operand.size) - 1
    if shift:
        return lambda regs: regs[index] >> shift & mask
    return lambda regs: regs[index] & mask


def set_register(regs: Registers, operand: Register, value: int) -> None:
    """Write a register as an instruction does: 32-bit writes zero the upper half, smaller ones leave the rest."""
    if operand.size == 8:
        regs[operand.index] = value & MASK64
    elif operand.size == 4:
        regs[operand.index] = value & 0xFFFFFFFF
    else:
        mask = ((1 << 8 * operand.size) - 1) << operand.shift
        regs[operand.index] = regs[operand.index] & ~mask | value << operand.shift & mask
