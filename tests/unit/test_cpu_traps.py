"""Every kind of trap in ring 3: its vector, the exact RIP, the error code, CR2."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from emulator.cpu import native
from emulator.cpu.core import CF, IF, RAX, RBX, RCX, RDX, RSP, TF, ZF
from tests.unit.cores import ALIAS, CODE, DATA, L1, NON_CANONICAL, NX, READ_ONLY, UNMAPPED, Bare, Trap

PF, GP, UD, DB, BP, DE, NM = 14, 13, 6, 1, 3, 0, 7


@pytest.fixture
def bare() -> Iterator[Bare]:
    machine = Bare()
    yield machine
    machine.close()


@pytest.mark.parametrize(("what", "code", "rbx", "error"), [
    ("a read of nothing", "90 488b03", UNMAPPED, 4),
    ("a write to nothing", "90 488903", UNMAPPED, 6),
    ("a write to a read-only page", "90 488903", READ_ONLY, 7),
    ("a byte write to a read-only page", "90 8803", READ_ONLY + 0xFFF, 7),
    ("a push to nothing", "90 ff33", UNMAPPED, 4),
])  # fmt: skip
def test_page_fault_of_data(bare: Bare, what: str, code: str, rbx: int, error: int) -> None:
    bare.core.regs[RBX] = rbx
    assert bare.trap(code) == Trap(PF, CODE + 1, error, rbx, False)


@pytest.mark.parametrize(("target", "error"), [(UNMAPPED, 0x14), (DATA, 0x15), (ALIAS + 8, 0x15)])
def test_page_fault_of_execution(bare: Bare, target: int, error: int) -> None:
    bare.core.regs[RBX] = target
    assert bare.trap("ffe3") == Trap(PF, target, error, target, False)  # jmp rbx: the fault is the target's


def test_a_fault_across_a_pages_end_tells_the_second_page(bare: Bare) -> None:
    bare.core.regs[RBX] = READ_ONLY - 4
    trap = bare.trap("488903")
    assert (trap.vector, trap.rip, trap.error, trap.cr2) == (PF, CODE, 7, READ_ONLY)
    assert bare.memory.words[(READ_ONLY - 8) >> 3] == 0, "nothing was stored"


def test_an_instruction_that_runs_into_an_unmapped_page_faults_there(bare: Bare) -> None:
    bare.map(0x9000, 0, 0)
    bare.load("4831c0", at=0x8FFC)
    bare.load("488b", at=0x8FFF - 1)
    bare.core.rip = 0x8FFE
    assert bare.run() == 0
    assert (bare.traps[0].vector, bare.traps[0].rip, bare.traps[0].cr2, bare.traps[0].error) == (PF, 0x8FFE, 0x9000, 0x14)


def test_a_thousand_page_faults_in_a_row_stay_page_faults(bare: Bare) -> None:
    bare.core.regs[RBX] = UNMAPPED

    def handle(_vector: int) -> None:
        if len(bare.traps) == 1000:
            bare.core.stop()

    bare.on_trap = handle
    bare.load("488b03")
    assert bare.run(10_000_000) == 0
    assert bare.traps == [Trap(PF, CODE, 4, UNMAPPED, False)] * 1000


def test_a_page_fault_that_is_mended_goes_on_with_the_same_instruction(bare: Bare) -> None:
    bare.memory.words[DATA >> 3] = 42
    bare.core.regs[RBX] = 0x3F000

    def mend(_vector: int) -> None:
        if len(bare.traps) == 1:
            bare.map(0x3F000, DATA, 7 | NX)
        else:
            bare.core.stop()

    bare.map(0x3F000, 0, 0)
    bare.on_trap = mend
    bare.load("488b03 48ffc0 0f0b")  # mov rax, [rbx]; inc rax; ud2
    assert bare.run() == 0
    assert [trap.vector for trap in bare.traps] == [PF, UD]
    assert bare.core.regs[RAX] == 43


PRIVILEGED = {
    "cli": "fa", "sti": "fb", "hlt": "f4", "lgdt": "0f0113", "lidt": "0f011b", "lldt": "0f00d0", "ltr": "0f00d8", "mov to cr0": "0f22c0",
    "mov from cr0": "0f20c0", "mov to cr3": "0f22d8", "mov to cr4": "0f22e0", "mov from cr2": "0f20d0", "mov to dr7": "0f23f8",
    "mov from dr7": "0f21f8", "wrmsr": "0f30", "rdmsr": "0f32", "invlpg": "0f013b", "clts": "0f06", "wbinvd": "0f09", "invd": "0f08",
    "lmsw": "0f01f0", "swapgs": "0f01f8", "in al, dx": "ec", "out dx, al": "ee", "in eax, 0x80": "e580", "out 0x80, al": "e680",
    "sysret": "480f07", "sysexit": "0f35", "non-canonical read": "488b01",
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(PRIVILEGED))
def test_general_protection(bare: Bare, name: str) -> None:
    bare.core.regs[RCX] = NON_CANONICAL
    bare.core.regs[RBX] = DATA
    trap = bare.trap("90" + PRIVILEGED[name])
    assert (trap.vector, trap.rip, trap.error) == (GP, CODE + 1, 0)


def test_string_io_is_refused_before_it_moves_anything(bare: Bare) -> None:
    bare.core.regs[7] = bare.core.regs[6] = DATA
    bare.core.regs[RCX] = 4
    for code in ("f36c", "f36e"):  # rep insb; rep outsb
        trap = bare.trap(code)
        assert (trap.vector, trap.rip, bare.core.regs[RCX]) == (GP, CODE, 4)


def test_ports_answer_all_ones_to_a_guest_that_may(bare: Bare) -> None:
    bare.core.control[native.IO_ALLOWED] = 1
    trap = bare.trap("66ba7000 ed 89c3 e460 ee 0f0b")  # mov dx, 0x70; in eax, dx; mov ebx, eax; in al, 0x60; out dx, al; ud2
    assert trap.vector == UD
    assert bare.core.regs[RBX] == 0xFFFFFFFF
    assert bare.core.regs[RAX] & 0xFF == 0xFF


@pytest.mark.parametrize(("name", "code"), {
    "ud2": "0f0b", "rdrand": "0fc7f0", "rdseed": "0fc7f8", "vpxor ymm": "c5fdefc0", "andn": "c4e278f2c3", "icebp": "f1", "ud0": "0fff",
    "push es": "06", "into": "ce", "vmcall": "0f01c1", "xgetbv without XSAVE": "0f01d0", "xsave": "0fae23", "rdpmc": "0f33",
    "movbe": "0f38f003", "rdtscp": "0f01f9", "rdpid": "f30fc7f8", "rdfsbase": "f3480faec0", "monitor": "0f01c8", "sha1nexte": "0f38c8c0",
}.items())  # fmt: skip
def test_invalid_opcode(bare: Bare, name: str, code: str) -> None:
    bare.core.regs[RBX] = DATA
    bare.core.regs[RCX] = 0
    trap = bare.trap("90" + code)
    assert (trap.vector, trap.rip) == (UD, CODE + 1)


def test_division(bare: Bare) -> None:
    trap = bare.trap("31c9 90 f7f1")  # xor ecx, ecx; nop; div ecx
    assert (trap.vector, trap.rip) == (DE, CODE + 3)
    bare.core.regs[RDX] = 5
    trap = bare.trap("b901000000 f7f1")  # the quotient does not fit
    assert (trap.vector, trap.rip) == (DE, CODE + 5)


@pytest.mark.parametrize(("code", "vector", "size"), [("cc", BP, 1), ("cd03", BP, 2), ("cd80", 0x80, 2), ("cd00", 0, 2), ("cd0e", PF, 2),
                                                       ("cdff", 0xFF, 2)])  # fmt: skip
def test_software_interrupts_point_behind_themselves(bare: Bare, code: str, vector: int, size: int) -> None:
    trap = bare.trap("90" + code)
    assert (trap.vector, trap.rip, trap.software) == (vector, CODE + 1 + size, True)


def test_a_fault_after_a_software_interrupt_is_no_software_interrupt(bare: Bare) -> None:
    bare.trap("cd80")
    assert not bare.trap("0f0b").software
    bare.trap("cd80")
    bare.core.regs[RBX] = UNMAPPED
    assert not bare.trap("488b03").software


def test_single_step(bare: Bare) -> None:
    bare.load("90 48ffc0 48ffc0 0f0b")
    bare.core.rflags = TF | IF
    bare.core.regs[RAX] = 0
    for expected in (CODE + 1, CODE + 4, CODE + 7):
        bare.traps.clear()
        assert bare.run() == 0
        assert [(trap.vector, trap.rip) for trap in bare.traps] == [(DB, expected)]
        assert bare.core.debug_register(6) & 0x4000
    assert bare.core.regs[RAX] == 2


def test_execution_breakpoints(bare: Bare) -> None:
    core = bare.core
    core.set_breakpoints([CODE + 1, CODE + 4, 0, 0], 0x400 | 1 | 4)
    bare.load("90 48ffc0 48ffc0 0f0b")
    core.regs[RAX] = 0
    assert bare.run() == 0
    assert [(trap.vector, trap.rip) for trap in bare.traps] == [(DB, CODE + 1)]
    assert core.debug_register(6) & 3 == 1
    core.set_breakpoints([CODE + 1, CODE + 4, 0, 0], 0x400 | 4)
    assert bare.run() == 0
    assert (bare.traps[-1].vector, bare.traps[-1].rip, core.regs[RAX]) == (DB, CODE + 4, 1)
    core.set_breakpoints([0, 0, 0, 0], 0x400)
    assert bare.run() == 0
    assert (bare.traps[-1].vector, core.regs[RAX]) == (UD, 2)


def test_breakpoints_can_be_set_anew_many_times(bare: Bare) -> None:
    for round_ in range(200):
        bare.core.set_breakpoints([CODE + 1 + round_ % 3, CODE + 2, CODE + 3, CODE + 5], 0x400 | 0x55)
    bare.core.set_breakpoints([0] * 4, 0x400)
    assert bare.trap("90909090900f0b").vector == UD


def test_calls_of_our_own(bare: Bare) -> None:
    trap = bare.trap("90 0f05")
    assert (trap.vector, trap.rip) == (native.VECTOR_SYSCALL, CODE + 1)
    trap = bare.trap("90 0f34")
    assert (trap.vector, trap.rip) == (native.VECTOR_SYSENTER, CODE + 1)
    trap = bare.trap("90 0fa2")
    assert (trap.vector, trap.rip) == (native.VECTOR_CPUID, CODE + 1)


def test_a_syscall_leaves_registers_and_flags_alone(bare: Bare) -> None:
    core = bare.core
    for number in range(16):
        if number != RSP:
            core.regs[number] = 0x1000 + number
    bare.load("f9 0f05")  # stc; syscall
    before = list(core.regs)
    assert bare.run() == 0
    assert list(core.regs) == before
    assert core.rflags & CF


def test_fpu_instructions_wait_for_the_task_switch(bare: Bare) -> None:
    bare.core.task_switched = True
    trap = bare.trap("90 0f57c0 0f0b")  # xorps xmm0, xmm0
    assert (trap.vector, trap.rip) == (NM, CODE + 1)
    bare.core.task_switched = False
    bare.traps.clear()
    assert bare.run() == 0
    assert bare.traps[0].vector == UD


def test_the_clock_is_ours(bare: Bare) -> None:
    control = bare.core.control
    control[native.TSC_BASE] = 0x1_2345_0000_0000
    control[native.COUNT] = 80 << native.COUNT_SHIFT
    control[native.TSC_COST] = 100 << native.COUNT_SHIFT
    bare.trap("0f31 4889c3 4889d6 0f31 0f0b")  # rdtsc; mov rbx, rax; mov rsi, rdx; rdtsc; ud2
    regs = bare.core.regs
    first, second = regs[6] << 32 | regs[RBX], regs[RDX] << 32 | regs[RAX]
    assert 180 <= first - 0x1_2345_0000_0000 < 1200  # the first block's bytes, and the read's own cost
    assert 100 <= second - first < 110


def test_the_clock_never_goes_back_or_stands(bare: Bare) -> None:
    # L: rdtsc; shl rdx, 32; or rax, rdx; cmp rax, rbx; jbe out; mov rbx, rax; dec rcx; jnz L; xor edi, edi; out: ud2
    bare.core.regs[RCX], bare.core.regs[7] = 5000, 1
    bare.load("0f31 48c1e220 4809d0 4839d8 760a 4889c3 48ffc9 75ea 31ff 0f0b")
    bare.core.regs[RBX] = 0
    assert bare.run(100_000_000) == 0
    assert bare.core.regs[7] == 0, "RDTSC stood or went back"


def test_a_handlers_exception_comes_out_of_run(bare: Bare) -> None:
    def fail(_vector: int) -> None:
        raise KeyError("ours")

    bare.on_trap = fail
    bare.load("0f0b")
    with pytest.raises(KeyError, match="ours"):
        bare.run()
    bare.on_trap = None
    assert bare.trap("f8 0f0b").vector == UD


def test_flags_are_whole_inside_and_outside_of_a_run(bare: Bare) -> None:
    core, seen = bare.core, []

    def handle(_vector: int) -> None:
        seen.append(core.rflags)
        core.rip += 2
        if len(seen) == 1:
            core.rflags = CF | ZF | 0x400 | IF | 0x40000  # DF, AC too
        else:
            core.stop()

    bare.on_trap = handle
    # stc; ud2 | pushfq; pop rbx; ud2
    bare.load("4831c0 f9 0f0b 9c 5b 0f0b")
    assert bare.run() == 0
    assert seen[0] & (CF | ZF | IF | 0x400) == CF | ZF | IF
    assert core.regs[RBX] & (CF | ZF | 0x400 | IF | 0x40000 | 2) == CF | ZF | 0x400 | IF | 0x40000 | 2
    outside = core.rflags
    assert outside & (CF | ZF | 0x400 | IF) == CF | ZF | 0x400 | IF
    core.rflags = IF
    bare.on_trap = None
    bare.traps.clear()
    bare.load("9c 5b 0f0b")
    assert bare.run() == 0
    assert core.regs[RBX] & (CF | ZF | 0x400 | 0x40000) == 0


def test_an_entry_marked_non_executable_refuses_after_a_flush(bare: Bare) -> None:
    bare.load("f8 0f0b")
    assert bare.run() == 0
    index = (L1 << 9) + (CODE >> 12)
    bare.memory.words[index] |= NX
    bare.core.flush_page(CODE)
    bare.core.rip = CODE
    bare.traps.clear()
    assert bare.run() == 0
    assert (bare.traps[0].vector, bare.traps[0].error) == (PF, 0x15)
    bare.memory.words[index] &= ~NX & (1 << 64) - 1
    bare.core.flush_tlb()
    bare.traps.clear()
    assert bare.run() == 0
    assert bare.traps[0].vector == UD
