"""What a trap, an event or a system call leaves on the guest kernel's stack, byte by byte, and the way back by iret."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from emulator.abi.errno import EFAULT, EINVAL, ENOSYS
from emulator.abi.xen import VI_UPCALL_MASK, VI_UPCALL_PENDING
from emulator.cpu.core import GS, R11, RAX, RBX, RCX, RSP
from tests.unit.domains import CODE, DATA, FREE_SLOT, PT_L1, STACK, USER_CODE, USER_STACK, Tiny, tiny, va

HANDLER, EVENT, FAILSAFE, SYSCALL = va(CODE, 0x400), va(CODE, 0x500), va(CODE, 0x600), va(CODE, 0x700)
CS64, SS64, KERNEL_CS = 0xE033, 0xE02B, 0xE030
IF, RESUME, AC, NT, DF = 0x200, 0x10000, 0x40000, 0x4000, 0x400
KERNEL_TOP = va(STACK, 4096)


@pytest.fixture
def guest() -> Iterator[Tiny]:
    with tiny() as made:
        for at in (0x400, 0x500, 0x600, 0x700):
            made.put(CODE, "ebfe", at)  # every handler waits where it is
        open_to_all = ((0x80, 3, HANDLER), (0x82, 7, HANDLER), (0x84, 3, HANDLER))
        made.traps(*((vector, 0, HANDLER) for vector in (0, 1, 3, 6, 7, 13, 14, 0x81)), *open_to_all)
        assert made.call("set_callbacks", EVENT, FAILSAFE, SYSCALL) == 0
        yield made


# --- frames ----------------------------------------------------------------------------------------------------------------


def test_a_fault_of_the_kernel_without_error_code(guest: Tiny) -> None:
    core = guest.domain.core
    core.regs[RCX], core.regs[R11], core.regs[RSP] = 0xC0C0, 0xB0B0, KERNEL_TOP - 0x108
    guest.run("90 0f0b")
    assert core.rip == HANDLER
    assert core.regs[RSP] == (KERNEL_TOP - 0x108 & ~15) - 56
    rcx, r11, rip, cs, flags, rsp, ss = guest.frame(7)
    assert (rcx, r11, rip) == (0xC0C0, 0xB0B0, va(CODE, 1))
    assert cs == KERNEL_CS | 1 << 32, "RPL 0 tells the kernel from user code; above it the saved upcall mask"
    assert flags & IF == 0, "IF shows the mask: events were masked"
    assert (rsp, ss) == (KERNEL_TOP - 0x108, SS64)


def test_a_fault_with_error_code(guest: Tiny) -> None:
    guest.domain.vcpus[0].upcall_masked = False
    guest.domain.core.regs[RBX] = va(FREE_SLOT)
    guest.run("90 488b03")
    _rcx, _r11, error, rip, cs, flags, rsp, ss = guest.frame(8)
    assert (error, rip, rsp, ss) == (0, va(CODE, 1), KERNEL_TOP, SS64), "the kernel's own fault: no user bit, though it runs in ring 3"
    assert cs == KERNEL_CS
    assert flags & IF
    assert guest.domain.memory.words[(guest.domain.vcpus[0].info + 16) >> 3] == va(FREE_SLOT)  # CR2
    assert guest.domain.core.regs[RSP] == KERNEL_TOP - 64
    assert not guest.masked(), "this entry does not mask events"


def test_a_fault_of_user_mode_switches_stack_tables_and_gs(guest: Tiny) -> None:
    core, vcpu = guest.domain.core, guest.domain.vcpus[0]
    assert guest.call("stack_switch", SS64, va(STACK, 0xF00)) == 0
    assert guest.call("set_segment_base", 1, 0x1111000) == 0  # the user's GS
    assert guest.call("set_segment_base", 2, 0x2222000) == 0  # the kernel's
    guest.user("90 488b0425" + va(FREE_SLOT).to_bytes(4, "little").hex())
    assert not vcpu.kernel_mode
    assert core.cr3 >> 12 == vcpu.cr3_user
    assert core.segment(GS)[1] == 0x1111000
    guest.domain.slice(1_000_000)
    assert core.cr3 >> 12 == vcpu.cr3_kernel
    assert guest.domain.current.kernel_mode
    assert core.segment(GS)[1] == 0x2222000
    assert core.regs[RSP] == va(STACK, 0xF00) - 64
    rcx, r11, error, rip, cs, flags, rsp, ss = guest.frame(8)
    assert (rcx, r11) == (0xCC, 0x11)
    assert (error, rip, rsp, ss) == (4, va(USER_CODE, 1), va(USER_STACK, 4096), SS64)
    assert cs == CS64
    assert flags & IF


def test_a_system_call_of_user_mode(guest: Tiny) -> None:
    core = guest.domain.core
    guest.user("f9 0f05 ebfe")
    core.regs[RAX] = 39
    guest.domain.slice(1_000_000)
    assert core.rip == SYSCALL
    rcx, r11, rip, cs, flags, rsp, ss = guest.frame(7)
    assert rcx == rip == va(USER_CODE, 3)
    assert r11 & 0x201 == 0x201, "R11 has the flags as they were"
    assert flags & 0x201 == 0x201
    assert (cs, ss, rsp) == (CS64, SS64, va(USER_STACK, 4096))
    assert core.regs[RAX] == 39


def test_a_system_call_without_an_entry_is_an_invalid_opcode(guest: Tiny) -> None:
    assert guest.call("set_callbacks", EVENT, FAILSAFE, 0) == 0
    guest.user("90 0f05")
    guest.domain.slice(1_000_000)
    assert guest.domain.core.rip == HANDLER
    assert guest.frame(7)[2] == va(USER_CODE, 1)


def test_flags_that_a_handler_must_not_see_are_cleared(guest: Tiny) -> None:
    core = guest.domain.core
    core.rflags = IF | AC | NT | DF | 0x100  # TF too
    guest.run("90 90")
    assert core.rip == HANDLER
    flags = guest.frame(7)[4]
    assert flags & (AC | NT | DF | 0x100) == AC | NT | DF | 0x100, "the frame has them as they were"
    assert core.rflags & (AC | NT | 0x100) == 0


def test_a_system_call_clears_the_direction_flag_as_syscall_mask_does(guest: Tiny) -> None:
    guest.user("fd 0f05")
    guest.domain.slice(1_000_000)
    assert guest.domain.core.rip == SYSCALL
    assert guest.frame(7)[4] & DF
    assert guest.domain.core.rflags & DF == 0
    assert guest.call("set_callbacks", EVENT, FAILSAFE, 0) == 0
    guest.user("fd 0f05")
    guest.domain.slice(1_000_000)
    assert guest.domain.core.rip == HANDLER
    assert guest.domain.core.rflags & DF, "a #UD leaves it alone"


@pytest.mark.parametrize("masks", [0, 1])
def test_a_system_call_of_32_bit_code(guest: Tiny, masks: int) -> None:
    """The masks of the 64-bit entry hold for this one, too: VGCF_syscall_disables_events is all that switch_to_kernel looks at."""
    assert guest.call_with("callback_op", 0, "HHxxxxQ", 6, 1 - masks, va(CODE, 0x710)) == 0
    assert guest.call_with("callback_op", 0, "HHxxxxQ", 2, masks, SYSCALL) == 0
    guest.put(CODE, "ebfe", 0x710)
    guest.user("0f05")
    guest.domain.current.core.load_code(0x1B, 0x00CFFB000000FFFF, 0x23, 0x00CFF3000000FFFF)
    guest.domain.slice(1_000_000)
    assert guest.domain.core.rip == va(CODE, 0x710)
    assert guest.frame(7)[2:4] == (va(USER_CODE, 2), 0xE023)
    assert guest.frame(7)[6] == SS64
    assert guest.masked() == bool(masks)


def test_sysenter_keeps_neither_its_place_nor_its_stack(guest: Tiny) -> None:
    guest.user("90 0f34")
    guest.domain.core.rflags = IF | AC
    guest.domain.slice(1_000_000)
    assert guest.domain.core.rip == HANDLER
    assert guest.frame(8)[2:] == (0, 0, 3, IF | AC | 2, 0, SS64), "a #GP(0) where nothing is registered"
    assert guest.call_with("callback_op", 0, "HHxxxxQ", 5, 1, SYSCALL) == 0
    guest.user("90 0f34")
    guest.domain.slice(1_000_000)
    assert guest.domain.core.rip == SYSCALL
    assert guest.frame(7)[2:4] == (0, 3)
    assert guest.frame(7)[5:] == (0, SS64)
    assert guest.masked()


def test_the_time_stamp_counter_is_the_kernels_to_forbid(guest: Tiny) -> None:
    guest.run("0f20e0 4883c804 0f22e0 0f31 ebfe")  # CR4.TSD; rdtsc
    assert guest.domain.core.rip == va(CODE, 12), "its own kernel reads it all the same"
    guest.user("90 0f31")
    guest.domain.slice(1_000_000)
    assert guest.domain.core.rip == HANDLER
    assert guest.frame(8)[2:4] == (0, va(USER_CODE, 1))
    guest.domain.core.regs[RSP] = KERNEL_TOP
    guest.run("0f20e0 4883e0fb 0f22e0 ebfe")
    guest.user("90 0f31 ebfe")
    guest.domain.slice(1_000_000)
    assert guest.domain.core.rip == va(USER_CODE, 3)


def test_the_debug_status_adds_up_until_the_guest_clears_it(guest: Tiny) -> None:
    core, debug = guest.domain.core, guest.domain.vcpus[0].debug
    core.rflags = IF | 0x100
    guest.run("90 90")
    assert debug.dr6 == 0xFFFF4FF0
    assert guest.call("set_debugreg", 6, 0) == 0
    assert guest.call("set_debugreg", 1, va(CODE, 0x801)) == guest.call("set_debugreg", 7, 4) == 0
    core.rflags, core.regs[RSP] = IF, KERNEL_TOP
    guest.put(CODE, "9090", 0x800)
    core.rip = va(CODE, 0x800)
    guest.domain.slice(1_000_000)
    assert core.rip == HANDLER
    assert debug.dr6 == 0xFFFF0FF2, "the step of before is not in it any more"


RF_OF = [("0f0b", True), ("488b042500000000", True),
         ("f4", True), ("cd0d", True), ("cd82", True), ("cc", False), ("cd80", False), ("f1", False), ("0f05", False)]  # fmt: skip


@pytest.mark.parametrize(("code", "resume"), RF_OF)
def test_faults_show_the_resume_flag_and_traps_do_not(guest: Tiny, code: str, resume: bool) -> None:
    guest.user(code)
    guest.domain.slice(1_000_000)
    frame = guest.frame(8)
    flags = frame[5] if frame[4] == CS64 else frame[4]  # with and without an error code
    assert bool(flags & RESUME) == resume
    assert guest.domain.core.rflags & RESUME == 0


SOFTWARE = [("cd80", 0x80, True), ("cd84", 0x84, True),
            ("cd81", 0x81, False), ("cc", 3, True), ("cd03", 3, True), ("cd0d", 13, False), ("cd01", 1, False), ("cd90", 0x90, False)]  # fmt: skip


@pytest.mark.parametrize(("code", "vector", "dpl_ok"), SOFTWARE)
def test_software_interrupts_of_user_mode(guest: Tiny, code: str, vector: int, dpl_ok: bool) -> None:
    guest.user("90" + code)
    guest.domain.slice(1_000_000)
    assert guest.domain.ended == ""
    assert guest.domain.core.rip == HANDLER
    if dpl_ok:
        assert guest.frame(7)[2] == va(USER_CODE, 1 + len(code) // 2)
    else:
        assert guest.frame(8)[2:4] == (vector << 3 | 2, va(USER_CODE, 1)), "#GP names the entry of the table"


def test_int_80_asks_for_no_privilege_level(guest: Tiny) -> None:
    guest.traps((0x80, 0, HANDLER), (0x85, 0, HANDLER))
    for code, rip in (("cd80", 2), ("cd85", 0)):
        guest.user(code)
        guest.domain.slice(1_000_000)
        assert guest.domain.core.rip == HANDLER
        assert va(USER_CODE, rip) in guest.frame(8)[2:4]


def test_an_entry_may_mask_events(guest: Tiny) -> None:
    guest.user("cd82")
    assert not guest.masked()
    guest.domain.slice(1_000_000)
    assert guest.masked()
    assert guest.frame(7)[3] >> 32 == 0, "the saved mask is that of before"


def test_privileged_instructions_of_user_mode_are_its_kernels_business(guest: Tiny) -> None:
    for code in ("fa", "f4", "0f20c0", "0f30", "ec"):
        guest.user(code)
        guest.domain.slice(1_000_000)
        assert guest.domain.core.rip == HANDLER
        assert guest.frame(8)[2:5] == (0, va(USER_CODE), CS64)
        guest.domain.core.regs[RSP] = KERNEL_TOP


# --- crashes --------------------------------------------------------------------------------------------------------------------


def test_a_fault_that_nobody_handles_crashes_the_domain_and_no_more(guest: Tiny) -> None:
    assert guest.call("set_trap_table", 0) == 0
    guest.run("0f0b")
    assert guest.domain.ended == "crash"
    assert "#UD" in guest.domain.crash_reason
    assert guest.domain.core.rip == va(CODE)


@pytest.mark.parametrize("rsp", [va(PT_L1, 2048), va(FREE_SLOT, 2048), 0, 8, 1 << 63, 0xFFFF800000001000, 0xFFFF880000000008])
def test_a_stack_that_cannot_be_written_crashes_the_domain(guest: Tiny, rsp: int) -> None:
    guest.domain.core.regs[RSP] = rsp
    before = guest.get(PT_L1, 4096)
    guest.run("0f0b")
    assert guest.domain.ended == "crash"
    assert guest.get(PT_L1, 4096)[2000:2048] == before[2000:2048]


def test_a_fault_of_the_fault_handler_ends_in_a_crash_by_stack(guest: Tiny) -> None:
    guest.put(CODE, "0f0b", 0x400)
    guest.run("0f0b", budget=1 << 40)
    assert guest.domain.ended == "crash"


# --- registering handlers --------------------------------------------------------------------------------------------------------


def test_callback_op(guest: Tiny) -> None:
    handlers = guest.domain.vcpus[0].handlers
    for kind, name in ((0, "event"), (1, "failsafe"), (2, "syscall"), (5, "sysenter"), (6, "syscall32")):
        assert guest.call_with("callback_op", 0, "HHxxxxQ", kind, 1, va(CODE, 0x800)) == 0
        assert getattr(handlers, name).address == va(CODE, 0x800)
        assert getattr(handlers, name).masks
    assert guest.call_with("callback_op", 0, "HHxxxxQ", 2, 0, va(CODE)) == 0
    assert not handlers.syscall.masks
    for kind in (3, 7, 100):
        assert guest.call_with("callback_op", 0, "HHxxxxQ", kind, 0, va(CODE)) < 0
    assert guest.call_with("callback_op", 0, "HHxxxxQ", 0, 0, 1 << 63) == -EINVAL
    assert guest.call("callback_op", 0, va(FREE_SLOT)) == -EFAULT
    assert guest.call_with("callback_op", 7, "HHxxxxQ", 0, 0, va(CODE)) == -ENOSYS
    for kind in (0, 1, 2, 5, 6):
        assert guest.call_with("callback_op", 1, "HH", kind, 0) == -EINVAL
    assert guest.call_with("callback_op", 1, "HH", 4, 0) == 0
    assert 2 not in handlers.traps


def test_set_trap_table(guest: Tiny) -> None:
    traps = guest.domain.vcpus[0].handlers.traps
    entry = struct.pack("<BBHxxxxQ", 0x21, 7, CS64, va(CODE, 0x900))
    assert guest.call("set_trap_table", guest.put(DATA, entry + bytes(16))) == 0
    assert (traps[0x21].dpl, traps[0x21].masks, traps[0x21].address) == (3, True, va(CODE, 0x900))
    assert guest.call("set_trap_table", va(FREE_SLOT)) == -EFAULT
    assert guest.call("set_trap_table", guest.put(DATA, struct.pack("<BBHxxxxQ", 0x22, 0, CS64, 1 << 63) + bytes(16))) == -EINVAL
    assert 0x22 not in traps
    before_bad = struct.pack("<BBHxxxxQ", 0x23, 0, CS64, va(CODE)) + struct.pack("<BBHxxxxQ", 0x24, 0, CS64, 1 << 63)
    assert guest.call("set_trap_table", guest.put(DATA, before_bad)) == -EINVAL
    assert 0x23 in traps and 0x24 not in traps, "entry by entry, as far as it goes"
    assert guest.call("set_trap_table", 0) == 0
    assert not guest.domain.vcpus[0].handlers.traps


def test_events_reach_the_callback_and_mask_themselves(guest: Tiny) -> None:
    domain, info = guest.domain, guest.domain.vcpus[0].info
    domain.vcpus[0].upcall_masked = False
    port = domain.events.bind_ipi(0)
    domain.core.regs[RSP] = KERNEL_TOP
    guest.run("ebfe")
    assert domain.core.rip == va(CODE)
    assert guest.call_with("event_channel_op", 4, "I", port) == 0
    assert domain.core.rip == EVENT, "delivered on the way out of the hypercall"
    _rcx, _r11, rip, cs, flags, rsp, ss = guest.frame(7)
    assert (rip, cs, rsp, ss) == (va(CODE, 2), KERNEL_CS, KERNEL_TOP, SS64)
    assert flags & IF
    assert guest.masked()
    assert domain.memory.bytes[info + VI_UPCALL_PENDING] == 1
    assert domain.memory.bytes[info + VI_UPCALL_MASK] == 1
