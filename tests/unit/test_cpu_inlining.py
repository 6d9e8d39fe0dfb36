"""The budget in the blocks themselves: counts and stops are those of the called budget, to the byte, and what is not understood stays a call."""

from __future__ import annotations

import ctypes
import random
from pathlib import Path

import pytest

from emulator.cpu import budget, native
from emulator.cpu.core import RAX, RBX
from emulator.cpu.mappings import mappings
from tests.unit.cores import CODE, Bare
from tests.unit.machinecode import check

CONTROL = {name: 8 * value for name, value in vars(native).items() if isinstance(value, int)}
LOOP = "48ffc0 eb00 48ffc3 48ffc0 75f3 ebfe"  # again: inc rax; jmp +0; inc rbx; inc rax; jnz again; jmp $


def test_every_line_disassembles_to_its_comment_and_the_jumps_go_where_they_say() -> None:
    check(budget.__file__, budget.BLOCK_CODE, {"rcx": CONTROL}, {"idle": len(budget.BLOCK_CODE)})


def test_it_is_a_whole_number_of_idle_instructions() -> None:
    assert len(budget.IDLE) == 9 * 8
    assert budget.BLOCK.endswith(budget.IDLE)


@pytest.mark.parametrize(("rights", "answer"), [("rwxp", True), ("r-xp", False)])
def test_code_that_cannot_be_written_is_left_alone(monkeypatch: pytest.MonkeyPatch, rights: str, answer: bool) -> None:
    lines = f"7f0000000000-7f0000001000 rwxp 00000000 00:00 0\n7f0000600000-7f00006ff000 {rights} 00000000 00:00 0\n"
    monkeypatch.setattr(Path, "read_text", lambda self: lines)
    assert budget.may_be_inlined.__wrapped__() is answer


def calls_left(bare: Bare) -> tuple[int, int]:
    """(calls of the budget, replaced ones) in the translated code of a core."""
    block, count = native.native_code().address["block"], ctypes.addressof(bare.core._control_owner)
    calls = replaced = 0
    for low, high, rights, _path in mappings():
        if rights != "rwxp":
            continue
        image = ctypes.string_at(low, high - low)
        at = image.find(b"\xe8")
        while 0 <= at < len(image) - 5:
            calls += low + at + 5 + int.from_bytes(image[at + 1 : at + 5], "little", signed=True) == block
            at = image.find(b"\xe8", at + 1)
        at = image.find(b"\x48\x83\x05")
        while 0 <= at < len(image) - 8:
            replaced += low + at + 8 + int.from_bytes(image[at + 3 : at + 7], "little", signed=True) == count
            at = image.find(b"\x48\x83\x05", at + 1)
    return calls, replaced


def run(inline: bool, code: str, budgets: list[int], at: int = CODE) -> tuple[list[tuple[int, ...]], int]:
    """(count, RIP, RAX, RBX) after each budget; replaced calls."""
    seen: list[tuple[int, ...]] = []
    bare = Bare()
    try:
        bare.core.control[native.INLINE] = inline
        bare.load(code, at)
        bare.core.regs[RAX] = 1
        for counts in budgets:
            assert bare.run(counts) == 0
            seen.append((bare.core.control[native.COUNT], bare.core.rip, bare.core.regs[RAX], bare.core.regs[RBX]))
        assert not bare.traps
        return seen, calls_left(bare)[1]
    finally:
        bare.close()


@pytest.mark.parametrize("seed", range(4))
def test_counts_and_stops_are_those_of_the_called_budget(seed: int) -> None:
    choice = random.Random(seed)
    budgets = [choice.choice((1, 2, 5, 7, choice.randrange(1, 300), choice.randrange(1, 20_000))) for _ in range(300)]
    inlined, replaced = run(True, LOOP, budgets)
    called, none = run(False, LOOP, budgets)
    assert inlined == called
    assert replaced >= 2
    assert none == 0


def test_a_block_that_ran_once_makes_no_call_any_more() -> None:
    bare = Bare()
    try:
        before = calls_left(bare)
        bare.load(LOOP)
        assert bare.run(10_000) == 0
        calls, replaced = calls_left(bare)
        assert calls == before[0]
        assert replaced >= before[1] + 2
    finally:
        bare.close()


def test_a_block_of_more_than_127_bytes_keeps_its_call_and_its_count() -> None:
    code = "48ffc0" * 60 + "e947ffffff"  # again: 60 times inc rax; jmp again
    inlined, replaced = run(True, code, [1000, 1, 10_000])
    called, _ = run(False, code, [1000, 1, 10_000])
    assert inlined == called
    assert replaced == 0


@pytest.mark.parametrize("high", [0x0000_7F12_3456_7000, 0xFFFF_FFFF_8100_0000, 0x0000_0001_2345_6000])
def test_blocks_at_every_kind_of_address(high: int) -> None:
    """The address is loaded by instructions of 5, 7 or 10 bytes."""
    seen = []
    for inline in (True, False):
        bare = Bare()
        try:
            bare.core.control[native.INLINE] = inline
            words = bare.memory.words
            frames = iter((60, 61, 62))
            table = 1 << 9
            for shift in (39, 30, 21):
                index = table + (high >> shift & 511)
                if not words[index]:
                    words[index] = next(frames) << 12 | 7
                table = (words[index] >> 12) << 9
            words[table + (high >> 12 & 511)] = CODE | 5
            bare.core.flush_tlb()
            bare.load(LOOP)
            bare.core.rip = high
            for counts in (1, 9, 5000, 3, 7777):
                assert bare.run(counts) == 0
                seen.append((inline, bare.core.control[native.COUNT], bare.core.rip, bare.core.regs[RAX]))
            assert (calls_left(bare)[1] >= 2) == inline
        finally:
            bare.close()
    assert [entry[1:] for entry in seen[:5]] == [entry[1:] for entry in seen[5:]]


def test_what_it_does_not_understand_it_leaves_alone() -> None:
    """Called from anywhere else it charges and compares, and writes nothing."""
    bare = Bare()
    try:
        control = bare.core.control
        block = ctypes.CFUNCTYPE(None, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint32, ctypes.c_uint64)(native.native_code().address["block"])
        control[native.LIMIT] = control[native.COUNT] + 1000
        before = control[native.COUNT]
        for size in (1, 100, 128, 0x1000):
            block(bare.core._engine, CODE, size, ctypes.addressof(bare.core._control_owner))
            control[native.LIMIT] += size
        assert control[native.COUNT] == before + 1 + 100 + 128 + 0x1000
    finally:
        bare.close()
