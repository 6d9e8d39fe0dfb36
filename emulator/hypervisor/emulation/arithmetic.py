"""Integer operations with exact flags (CF PF AF ZF SF OF), as functions `(old, source, flags) -> (new, flags)`.

Where the architecture leaves a flag undefined (AF of logic and shifts, OF of shifts by more than one) it is what the
emulated core itself computes, so that an emulated store cannot be told from an executed one.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import and_, or_, xor
from typing import Final

from emulator.hypervisor.emulation.state import AF, ARITHMETIC, CF, OF, PF, SF, ZF

Operation = Callable[[int, int, int], tuple[int, int]]

_PARITY: Final = bytes(0 if value.bit_count() & 1 else PF for value in range(256))
_KEEP: Final = ~ARITHMETIC


def _result(value: int, bits: int) -> int:
    return (0 if value else ZF) | (SF if value >> (bits - 1) else 0) | _PARITY[value & 0xFF]


def add(old: int, source: int, carry: int, bits: int) -> tuple[int, int]:
    """`old + source + carry` and its six flags."""
    total = old + source + carry
    new = total & ((1 << bits) - 1)
    overflow = OF if ((old ^ new) & (source ^ new)) >> (bits - 1) else 0
    return new, _result(new, bits) | (total >> bits & CF) | ((old ^ source ^ new) & AF) | overflow


def subtract(old: int, source: int, borrow: int, bits: int) -> tuple[int, int]:
    """`old - source - borrow` and its six flags."""
    new = (old - source - borrow) & ((1 << bits) - 1)
    overflow = OF if ((old ^ source) & (old ^ new)) >> (bits - 1) else 0
    return new, _result(new, bits) | (CF if old < source + borrow else 0) | ((old ^ source ^ new) & AF) | overflow


def operation(name: str, bits: int) -> Operation | None:
    """The operation that an instruction of this name and operand size does, or None."""
    maker = _MAKERS.get(name)
    return None if maker is None else maker(bits)


def _sum(arithmetic: Callable[[int, int, int, int], tuple[int, int]], carried: int) -> Callable[[int], Operation]:
    """ADD and SUB, and with CF for `carried` ADC and SBB."""

    def maker(bits: int) -> Operation:
        def run(old: int, source: int, flags: int) -> tuple[int, int]:
            new, changed = arithmetic(old, source, flags & carried, bits)
            return new, flags & _KEEP | changed

        return run

    return maker


def _logic(combine: Callable[[int, int], int]) -> Callable[[int], Operation]:
    """AND, OR, XOR."""

    def maker(bits: int) -> Operation:
        def run(old: int, source: int, flags: int) -> tuple[int, int]:
            new = combine(old, source)
            return new, flags & _KEEP | _result(new, bits)

        return run

    return maker


def _step(arithmetic: Callable[[int, int, int, int], tuple[int, int]]) -> Callable[[int], Operation]:
    """INC and DEC: the carry stays."""

    def maker(bits: int) -> Operation:
        def run(old: int, _source: int, flags: int) -> tuple[int, int]:
            new, changed = arithmetic(old, 1, 0, bits)
            return new, flags & (_KEEP | CF) | changed & ~CF

        return run

    return maker


def _not(bits: int) -> Operation:
    mask = (1 << bits) - 1
    return lambda old, _source, flags: (old ^ mask, flags)


def _neg(bits: int) -> Operation:
    def run(old: int, _source: int, flags: int) -> tuple[int, int]:
        new, changed = subtract(0, old, 0, bits)
        return new, flags & _KEEP | changed

    return run


def _bts(_bits: int) -> Operation:
    return lambda old, bit, flags: (old | 1 << bit, flags & ~CF | old >> bit & CF)


def _btr(_bits: int) -> Operation:
    return lambda old, bit, flags: (old & ~(1 << bit), flags & ~CF | old >> bit & CF)


def _btc(_bits: int) -> Operation:
    return lambda old, bit, flags: (old ^ 1 << bit, flags & ~CF | old >> bit & CF)


def _shl(bits: int) -> Operation:
    limit, mask = (0x3F if bits == 64 else 0x1F), (1 << bits) - 1

    def run(old: int, count: int, flags: int) -> tuple[int, int]:
        count &= limit
        if not count:
            return old, flags
        new, carry = old << count & mask, old << (count - 1) >> (bits - 1) & 1
        overflow = OF if carry ^ new >> (bits - 1) else 0
        return new, flags & _KEEP | _result(new, bits) | carry | overflow

    return run


def _shr(bits: int) -> Operation:
    limit = 0x3F if bits == 64 else 0x1F

    def run(old: int, count: int, flags: int) -> tuple[int, int]:
        count &= limit
        if not count:
            return old, flags
        before = old >> (count - 1)
        new = before >> 1
        overflow = OF if (before ^ new) >> (bits - 1) else 0
        return new, flags & _KEEP | _result(new, bits) | before & CF | overflow

    return run


def _sar(bits: int) -> Operation:
    limit, mask, sign = (0x3F if bits == 64 else 0x1F), (1 << bits) - 1, 1 << (bits - 1)

    def run(old: int, count: int, flags: int) -> tuple[int, int]:
        count &= limit
        if not count:
            return old, flags
        before = ((old ^ sign) - sign) >> (count - 1)
        new = before >> 1 & mask
        return new, flags & _KEEP | _result(new, bits) | before & CF

    return run


def _rol(bits: int) -> Operation:
    limit, mask = (0x3F if bits == 64 else 0x1F), (1 << bits) - 1

    def run(old: int, count: int, flags: int) -> tuple[int, int]:
        count &= limit
        if not count:
            return old, flags
        count %= bits
        new = (old << count | old >> (bits - count)) & mask
        carry = new & CF
        return new, flags & ~(CF | OF) | carry | (OF if carry ^ new >> (bits - 1) else 0)

    return run


def _ror(bits: int) -> Operation:
    limit, mask = (0x3F if bits == 64 else 0x1F), (1 << bits) - 1

    def run(old: int, count: int, flags: int) -> tuple[int, int]:
        count &= limit
        if not count:
            return old, flags
        count %= bits
        new = (old >> count | old << (bits - count)) & mask
        top = new >> (bits - 2)
        return new, flags & ~(CF | OF) | top >> 1 | (OF if (top ^ top >> 1) & 1 else 0)

    return run


def _rcl(bits: int) -> Operation:
    limit, width = (0x3F if bits == 64 else 0x1F), bits + 1
    mask = (1 << width) - 1

    def run(old: int, count: int, flags: int) -> tuple[int, int]:
        count = (count & limit) % width
        if not count:
            return old, flags
        whole = (flags & CF) << bits | old  # the operand with CF on top, turned as one
        whole = (whole << count | whole >> (width - count)) & mask
        new, carry = whole & (mask >> 1), whole >> bits
        return new, flags & ~(CF | OF) | carry | (OF if (old ^ new) >> (bits - 1) else 0)

    return run


def _rcr(bits: int) -> Operation:
    limit, width = (0x3F if bits == 64 else 0x1F), bits + 1
    mask = (1 << width) - 1

    def run(old: int, count: int, flags: int) -> tuple[int, int]:
        count = (count & limit) % width
        if not count:
            return old, flags
        whole = (flags & CF) << bits | old
        whole = (whole >> count | whole << (width - count)) & mask
        new, carry = whole & (mask >> 1), whole >> bits
        return new, flags & ~(CF | OF) | carry | (OF if (old ^ new) >> (bits - 1) else 0)

    return run


_MAKERS: Final[dict[str, Callable[[int], Operation]]] = {
    "add": _sum(add, 0), "adc": _sum(add, CF), "sub": _sum(subtract, 0), "sbb": _sum(subtract, CF),
    "and": _logic(and_), "or": _logic(or_), "xor": _logic(xor), "inc": _step(add), "dec": _step(subtract),
    "not": _not, "neg": _neg, "bts": _bts, "btr": _btr, "btc": _btc,
    "shl": _shl, "sal": _shl, "shr": _shr, "sar": _sar, "rol": _rol, "ror": _ror, "rcl": _rcl, "rcr": _rcr,
}  # fmt: skip


def double_shift(name: str, bits: int) -> Callable[[int, int, int, int], tuple[int, int]]:
    """SHLD or SHRD as `(old, source, count, flags) -> (new, flags)`; a 16-bit count above 16 is undefined."""
    limit, mask = (0x3F if bits == 64 else 0x1F), (1 << bits) - 1

    def shld(old: int, source: int, count: int, flags: int) -> tuple[int, int]:
        count &= limit
        if not count:
            return old, flags
        both = (old << bits | source) << count
        new, carry = both >> bits & mask, both >> (2 * bits) & CF
        overflow = OF if (old << (count - 1) ^ new) >> (bits - 1) & 1 else 0
        return new, flags & _KEEP | _result(new, bits) | carry | overflow

    def shrd(old: int, source: int, count: int, flags: int) -> tuple[int, int]:
        count &= limit
        if not count:
            return old, flags
        before = (source << bits | old) >> (count - 1)
        new = before >> 1 & mask
        last = old >> (count - 1) if bits == 64 else before
        overflow = OF if (last ^ new) >> (bits - 1) & 1 else 0
        return new, flags & _KEEP | _result(new, bits) | before & CF | overflow

    return shld if name == "shld" else shrd


def condition(code: int, flags: int) -> bool:
    """x86 condition `code` (0 … 15, the low four bits of SETcc and Jcc)."""
    kind = code >> 1
    if kind == 0:
        held = flags & OF
    elif kind == 1:
        held = flags & CF
    elif kind == 2:
        held = flags & ZF
    elif kind == 3:
        held = flags & (CF | ZF)
    elif kind == 4:
        held = flags & SF
    elif kind == 5:
        held = flags & PF
    else:
        held = bool(flags & SF) ^ bool(flags & OF)
        if kind == 7:
            held = held or flags & ZF
    return bool(held) ^ bool(code & 1)
