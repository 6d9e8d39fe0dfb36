"""privileged() and forced(): what Xen carries out, under which permission, and what stays a fault."""

from __future__ import annotations

import pytest

from emulator.hypervisor.emulation import Emulator, Kind, Outcome
from tests.unit.emulation_state import CODE, DATA, SIZE, FakeState

KERNEL, USER = True, False
ONES = (1 << 64) - 1


def run(code: str, **changes: object) -> tuple[FakeState, Outcome]:
    state = FakeState(bytes.fromhex(code))
    for name, value in changes.items():
        setattr(state, name, value)
    return state, Emulator().privileged(state)


def refused(code: str, **changes: object) -> None:
    state, outcome = run(code, **changes)
    assert outcome.kind is Kind.UNHANDLED
    assert state.rip == CODE


@pytest.mark.parametrize("code", ["fa", "fb", "f3fa"])
def test_cli_and_sti_are_ignored_under_virtual_iopl_and_refused_without(code: str) -> None:
    for in_kernel, iopl, architectural, allowed in (
        (KERNEL, 0x1000, False, True), (KERNEL, 0, False, False), (KERNEL, 0, True, True),
        (USER, 0x1000, False, False), (USER, 0x3000, False, True), (USER, 0x2000, True, False),
    ):  # fmt: skip
        state, outcome = run(code, in_kernel=in_kernel, iopl=iopl, architectural_iopl=architectural)
        assert (outcome.kind is Kind.DONE) is allowed
        assert state.rip == CODE + (len(code) // 2 if allowed else 0)
        assert state.rflags == 0x202


@pytest.mark.parametrize(
    ("code", "before", "after"),
    [
        ("ec", ONES - 0xFF, ONES),
        ("66ed", ONES - 0xFFFF, ONES),
        ("ed", 5 << 32, 0xFFFFFFFF),
        ("e460", 0x1200, 0x12FF),
        ("e560", ONES << 32 & ONES, 0xFFFFFFFF),
        ("48ed", 0, 0xFFFFFFFF),
    ],
)
def test_in_reads_all_ones(code: str, before: int, after: int) -> None:
    state = FakeState(bytes.fromhex(code))
    state.regs[0], state.regs[2] = before, 0x60
    assert Emulator().privileged(state).kind is Kind.DONE
    assert state.regs[0] == after
    assert state.rip == CODE + len(code) // 2


@pytest.mark.parametrize("code", ["ee", "66ef", "ef", "e680", "e780"])
def test_out_goes_nowhere(code: str) -> None:
    state, outcome = run(code)
    assert outcome.kind is Kind.DONE
    assert state.regs == [0] * 16


def test_ports_of_a_user_need_the_bitmap_for_every_byte() -> None:
    for ports, size_prefix, allowed in (
        ({0x60}, "", True),
        ({0x60}, "66", False),
        ({0x60, 0x61}, "66", True),
        (set(), "", False),
    ):
        code = "ec" if not size_prefix else "66ed"
        state = FakeState(bytes.fromhex(code), in_kernel=USER, iopl=0)
        state.ports = ports
        state.regs[2] = 0xABCD0060
        assert (Emulator().privileged(state).kind is Kind.DONE) is allowed


def test_ins_fills_memory_with_ones_and_counts_down() -> None:
    state = FakeState(bytes.fromhex("f3 66 6d"))  # rep insw
    state.regs[1], state.regs[2], state.regs[7] = 5, 0x1F0, DATA
    assert Emulator().privileged(state).kind is Kind.DONE
    assert (state.regs[1], state.regs[7], state.rip) == (0, DATA + 10, CODE + 3)
    assert state.memory[DATA : DATA + 11] == b"\xff" * 10 + b"\0"


def test_ins_stops_at_the_page_that_faults_with_what_is_done_kept() -> None:
    state = FakeState(bytes.fromhex("f36c"))
    state.regs[1], state.regs[7] = 8, DATA + 0xFFD
    state.unmapped.add(DATA + 0x1000)
    outcome = Emulator().privileged(state)
    assert (outcome.kind, outcome.vector, outcome.error_code, outcome.cr2) == (Kind.FAULT, 14, 6, DATA + 0x1000)
    assert (state.regs[1], state.regs[7], state.rip) == (5, DATA + 0x1000, CODE)


def test_outs_reads_backwards_through_fs_and_leaves_a_long_count_for_later() -> None:
    state = FakeState(bytes.fromhex("f3646e"))  # rep outsb %fs:(%rsi), %dx
    state.bases["fs"] = DATA - 0x100
    state.regs[1], state.regs[6] = 9, 0x110
    state.rflags |= 0x400
    assert Emulator().privileged(state).kind is Kind.DONE
    assert (state.regs[1], state.regs[6]) == (0, 0x107)
    state = FakeState(bytes.fromhex("f36c"))
    state.regs[1], state.regs[7] = 5000, DATA
    assert Emulator().privileged(state).kind is Kind.DONE
    assert (state.regs[1], state.rip) == (904, CODE)


def test_a_single_stepped_ins_does_one_iteration() -> None:
    state = FakeState(bytes.fromhex("f36c"))
    state.regs[1], state.regs[7] = 3, DATA
    state.rflags |= 0x100
    outcome = Emulator().privileged(state)
    assert outcome.step
    assert (state.regs[1], state.rip) == (2, CODE)


@pytest.mark.parametrize(("code", "number"), [("0f20c0", 0), ("0f20d0", 2), ("0f20d8", 3), ("0f20e0", 4)])
def test_control_registers_are_read_by_the_kernel_only(code: str, number: int) -> None:
    state, outcome = run(code)
    assert outcome.kind is Kind.DONE
    assert state.regs[0] == state.cr[number]
    refused(code, in_kernel=USER)


def test_writing_control_registers() -> None:
    for code, number, value, kept in (
        ("0f22d0", 2, 0xDEAD, 0xDEAD),
        ("0f22d8", 3, 0x7000, 0x7000),
        ("0f22e0", 4, 0x3706F8, 0x660 | 8),  # bits that are not the guest's are dropped; Xen's own show
        ("0f22c0", 0, 0x8005003B ^ 8, 0x80050033),
    ):
        state, outcome = run(code, regs=[value] + [0] * 15)
        assert outcome.kind is Kind.DONE
        assert state.cr[number] == kept
        refused(code, regs=[value] + [0] * 15, in_kernel=USER)
    refused("0f22c0", regs=[0x11] + [0] * 15)  # paging off
    refused("0f22d8", regs=[0x7000] + [0] * 15, refused={3})
    refused("440f22c0")  # CR8
    refused("440f20c0")


def test_clts() -> None:
    state, outcome = run("0f06")
    assert outcome.kind is Kind.DONE
    assert state.cr[0] == 0x80050033
    refused("0f06", in_kernel=USER)


def test_debug_registers() -> None:
    state, outcome = run("0f21c8")  # mov %db1, %rax
    assert outcome.kind is Kind.DONE
    assert state.regs[0] == 0x11
    state, outcome = run("0f21e8")  # %db5 is %db7
    assert state.regs[0] == 0x400
    state, outcome = run("0f21e8", cr={4: 8})  # unless CR4.DE
    assert (outcome.kind, outcome.vector, outcome.error_code) == (Kind.FAULT, 6, None)
    state, outcome = run("0f23f8", regs=[0x401] + [0] * 15)
    assert state.dr[7] == 0x401
    state, outcome = run("0f23f8", refused={7})
    assert (outcome.kind, outcome.vector, outcome.error_code) == (Kind.FAULT, 13, 0)
    refused("0f23f8", in_kernel=USER)


def test_model_specific_registers() -> None:
    state, outcome = run("0f32", msrs={0xC0000100: 0x1234567890ABCDEF}, regs=[ONES, 0xFFFFFFFF_C0000100] + [0] * 14)
    assert outcome.kind is Kind.DONE
    assert (state.regs[0], state.regs[2]) == (0x90ABCDEF, 0x12345678)
    state, outcome = run("0f30", msrs={0xC0000101: 0}, regs=[ONES, 0xC0000101, 0xFFFFFFFF_00000001] + [0] * 13)
    assert outcome.kind is Kind.DONE
    assert state.msrs[0xC0000101] == 0x1FFFFFFFF
    refused("0f32")
    refused("0f30")
    refused("0f32", msrs={0: 1}, in_kernel=USER)
    refused("0f30", msrs={0: 1}, in_kernel=USER)


def test_the_time_stamp_counter_obeys_cr4_tsd_for_users_only() -> None:
    msrs = {0x10: 0x500000007, 0xC0000103: 9}
    state, outcome = run("0f31", msrs=msrs, in_kernel=USER)
    assert (outcome.kind, state.regs[0], state.regs[2]) == (Kind.DONE, 7, 5)
    state, outcome = run("0f01f9", msrs=msrs, cr={4: 4})
    assert (outcome.kind, state.regs[0], state.regs[2], state.regs[1]) == (Kind.DONE, 7, 5, 9)
    refused("0f31", msrs=msrs, in_kernel=USER, cr={4: 4})
    refused("0f01f9", msrs={0x10: 1})


def test_cpuid_and_its_faulting() -> None:
    state, outcome = run("0fa2", regs=[0x40000000] + [0] * 15, in_kernel=USER)
    assert outcome.kind is Kind.DONE
    assert b"".join(state.regs[number].to_bytes(4, "little") for number in (3, 1, 2)) == b"XenVMMXenVMM"
    refused("0fa2", msrs={0x140: 1}, in_kernel=USER)
    assert run("0fa2", msrs={0x140: 1})[1].kind is Kind.DONE


def test_wbinvd_is_ignored() -> None:
    assert run("0f09")[1].kind is Kind.DONE
    refused("0f09", in_kernel=USER)


def test_xsetbv_is_no_instruction_of_this_cpu() -> None:
    assert run("0f01d1")[1].vector == 6


@pytest.mark.parametrize("code", ["0f20c8", "0f22c8", "0f20e8", "440f20c8", "440f22f8"])
@pytest.mark.parametrize("in_kernel", [KERNEL, USER])
def test_a_control_register_that_does_not_exist_is_no_instruction(code: str, in_kernel: bool) -> None:
    assert run(code, in_kernel=in_kernel)[1].vector == 6


WILD = 0x900000000000


@pytest.mark.parametrize(
    ("code", "register", "value", "stack"),
    [
        ("50", 4, WILD, True), ("58", 4, WILD, True), ("50", 4, 0x800000000000, False), ("58", 4, 0x800000000000, True), ("c3", 4, WILD, True),
        ("e800000000", 4, WILD, True), ("c9", 5, WILD, True), ("488b4500", 5, WILD, True), ("488b0424", 4, WILD, True), ("488b03", 3, WILD, False),
        ("64488b4500", 5, WILD, False), ("488b4508", 5, 0x7FFFFFFFFFF1, True), ("488d4500", 5, WILD, False), ("ff33", 3, WILD, False),
        ("9c", 4, WILD, True), ("f4", 4, WILD, False),
    ],
)  # fmt: skip
def test_a_non_canonical_stack_is_told_from_other_addresses(code: str, register: int, value: int, stack: bool) -> None:
    state = FakeState(bytes.fromhex(code))
    state.regs[register] = value
    assert Emulator().stack_fault(state) is stack


@pytest.mark.parametrize(
    "code",
    ["f4", "0f08", "0f013f", "0f01f0", "0f0117", "0f011f", "0f00d0", "0f00d8", "0f01f8", "0f07", "480f07", "0f01c8", "0f01c9",
     "48cf", "0f35", "0fc733", "0f3807", "f0fa0f", "0f01d0", "8ed8", "cd80", "0fff", "f00f20c0", "9d", "0f33", "f3480faec0",
     "cf"],
)  # fmt: skip
def test_the_rest_stays_a_general_protection_fault(code: str) -> None:
    refused(code)


def test_compatibility_code_is_decoded_as_such() -> None:
    state = FakeState(bytes.fromhex("40e460"), in_kernel=USER, iopl=0x3000)  # inc %eax, not REX
    state.code_size = 32
    assert Emulator().privileged(state).kind is Kind.UNHANDLED
    state = FakeState(bytes.fromhex("e460"), in_kernel=USER, iopl=0x3000)
    state.code_size = 32
    assert Emulator().privileged(state).kind is Kind.DONE
    refused("ec", code_size=16)


def test_code_cut_off_by_an_unmapped_page_faults_there() -> None:
    state = FakeState()
    state.memory[CODE + 0xFFF] = 0x0F
    state.rip = CODE + 0xFFF
    state.unmapped.add(CODE + 0x1000)
    outcome = Emulator().privileged(state)
    assert (outcome.kind, outcome.vector, outcome.cr2) == (Kind.FAULT, 14, CODE + 0x1000)


def test_retiring_clears_rf_and_reports_a_step() -> None:
    state = FakeState(bytes.fromhex("fb"))
    state.rflags = 0x10302
    assert Emulator().privileged(state).step
    assert state.rflags == 0x302


FORCED = "0f0b78656e0fa2"


def test_forced_cpuid() -> None:
    state = FakeState(bytes.fromhex(FORCED))
    state.regs[0], state.regs[1] = ONES << 32 & ONES | 0x40000001, ONES << 32 & ONES
    outcome = Emulator().forced(state)
    assert outcome.kind is Kind.DONE
    assert (state.rip, state.regs[0], state.regs[3]) == (CODE + 7, 4 << 16 | 17, 0)


@pytest.mark.parametrize("code", ["0f0b", "0f0b78656e0f31", "0f0b78656f0fa2", "0fa2", "0fb9"])
def test_no_other_instruction_is_forced(code: str) -> None:
    state = FakeState(bytes.fromhex(code))
    assert Emulator().forced(state).kind is Kind.UNHANDLED
    assert state.rip == CODE


def test_a_forced_cpuid_over_a_page_end_faults_where_it_ends() -> None:
    for offset in (3, 6):
        state = FakeState()
        state.rip = CODE + 0x1000 - offset
        state.memory[state.rip : state.rip + 7] = bytes.fromhex(FORCED)
        state.unmapped.add(CODE + 0x1000)
        outcome = Emulator().forced(state)
        assert (outcome.vector, outcome.error_code, outcome.cr2) == (14, 0, CODE + 0x1000)


def test_a_forced_cpuid_of_a_user_under_faulting_is_a_general_protection_fault_at_the_cpuid() -> None:
    state = FakeState(bytes.fromhex(FORCED), in_kernel=USER)
    state.msrs[0x140] = 1
    outcome = Emulator().forced(state)
    assert (outcome.kind, outcome.vector, outcome.error_code, state.rip) == (Kind.FAULT, 13, 0, CODE + 5)


def test_the_end_of_memory_is_a_page_fault() -> None:
    state = FakeState()
    state.rip = SIZE
    assert Emulator().privileged(state).vector == 14
    assert Emulator().forced(state).cr2 == SIZE
