"""The native crossing between the modes: its comments are its bytes, and a guest cannot tell it from Python's."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from emulator.abi.xen import VI_UPCALL_MASK, VI_UPCALL_PENDING
from emulator.cpu import crossing, layout, native
from emulator.cpu.core import GS, RAX, RBX, RSP
from emulator.hypervisor import crossing as hypervisor_crossing
from emulator.hypervisor.domain import Domain
from emulator.hypervisor.selectors import load_code
from emulator.hypervisor.state import DomainState, save_domain
from emulator.hypervisor.trace import Trace
from emulator.hypervisor.vcpu import Callback
from tests.unit.domains import CODE, DATA, PT_L1, STACK, USER_CODE, USER_L4, Tiny, tiny, va
from tests.unit.machinecode import check, disassembled


def names() -> dict[str, dict[str, int]]:
    """What lies beside RBP (the control block), RBX (the vCPU's words) and R12 (CPUX86State)."""
    control = {name: 8 * value for name, value in vars(native).items() if isinstance(value, int)}
    words = {name: 8 * value for name, value in vars(crossing).items() if isinstance(value, int)}
    return {"rbp": control, "rbx": words, "r12": {name: value for name, value in vars(crossing).items() if name.startswith("E_")}}


# --- the bytes -----------------------------------------------------------------------------------------------------------------


def test_every_line_disassembles_to_its_comment_and_the_jumps_go_where_they_say() -> None:
    check(crossing.__file__, crossing.CROSSING, names(), {})


def test_the_offsets_are_those_of_the_layout() -> None:
    assert crossing.E_RIP == layout.ENV_RIP * 8
    assert crossing.E_EFLAGS == layout.ENV_EFLAGS * 8
    assert crossing.E_CC_SRC == layout.ENV_CC_SRC * 8
    assert tuple(4 * word for word in (layout.ENV_CC_OP, layout.ENV_DF, layout.ENV_HFLAGS)) == (crossing.E_CC_OP, crossing.E_DF, crossing.E_HFLAGS)
    assert crossing.E_CS == layout.ENV_SEGMENTS + layout.SEGMENT_BYTES
    assert crossing.E_GS_BASE == layout.ENV_SEGMENTS + GS * layout.SEGMENT_BYTES + 8


def test_what_the_caller_keeps_is_pushed_first_and_popped_before_every_way_out() -> None:
    instructions = disassembled(crossing.CROSSING)
    pushed = [instruction.op_str for instruction in instructions[:5] if instruction.mnemonic == "push"]
    assert pushed == ["rbx", "rbp", "r12", "r13", "r14"]
    popped = [instruction.op_str for instruction in instructions if instruction.mnemonic == "pop"]
    assert popped == pushed[::-1] * 3
    assert sum(instruction.mnemonic in ("push", "pop") for instruction in instructions) == 20
    subroutines = {int(i.op_str, 16) for i in instructions if i.mnemonic == "call" and i.op_str.startswith("0x")}
    for number, instruction in enumerate(instructions):
        if instruction.mnemonic == "ret" and instruction.address < min(subroutines):
            assert instructions[number - 1].op_str == "rbx"
        if instruction.mnemonic == "jmp" and instruction.op_str == "rax":
            assert "rbx" in (instructions[number - 1].op_str, instructions[number - 2].op_str)


# --- what it does: the same as Python --------------------------------------------------------------------------------------------

ROUNDS = 40
CALL_IN_A_LOOP = "0f05 48ffc3 4883fb28 75f5 ebfe"  # again: syscall; inc rbx; cmp rbx, 40; jne again; jmp $
ANSWER = "59 415b {selectors} 68{flags} 51 4153 50 b817000000 0f05"  # pop rcx; pop r11; push flags; push rcx; push r11; push rax; iret
RETURNS_TO = "c7442408{cs}000000 c74424202b000000"  # mov dword [rsp+8], cs; mov dword [rsp+32], 0x2b
PLAIN, IN_SYSCALL = "00000000", "00010000"
ACCESSED_DIRTY_NX = 0x60 | 1 << 63
Setup = Callable[[Tiny], None]


def masks_events(guest: Tiny) -> None:
    guest.domain.current.handlers.syscall = Callback(va(CODE, 0x700), True)


def nothing(guest: Tiny) -> None:
    pass


def flags_of_the_user(value: int) -> Setup:
    def setup(guest: Tiny) -> None:
        guest.domain.core.rflags = value

    return setup


def stack_entry(clear: int, value: int) -> Setup:
    """The entry that maps the kernel's stack."""

    def setup(guest: Tiny) -> None:
        at = guest.entry_address(STACK) >> 3
        guest.domain.memory.words[at] = guest.domain.memory.words[at] & ~clear | value
        guest.domain.core.flush_tlb()

    return setup


def stack_pointer(value: int) -> Setup:
    def setup(guest: Tiny) -> None:
        guest.domain.current.kernel_sp = value

    return setup


def mask_byte(value: int) -> Setup:
    def setup(guest: Tiny) -> None:
        guest.domain.memory.bytes[guest.domain.current.info + VI_UPCALL_MASK] = value

    return setup


def an_event(guest: Tiny) -> None:
    guest.domain.memory.bytes[guest.domain.current.info + VI_UPCALL_PENDING] = 1


def code_segment(cs: str, flags: str = PLAIN) -> Setup:
    """The kernel returns to segments out of its own GDT."""

    def setup(guest: Tiny) -> None:
        guest.put(CODE, ANSWER.format(flags=flags, selectors=RETURNS_TO.format(cs=cs)), 0x700)

    return setup


def a_breakpoint(guest: Tiny) -> None:
    assert guest.domain.current.debug.write(0, va(CODE, 0xFF0), cr4=0) == guest.domain.current.debug.write(7, 1, cr4=0) == 0
    guest.domain.arm_breakpoints(guest.domain.current)


def watched(guest: Tiny) -> None:
    guest.domain.trace = Trace()


def other_mode_of_iopl(guest: Tiny) -> None:
    guest.domain.vm_assist |= 1 << 4


def outcome(native_too: bool, setups: tuple[Setup, ...], flags: str, seed: int) -> tuple[DomainState, bytes, int, Any]:
    """The whole domain after the loop, cut anywhere; how often Python was asked; what was counted."""
    with tiny() as guest, pytest.MonkeyPatch.context() as patch:
        domain = guest.domain
        if not native_too:
            patch.setattr("emulator.hypervisor.crossing.allow", lambda domain: None)
        guest.put(CODE, "ebfe", 0x500)
        guest.put(CODE, ANSWER.format(flags=flags, selectors=""), 0x700)
        for vector in (1, 13, 14):
            guest.traps((vector, 0, va(CODE, 0x500)))
        assert guest.call("set_callbacks", va(CODE, 0x500), va(CODE, 0x500), va(CODE, 0x700)) == 0
        assert guest.call("set_gdt", gdt(guest), 16) == 0
        assert guest.call("set_segment_base", 1, 0x1111000) == guest.call("set_segment_base", 2, 0x2222000) == 0
        stack_entry(0, ACCESSED_DIRTY_NX)(guest)
        guest.user(CALL_IN_A_LOOP)
        domain.core.regs[RBX] = 0
        for setup in setups:
            setup(guest)
        asked = 0
        python = domain.core.on_trap

        def counted(vector: int) -> None:
            nonlocal asked
            asked += 1
            python(vector)

        domain.core.on_trap = counted
        choice = random.Random(seed)
        end = domain.clock.count + 4_000_000
        while domain.clock.count < end and not domain.ended:
            domain.slice(min(end - domain.clock.count, choice.randrange(1, 400_000) if seed else end))
        stats = domain.stats
        counts = (stats.system_calls, stats.hypercalls, tuple(stats.by_number), domain.crash_reason)
        return save_domain(domain), bytes(domain.memory.octets), asked, counts


def gdt(guest: Tiny) -> int:
    """A list of one frame (read-only, as a descriptor page must be) with 64-bit user segments under Linux's numbers."""
    page = 70
    descriptors = {5: 0x00CFF3000000FFFF, 6: 0x00AFFB000000FFFF, 7: 0x00CFFB000000FFFF, 8: 0x00AFFB000000FFFF}
    for index, descriptor in descriptors.items():
        guest.put(page, descriptor.to_bytes(8, "little"), index * 8)
    assert guest.update((guest.entry_address(page, PT_L1), guest.entry(page) & ~2))[0] == 0
    return guest.put(DATA, guest.mfn(page).to_bytes(8, "little"), 256)


ALWAYS, NEVER = (PLAIN, IN_SYSCALL), ()
"""Frames that are taken natively."""
CASES: list[tuple[str, tuple[Setup, ...], tuple[str, ...]]] = [
    ("as it is", (nothing,), ALWAYS),
    ("events masked by the entry", (masks_events,), ALWAYS),
    ("arithmetic flags", (flags_of_the_user(0x8D5 | 0x202),), ALWAYS),
    ("backwards", (flags_of_the_user(0x602),), ALWAYS),
    ("AC, NT and ID", (flags_of_the_user(0x244202),), ALWAYS),
    ("a stack that is not aligned", (stack_pointer(va(STACK, 0xFE7)),), ALWAYS),
    ("another way to say masked", (masks_events, mask_byte(0x80)), ALWAYS),
    ("single step", (flags_of_the_user(0x302),), NEVER),
    ("resume flag", (flags_of_the_user(0x10202),), ALWAYS),
    ("an event is due", (an_event,), NEVER),
    ("an event is due and masked", (masks_events, an_event, mask_byte(1)), ALWAYS),
    ("a stack across two pages", (stack_pointer(va(STACK + 1, 0x20)),), NEVER),
    ("a stack never written", (stack_entry(0x40, 0),), ALWAYS),
    ("a stack that may be executed", (stack_entry(1 << 63, 0),), NEVER),
    ("a stack that may not be written", (stack_entry(2, 0),), NEVER),
    ("no stack", (stack_entry(1, 0),), NEVER),
    ("a stack in the hypervisor's range", (stack_pointer(0xFFFF820000001000),), NEVER),
    ("a stack at no address", (stack_pointer(1 << 47),), NEVER),
    ("a stack at the end of the world", (stack_pointer((1 << 64) - 16),), NEVER),
    ("a stack at 0", (stack_pointer(0),), NEVER),
    ("a code segment of the guest's", (code_segment("33"),), ALWAYS),
    ("another", (code_segment("43"),), ALWAYS),
    ("a code segment that is none", (code_segment("53"),), NEVER),
    ("32-bit code", (code_segment("3b"),), NEVER),
    ("a code segment of the LDT", (code_segment("37"),), NEVER),
    ("SYSRET, whatever code segment is named", (code_segment("33", IN_SYSCALL),), ALWAYS),
    ("SYSRET, and none is named", (code_segment("53", IN_SYSCALL),), ALWAYS),
    ("a breakpoint is armed", (a_breakpoint,), NEVER),
    ("a breakpoint and the resume flag", (a_breakpoint, flags_of_the_user(0x10202)), NEVER),
    ("somebody watches", (watched,), NEVER),
    ("architectural IOPL", (other_mode_of_iopl,), NEVER),
]


@pytest.mark.parametrize("flags", [PLAIN, IN_SYSCALL], ids=["plain", "in_syscall"])
@pytest.mark.parametrize(("name", "setups", "taken"), CASES, ids=[name for name, _, _ in CASES])
def test_the_guest_cannot_tell(name: str, setups: tuple[Setup, ...], taken: tuple[str, ...], flags: str) -> None:
    state, memory, asked, counts = outcome(True, setups, flags, 0)
    python_state, python_memory, python_asked, python_counts = outcome(False, setups, flags, 0)
    assert counts == python_counts
    assert state == python_state
    assert memory == python_memory
    if flags in taken:
        assert asked < 10 < python_asked
        assert counts[0] == ROUNDS
    else:
        assert asked == python_asked


def test_the_guest_cannot_tell_wherever_it_is_cut() -> None:
    whole = outcome(True, (masks_events,), PLAIN, 0)
    for seed in range(1, 6):
        state, memory, _, counts = outcome(True, (masks_events,), PLAIN, seed)
        assert (without_lazy_flags(state), memory, counts) == (without_lazy_flags(whole[0]), whole[1], whole[3])


def without_lazy_flags(state: DomainState) -> DomainState:
    """A cut has Unicorn work the arithmetic flags out, which it would have put off: the same flags in another form."""
    core = bytearray(state.core)
    core[crossing.E_CC_SRC : crossing.E_CC_SRC + 8] = bytes(8)
    core[crossing.E_CC_OP : crossing.E_CC_OP + 4] = bytes(4)
    return replace(state, core=bytes(core))


def test_a_changed_descriptor_is_loaded_anew() -> None:
    with tiny() as guest:
        assert guest.call("set_gdt", gdt(guest), 16) == 0
        assert guest.call("set_callbacks", va(CODE), va(CODE), va(CODE, 0x700)) == 0
        vcpu = guest.domain.current
        guest.user()
        load_code(vcpu, 0x33, 0x2B)
        vcpu.teach_system_call(va(CODE, 0x700), True)
        assert vcpu.words[crossing.USER_CS] == 0x33
        vcpu.toggle_mode()
        assert guest.call("update_descriptor", (guest.mfn(70) << 12) + 48, 0x00CFFB000000FFFF) == 0
        assert vcpu.words[crossing.USER_CS] == vcpu.words[crossing.SYSCALL] == 0
        vcpu.teach_system_call(va(CODE, 0x700), True)
        assert guest.call("set_callbacks", va(CODE), va(CODE), va(CODE, 0x710)) == 0
        assert vcpu.words[crossing.SYSCALL] == 0


def test_thirty_two_bit_code_and_an_ldt_are_not_learnt() -> None:
    with tiny() as guest:
        assert guest.call("set_gdt", gdt(guest), 16) == 0
        vcpu = guest.domain.current
        load_code(vcpu, 0xE023, 0x2B)
        vcpu.teach_user_segments(0x37, 0x2B)
        assert vcpu.words[crossing.USER_CS] == 0


def after_irets(native_too: bool, seed: int) -> tuple[list[DomainState], bytes, int]:
    """A kernel that returns by one random frame after another, each run for a while; the crossings that were native."""
    choice = random.Random(seed)
    with tiny() as guest, pytest.MonkeyPatch.context() as patch:
        domain, core = guest.domain, guest.domain.core
        if not native_too:
            patch.setattr("emulator.hypervisor.crossing.allow", lambda domain: None)
        crossed = 0
        collect = hypervisor_crossing.collect

        def counted(domain: Domain) -> None:
            nonlocal crossed
            crossed += domain.core.control[native.IRETS]
            collect(domain)

        patch.setattr("emulator.hypervisor.crossing.collect", counted)
        for at in (0x500, 0x600, 0x700):
            guest.put(CODE, "ebfe", at)
        guest.traps(*((vector, 0, va(CODE, 0x500)) for vector in (1, 6, 13, 14)))
        assert guest.call("set_callbacks", va(CODE, 0x500), va(CODE, 0x600), va(CODE, 0x700)) == 0
        assert guest.call("set_gdt", gdt(guest), 16) == 0
        assert guest.extended(15, guest.mfn(USER_L4)) == 0
        stack_entry(0, ACCESSED_DIRTY_NX)(guest)
        guest.put(USER_CODE, "ebfe")
        states = []
        for _ in range(40):
            if not domain.current.kernel_mode:
                domain.current.toggle_mode()
            core.load_code64(0xE033, 0xE02B)
            core.rflags = 0x202
            frame = (
                choice.getrandbits(64), choice.getrandbits(64), choice.getrandbits(64), choice.choice((0, 256, choice.getrandbits(64))),
                choice.choice((va(CODE, 0x500), va(USER_CODE), va(USER_CODE), 1 << 47, choice.getrandbits(64))),
                choice.choice((*(0xE030, 0xE033) * 4, 0x33, 0x43, 0x53, 0xE033 | 1 << 32, choice.getrandbits(64))),
                choice.choice((*(0x202, 2, 0x246, 0x602, 0x8D7) * 2, 0x10202, 0x302, choice.getrandbits(64))),
                choice.choice((va(STACK, 0x800), choice.getrandbits(64))),
                choice.choice((*(0xE02B,) * 8, 0x2B, 0x28, 3, choice.getrandbits(64))),
            )  # fmt: skip
            offset = choice.choice((0x200, 0x200, 0x203, 0x203, 0xFB8, 0xFB8, 0xFB9, 0xFF8))
            guest.put(STACK, struct.pack("<9Q", *frame)[: 4096 - offset], offset)
            core.regs[RSP], core.regs[RAX] = choice.choice((*(va(STACK, offset),) * 9, choice.getrandbits(64))), 23
            domain.memory.bytes[domain.current.info] = choice.choice((0, 0, 0, 1))
            domain.ended = ""
            guest.run("0f05", budget=200_000)
            states.append(save_domain(domain))
        return states, bytes(domain.memory.octets), crossed


@pytest.mark.parametrize("seed", range(8))
def test_random_iret_frames_end_where_python_takes_them(seed: int) -> None:
    states, memory, crossed = after_irets(True, seed)
    python_states, python_memory, none = after_irets(False, seed)
    for state, python_state in zip(states, python_states, strict=True):
        assert state == python_state
    assert memory == python_memory
    assert crossed > 1
    assert none == 0
