"""The way back into a guest by the iret hypercall: what is loaded, what is refused and whose fault that is."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator

import pytest

from emulator.abi.xen import TRAP_GP, TRAP_NP, TRAP_SS, VI_CR2
from emulator.cpu.core import CS, R11, RBX, RCX, RSP, SS
from emulator.hypervisor.iret import FLAT_CODE32
from tests.unit.domains import CODE, DATA, FREE_SLOT, PT_L1, STACK, USER_CODE, USER_L4, USER_STACK, Tiny, tiny, va

HANDLER, EVENT, FAILSAFE, SYSCALL = va(CODE, 0x400), va(CODE, 0x500), va(CODE, 0x600), va(CODE, 0x700)
CS64, SS64, KERNEL_CS = 0xE033, 0xE02B, 0xE030
IF, RESUME, AC, STEP = 0x200, 0x10000, 0x40000, 0x100
KERNEL_TOP = va(STACK, 4096)
VGCF_IN_SYSCALL = 256


@pytest.fixture
def guest() -> Iterator[Tiny]:
    with tiny() as made:
        for at in (0x400, 0x500, 0x600, 0x700):
            made.put(CODE, "ebfe", at)  # every handler waits where it is
        made.traps(*((vector, 0, HANDLER) for vector in (0, 1, 3, 6, 7, 13, 14)), (11, 0, va(CODE, 0x411)), (12, 0, va(CODE, 0x412)))
        made.put(CODE, "ebfe", 0x411)
        made.put(CODE, "ebfe", 0x412)
        assert made.call("set_callbacks", EVENT, FAILSAFE, SYSCALL) == 0
        yield made


def descriptors(guest: Tiny, *values: int, local: bool = False) -> None:
    """A GDT of one frame with these from index 1 on, or such an LDT."""
    page = 70
    for index, value in enumerate(values, 1):
        guest.put(page, value.to_bytes(8, "little"), index * 8)
    assert guest.update((guest.entry_address(page, PT_L1), guest.entry(page) & ~2))[0] == 0
    if local:
        assert guest.extended(13, va(page), 512) == 0
    else:
        assert guest.call("set_gdt", guest.put(DATA, guest.mfn(page).to_bytes(8, "little"), 256), 3) == 0


def iret(guest: Tiny, **values: int) -> int:
    """The iret hypercall with a frame; RAX afterwards."""
    fields = {"rax": 1, "r11": 2, "rcx": 3, "flags": 0, "rip": va(CODE, 0x400), "cs": KERNEL_CS, "rflags": 0x202, "rsp": KERNEL_TOP, "ss": SS64}
    fields |= values
    guest.domain.core.regs[RSP] = guest.put(STACK, struct.pack("<9Q", *fields.values()), 2048)
    return guest.call("iret")


def test_iret_to_the_kernel(guest: Tiny) -> None:
    core = guest.domain.core
    assert iret(guest, rflags=0x2D7 | AC, rax=0x5555) == 0x5555
    assert (core.rip, core.regs[RSP], core.regs[RCX], core.regs[R11]) == (va(CODE, 0x400), KERNEL_TOP, 3, 2)
    assert core.rflags & (0xD5 | IF | AC) == 0xD5 | IF | AC
    assert guest.domain.vcpus[0].kernel_mode
    assert not guest.masked()
    assert core.segment(CS)[0] & 3 == 3
    iret(guest, rflags=2)
    assert guest.masked(), "IF in the frame is the upcall mask"


def test_iret_from_a_system_call_sets_what_sysret_would(guest: Tiny) -> None:
    iret(guest, flags=256, rip=va(CODE, 0x500))
    assert guest.domain.core.regs[RCX] == va(CODE, 0x500)
    assert guest.domain.core.regs[R11] & 0xFFF == 0x202


def test_iret_takes_no_privilege(guest: Tiny) -> None:
    iret(guest, rflags=0x3202)
    assert guest.domain.core.rflags & 0x3000 == 0
    iret(guest, rflags=0x20202)
    assert guest.domain.core.rflags & 0x20000 == 0
    guest.run("f4", budget=1_000_000)
    assert guest.domain.ended == ""


def test_iret_to_user_mode_needs_user_tables(guest: Tiny) -> None:
    iret(guest, cs=CS64)
    assert guest.domain.ended == "crash"


def test_iret_with_an_unreadable_frame_crashes(guest: Tiny) -> None:
    guest.domain.core.regs[RSP] = va(FREE_SLOT)
    guest.call("iret")
    assert guest.domain.ended == "crash"


CODE64, STACK_SEGMENT = 0x00AFFB000000FFFF, 0x00CFF3000000FFFF
PRESENT_BIT, LONG_AND_BIG = 1 << 47, 1 << 54
REFUSED = [  # cs, ss, the GDT's descriptors, vector, error code
    ("a null code segment", 0x0003, SS64, (), TRAP_GP, 0),
    ("a null stack segment", KERNEL_CS, 0, (), TRAP_GP, 0),
    ("data for code", 0xE02B, SS64, (), TRAP_GP, 0xE028),
    ("code for a stack", KERNEL_CS, CS64, (), TRAP_GP, 0xE030),
    ("beyond what the guest has", 0x1230, SS64, (), TRAP_GP, 0x1230),
    ("beyond the table", 0xFFFB, SS64, (), TRAP_GP, 0xFFF8),
    ("a stack beyond what the guest has", KERNEL_CS, 0x1233, (), TRAP_GP, 0x1230),
    ("an LDT that is not there", 0x0F, SS64, (), TRAP_GP, 0xC),
    ("code that is not present", 0x8, SS64, (CODE64 & ~PRESENT_BIT,), TRAP_NP, 8),
    ("code of 64 bits and of 32", 0x8, SS64, (CODE64 | LONG_AND_BIG,), TRAP_GP, 8),
    ("a stack that is not present", KERNEL_CS, 0x8, (STACK_SEGMENT & ~PRESENT_BIT,), TRAP_SS, 8),
    ("a stack that cannot be written", KERNEL_CS, 0x8, (STACK_SEGMENT & ~(1 << 41),), TRAP_GP, 8),
]


@pytest.mark.parametrize(("cs", "ss", "table", "vector", "error_code"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_what_iretq_refuses_is_a_fault_where_it_was_to_go(
    guest: Tiny, cs: int, ss: int, table: tuple[int, ...], vector: int, error_code: int
) -> None:
    core = guest.domain.core
    if table:
        descriptors(guest, *table)
    iret(guest, cs=cs & ~3, ss=ss, rsp=KERNEL_TOP)
    assert core.rip == {TRAP_GP: HANDLER, TRAP_NP: va(CODE, 0x411), TRAP_SS: va(CODE, 0x412)}[vector]
    frame = guest.frame(8)
    assert frame[:4] == (3, 2, error_code, va(CODE, 0x400))  # rcx, r11
    assert frame[4] & 0xFFFF == cs & 0xFFFC
    assert frame[6:] == (KERNEL_TOP, ss | 3)
    assert core.segment(CS)[0] == CS64
    assert core.segment(SS)[0] == SS64


def test_a_refusal_on_the_way_to_user_mode_is_a_fault_of_user_mode(guest: Tiny) -> None:
    assert guest.extended(15, guest.mfn(USER_L4)) == 0
    iret(guest, cs=0x1233, rip=va(USER_CODE), rsp=va(USER_STACK, 4096), rflags=IF | AC | STEP)
    assert guest.domain.core.rip == HANDLER
    assert guest.domain.current.kernel_mode
    assert guest.domain.core.regs[RSP] == KERNEL_TOP - 64
    assert guest.frame(8)[2:] == (0x1230, va(USER_CODE), 0x1233, IF | AC | STEP | 2, va(USER_STACK, 4096), SS64)


def test_the_whole_frame_of_a_gdt_counts_and_not_how_many_entries_were_named(guest: Tiny) -> None:
    descriptors(guest, *(0,) * 9, CODE64, STACK_SEGMENT)  # set_gdt says 3
    iret(guest, cs=80, ss=88 | 3)
    assert guest.domain.core.rip == va(CODE, 0x400)
    assert (guest.domain.core.segment(CS)[0], guest.domain.core.segment(SS)[0]) == (83, 91)


def test_a_page_of_the_ldt_is_mapped_for_an_iret(guest: Tiny) -> None:
    descriptors(guest, CODE64, STACK_SEGMENT, local=True)
    iret(guest, cs=0xC, ss=0x17)
    assert guest.domain.core.rip == va(CODE, 0x400)
    assert (guest.domain.core.segment(CS)[0], guest.domain.core.segment(SS)[0]) == (0xF, 0x17)
    assert guest.extended(13, va(FREE_SLOT), 512) == 0
    iret(guest, cs=0xC, ss=0x17)
    assert guest.domain.core.rip == HANDLER
    assert guest.frame(8)[2] == 0
    vcpu = guest.domain.vcpus[0]
    assert guest.domain.memory.words[(vcpu.info + VI_CR2) >> 3] == va(FREE_SLOT, 8), "the guest knows its LDT at no other address"


@pytest.mark.parametrize(("cs", "ss"), [(0x33, 0x2B), (0, 0), (0x1233, 0xE033)])
def test_a_frame_of_a_system_call_is_left_with_the_flat_segments(guest: Tiny, cs: int, ss: int) -> None:
    core = guest.domain.core
    iret(guest, cs=cs & ~3, ss=ss, flags=VGCF_IN_SYSCALL, rflags=0x202 | RESUME, rip=va(CODE, 0x500))
    assert (core.rip, core.segment(CS)[0], core.segment(SS)[0]) == (va(CODE, 0x500), CS64, SS64)
    assert core.rflags & RESUME == 0
    assert core.regs[RCX] == va(CODE, 0x500)
    assert core.regs[R11] == 0x202 | RESUME


def test_a_frame_of_a_32_bit_system_call_is_left_for_32_bit_code(guest: Tiny) -> None:
    assert guest.extended(15, guest.mfn(USER_L4)) == 0
    guest.put(USER_CODE, "ebfe")
    iret(guest, cs=0xE023, flags=VGCF_IN_SYSCALL, rip=va(USER_CODE) | 1 << 32)
    core = guest.domain.core
    guest.domain.slice(1_000_000)
    assert (core.rip, core.segment(CS)[0], core.segment(SS)[0], core.code_size) == (va(USER_CODE), 0xE023, SS64, 32)
    assert FLAT_CODE32 & 1 << 53 == 0


def test_a_single_step_is_over_after_one_instruction_and_at_once_after_sysret(guest: Tiny) -> None:
    debug = guest.domain.vcpus[0].debug
    for flags, rip in ((0, va(CODE, 0x801)), (VGCF_IN_SYSCALL, va(CODE, 0x800))):
        guest.put(CODE, "909090ebfe", 0x800)
        debug.dr6 = 0xFFFF0FF0
        guest.domain.core.rip = va(CODE)
        iret(guest, flags=flags, rip=va(CODE, 0x800), rflags=0x202 | STEP)
        guest.domain.slice(1_000_000)
        assert guest.domain.core.rip == HANDLER
        assert guest.frame(7)[2] == rip
        assert debug.dr6 == 0xFFFF4FF0


def test_a_single_step_over_a_hypercall_ends_behind_it(guest: Tiny) -> None:
    core = guest.domain.core
    core.rflags = IF | STEP
    core.regs[RBX] = 0
    guest.run("0f05 ffc3 ffc3")  # RAX 0: set_trap_table, whose argument is no table
    assert core.rip == HANDLER
    assert guest.frame(7)[2] == va(CODE, 2)
    assert core.regs[RBX] == 0
    assert guest.domain.stats.hypercalls


def test_a_single_step_over_cpuid_ends_behind_it(guest: Tiny) -> None:
    core = guest.domain.core
    core.rflags = IF | STEP
    guest.run("0fa2 ffc3")
    assert core.rip == HANDLER
    assert guest.frame(7)[2] == va(CODE, 2)


@pytest.mark.parametrize("rip", [1 << 63, 1 << 47, 0xFFFF7FFFFFFFFFFF, 0xFFFF820000000000, 0xFFFF800000000000, 0])
def test_iret_to_a_wild_address_is_the_guests_fault_and_no_more(guest: Tiny, rip: int) -> None:
    iret(guest, rip=rip)
    guest.domain.slice(1_000_000)
    assert guest.domain.core.rip in (HANDLER, FAILSAFE) or guest.domain.ended == "crash"


def test_random_iret_frames_never_reach_python(guest: Tiny) -> None:
    choice = random.Random(1)
    for _ in range(300):
        values = {name: choice.choice((choice.getrandbits(64), choice.getrandbits(16), va(CODE, 0x400), KERNEL_TOP - 64))
                  for name in ("flags", "rip", "cs", "rflags", "rsp", "ss")}  # fmt: skip
        iret(guest, **values)
        guest.domain.slice(100_000)
        guest.domain.ended = ""
        vcpu = guest.domain.vcpus[0]
        if not vcpu.kernel_mode:
            vcpu.toggle_mode()
        guest.domain.core.load_code64(CS64, SS64)
        guest.domain.core.rflags = IF


def test_a_breakpoint_is_passed_with_the_resume_flag_and_met_again_without(guest: Tiny) -> None:
    core, debug = guest.domain.core, guest.domain.vcpus[0].debug
    guest.put(CODE, "90 48ffc3 ebfe", 0x800)
    assert guest.call("set_debugreg", 0, va(CODE, 0x800)) == guest.call("set_debugreg", 7, 1) == 0
    for resume, rip in ((0, HANDLER), (RESUME, va(CODE, 0x804)), (0, HANDLER)):
        core.rip, core.regs[RBX] = va(CODE), 0
        assert guest.call("set_debugreg", 6, 0) == 0
        iret(guest, rip=va(CODE, 0x800), rflags=0x202 | resume)
        guest.domain.slice(1_000_000)
        assert core.rip == rip
        assert core.regs[RBX] == bool(resume)
        if not resume:
            assert guest.frame(7)[2] == va(CODE, 0x800), "it is a fault"
            assert debug.dr6 == 0xFFFF0FF1
