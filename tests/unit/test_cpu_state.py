"""Code that changes under the core, and the core's state taken out and put back."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from emulator.cpu.core import DS, FS, GS, RAX, RBX, Core
from emulator.dom0.backends.block.disks import DiskSide
from tests.unit.cores import ALIAS, CODE, DATA, L1, L4, NX, PRESENT, RW, UNMAPPED, USER, Bare

if TYPE_CHECKING:
    from emulator.hypervisor.domain import Domain


@pytest.fixture
def bare() -> Iterator[Bare]:
    machine = Bare()
    yield machine
    machine.close()


def answer(bare: Bare, at: int = CODE) -> int:
    """What `mov eax, imm32; ud2` at an address answers now."""
    bare.core.rip = at
    bare.traps.clear()
    assert bare.run() == 0
    assert [trap.vector for trap in bare.traps] == [6]
    return bare.core.regs[RAX]


def test_a_guest_that_changes_its_own_code_runs_the_new_code(bare: Bare) -> None:
    # mov byte [rip+1], 0x22; mov eax, 0x11; ud2
    bare.load("c6050100000022 b811000000 0f0b")
    assert answer(bare) == 0x22


def test_a_guest_that_changes_code_of_another_page_runs_the_new_code(bare: Bare) -> None:
    bare.load("b811000000 0f0b", at=0x9000)
    assert answer(bare, 0x9000) == 0x11
    for value in (0x22, 0x33, 0x44):
        bare.load(f"c60425 01900000 {value:02x} e9" + (0x9000 - CODE - 13).to_bytes(4, "little").hex())  # mov byte [0x9001], value; jmp 0x9000
        assert answer(bare) == value


def test_code_changed_through_a_writable_alias_after_a_flush_is_new(bare: Bare) -> None:
    bare.load("b811000000 0f0b", at=CODE + 0x800)
    bare.load("880425 01680500 90 0f0b".replace("01680500", (ALIAS + 0x801).to_bytes(4, "little").hex()), at=0x9000)  # mov [alias], al; ud2
    assert answer(bare, CODE + 0x800) == 0x11
    bare.core.flush_tlb()
    bare.core.regs[RAX] = 0x55
    answer(bare, 0x9000)
    assert answer(bare, CODE + 0x800) == 0x55


def test_code_written_by_the_host_is_new_once_its_frame_is_forgotten(bare: Bare) -> None:
    bare.load("b811000000 0f0b")
    assert answer(bare) == 0x11
    bare.memory.bytes[CODE + 1] = 0x22
    bare.core.forget_frame(CODE >> 12)
    assert answer(bare) == 0x22
    bare.memory.bytes[CODE + 1] = 0x44
    bare.core.flush_code()
    assert answer(bare) == 0x44


def test_a_forgotten_frame_is_forgotten_at_every_address(bare: Bare) -> None:
    bare.map(ALIAS, CODE, PRESENT | RW | USER)
    bare.core.flush_tlb()
    bare.load("b811000000 0f0b")
    assert answer(bare) == answer(bare, ALIAS) == 0x11
    bare.memory.bytes[CODE + 1] = 0x22
    bare.core.forget_frame(CODE >> 12)
    assert answer(bare) == answer(bare, ALIAS) == 0x22


def test_a_block_over_two_pages_is_forgotten_with_either(bare: Bare) -> None:
    at = 0x9000 - 3
    bare.load("b811000000 0f0b", at=at)
    for value, frame in ((0x22, 8), (0x33, 9), (0x44, 8)):
        assert answer(bare, at)
        bare.memory.bytes[at + 1] = value
        bare.core.forget_frame(frame)
        assert answer(bare, at) == value
    bare.memory.bytes[at + 3] = 7  # on the second page
    bare.core.forget_frame(9)
    assert answer(bare, at) == 0x70044


@pytest.mark.parametrize("frames", [1, 2, 64, 65, 130])
def test_code_that_a_disk_read_over_is_forgotten_however_many_frames_came_with_it(bare: Bare, frames: int) -> None:
    around = SimpleNamespace(domid=1, memory=bare.memory, core=bare.core, grants=None, frames=None)
    side = DiskSide(cast("Domain", around))
    bare.load("b811000000 0f0b")
    for position in {0, frames // 2, frames - 1}:
        assert answer(bare)
        bare.memory.bytes[CODE + 1] = 0x20 + position
        side.written([CODE >> 12 if place == position else DATA >> 12 for place in range(frames)])
        assert answer(bare) == 0x20 + position


def test_forgetting_what_was_never_code_does_nothing(bare: Bare) -> None:
    bare.core.forget_frame(DATA >> 12)
    bare.core.forget_frame(0)
    bare.load("b811000000 0f0b")
    assert answer(bare) == 0x11


def test_a_running_guests_own_code_may_be_forgotten_in_a_trap(bare: Bare) -> None:
    # syscall; mov eax, 0x11; ud2: the handler changes what follows
    def handle(vector: int) -> None:
        if vector == 6:
            bare.core.stop()
            return
        bare.core.rip += 2
        bare.memory.bytes[CODE + 3] = 0x77
        bare.core.forget_frame(CODE >> 12)

    bare.on_trap = handle
    bare.load("0f05 b811000000 0f0b")
    assert bare.run() == 0
    assert bare.core.regs[RAX] == 0x77


def test_another_page_table_shows_other_memory(bare: Bare) -> None:
    words = bare.memory.words
    for source, target in ((L4, 5), (3, 6), (L1, 7)):
        words[target << 9 : (target + 1) << 9] = words[source << 9 : (source + 1) << 9]
    words[5 << 9] = 0x32007
    words[0x32 << 9] = 6 << 12 | 7
    words[6 << 9] = 7 << 12 | 7
    words[(7 << 9) + (DATA >> 12)] = 0x21000 | PRESENT | RW | USER | NX
    words[DATA >> 3], words[0x21000 >> 3] = 111, 222
    bare.core.regs[RBX] = DATA
    bare.load("488b03 0f0b")
    assert answer(bare) == 111
    bare.core.cr3 = 5 << 12
    assert answer(bare) == 222
    bare.core.cr3 = L4 << 12
    assert answer(bare) == 111


def test_a_changed_entry_counts_after_its_page_is_flushed(bare: Bare) -> None:
    bare.core.regs[RBX] = DATA
    bare.memory.words[0x21000 >> 3] = 5
    bare.load("488b03 0f0b")
    assert answer(bare) == 0
    bare.map(DATA, 0x21000, PRESENT | RW | USER | NX)
    bare.core.flush_page(DATA)
    assert answer(bare) == 5


# mov eax, 7; movd xmm3, eax; cvtsi2sd xmm4, rax; fld1; fldpi; stc; ud2
WORK = "b807000000 660f6ed8 f2480f2ae0 d9e8 d9eb f9 0f0b"
# add eax, 1; movd ecx, xmm3; cvttsd2si rdx, xmm4; fstp [rbx]; fstp [rbx+8]; setc sil; ud2
MORE = "400f92c6 83c001 660f7ed9 f2480f2cd4 dd1b dd5b08 0f0b"


def result(bare: Bare) -> tuple[list[int], bytes, int]:
    bare.load(MORE, at=0xA000)
    bare.core.regs[RBX] = DATA
    bare.traps.clear()
    assert bare.run() == 0
    return list(bare.core.regs), bytes(bare.memory.bytes[DATA : DATA + 16]), bare.core.rflags


def test_saved_state_goes_on_where_it_was(bare: Bare) -> None:
    bare.trap(WORK)
    bare.core.set_segment_base(FS, 0x7777)
    state = bare.core.save()
    expected = result(bare)
    bare.trap("4831c0 660fefdb 660fefe4 dbe3 f8 0f0b")  # everything cleared
    bare.core.set_segment_base(FS, 0)
    bare.core.load(state)
    assert bare.core.segment(FS)[1] == 0x7777
    assert result(bare) == expected
    assert expected[1] == bytes.fromhex("182d4454fb210940 000000000000f03f")


def test_saved_state_goes_on_in_another_core(bare: Bare) -> None:
    bare.trap(WORK)
    state, memory = bare.core.save(), bytes(bare.memory.bytes)
    expected = result(bare)
    other = Bare()
    try:
        other.memory.bytes[:] = memory
        other.core.load(state)
        assert result(other) == expected
    finally:
        other.close()


def test_state_with_breakpoints_survives_their_going(bare: Bare) -> None:
    bare.trap(WORK)
    for _ in range(50):
        bare.core.set_breakpoints([CODE + 1, 0, 0, 0], 0x401)
        state = bare.core.save()
        bare.core.set_breakpoints([0, 0, 0, 0], 0x400)
        bare.core.load(state)
        bare.core.set_breakpoints([CODE + 2, CODE + 3, 0, 0], 0x405)
        bare.core.set_breakpoints([0, 0, 0, 0], 0x400)
    assert bare.trap("0f0b").vector == 6


def test_state_with_breakpoints_stops_there_in_another_core(bare: Bare) -> None:
    bare.core.set_breakpoints([CODE + 1, 0, 0, 0], 0x401)
    state = bare.core.save()
    other = Bare()
    try:
        other.core.load(state)
        trap = other.trap("90 90 0f0b")
        assert (trap.vector, trap.rip) == (1, CODE + 1)
    finally:
        other.close()


def test_state_of_another_build_is_refused(bare: Bare) -> None:
    with pytest.raises(ValueError, match="bytes"):
        bare.core.load(bare.core.save()[:-8])


def test_saved_state_holds_no_address_of_the_host(bare: Bare) -> None:
    other = Bare()
    try:
        for machine in (bare, other):
            machine.core.set_breakpoints([0x9000, 0, 0, 0], 0x401)
            machine.core.regs[RBX] = UNMAPPED
            machine.trap(WORK.removesuffix("0f0b") + "488b03")
        assert bare.traps[0].vector == 14
        assert bare.core.save() == other.core.save()
    finally:
        other.close()


def test_segment_bases_and_selectors(bare: Bare) -> None:
    core = bare.core
    core.set_segment_base(GS, DATA + 0x100)
    bare.memory.words[(DATA + 0x108) >> 3] = 99
    bare.load("65488b042508000000 0f0b")  # mov rax, gs:[8]
    assert answer(bare) == 99
    core.load_code64(0xE033, 0xE02B)
    bare.load("8cc8 0f0b")  # mov eax, cs
    assert answer(bare) & 0xFFFF == 0xE033
    core.clear_segment(DS)
    assert core.segment(DS) == (0, 0)


def test_code_of_32_bits(bare: Bare) -> None:
    core = bare.core
    core.load_descriptor(1, 0xE023, 0x00CFFB000000FFFF)
    assert core.code_size == 32
    bare.load("40 b811000000 0f0b")  # inc eax; mov eax, 0x11
    assert answer(bare) == 0x11
    core.load_code64(0xE033, 0xE02B)
    assert core.code_size == 64


def test_a_wild_rip_is_a_fault_and_no_crash(bare: Bare) -> None:
    for rip in (UNMAPPED, 1 << 47, 1 << 63, (1 << 64) - 1, 0x7FFFFFFFFFFF):
        bare.core.rip = rip
        bare.traps.clear()
        assert bare.run() == 0
        assert bare.traps[0].vector in (13, 14)


def test_a_closed_core_cannot_be_written(bare: Bare) -> None:
    other = Bare()
    regs = other.core.regs
    other.core.close()
    with pytest.raises(ValueError, match="released"):
        regs[0] = 1
    other.core.close()
    other.memory.close()


def test_many_cores_leave_no_memory_behind(bare: Bare) -> None:
    def resident() -> int:
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1])

    def one() -> None:
        other = Bare()
        other.trap(WORK)
        other.close()

    for _ in range(5):
        one()
    before = resident()
    for _ in range(40):
        one()
    assert resident() - before < 40 * 64, "pages kept by closed cores"  # under 256 KiB each
    assert isinstance(bare.core, Core)
