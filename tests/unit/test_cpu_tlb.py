"""A TLB for each of a guest's two modes: nothing of one is seen in the other, and nothing stale in either."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterator

import pytest

from emulator.abi.xen import VI_CR2
from emulator.cpu import crossing, layout, native, tlb, tlbcheck
from emulator.cpu.core import R14, RBX, RSP
from emulator.cpu.libunicorn import load
from emulator.errors import UserError
from emulator.hypervisor.context import _TAIL_AT, CONTEXT_BYTES, VGCF_IN_KERNEL, VGCF_ONLINE, get_info
from emulator.hypervisor.state import save_domain
from tests.unit.domains import CODE, DATA, FREE_SLOT, NX, PRESENT, RW, STACK, USER, USER_CODE, USER_STACK, Tiny, va
from tests.unit.machinecode import check

CONTROL = {name: 8 * value for name, value in vars(native).items() if isinstance(value, int)}
OFFSETS = {name: value for name, value in vars(tlb).items() if isinstance(value, int)}

# --- the bytes and the self-test --------------------------------------------------------------------------------------------------


def test_every_line_disassembles_to_its_comment_and_the_jumps_go_where_they_say() -> None:
    check(tlb.__file__, tlb.TURN, {"rdi": CONTROL, "rax": OFFSETS, "rdx": OFFSETS}, {})


def test_the_offsets_are_those_of_the_layout() -> None:
    assert tlb.E_CR3 == (layout.ENV_CR + 3) * 8
    assert tlb.E_HFLAGS == layout.ENV_HFLAGS * 4 == crossing.E_HFLAGS
    assert tlb.T_KEPT_END == tlb.T_KEPT + tlb.DESCRIPTION - 8
    assert (tlb.DESCRIPTION - 8) % 16 == 0


@pytest.fixture
def anew() -> Iterator[None]:
    tlbcheck.check.cache_clear()
    yield
    tlbcheck.check.cache_clear()


@pytest.mark.usefixtures("anew")
@pytest.mark.parametrize(("name", "value"), [("T_DIRTY", -2208), ("T_FAST", -80), ("T_KEPT", -2168), ("DESCRIPTION", 704), ("_ENTRIES", 512)])
def test_a_tlb_elsewhere_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: int) -> None:
    monkeypatch.setattr(tlbcheck, name, value)
    with pytest.raises(UserError) as caught:
        tlbcheck.check()
    assert "the TLB is not where it should be" in caught.value.line()


@pytest.mark.usefixtures("anew")
@pytest.mark.parametrize("flushes", [True, False])
def test_an_exchange_that_does_not_exchange_is_refused(monkeypatch: pytest.MonkeyPatch, flushes: bool) -> None:
    """CR3 alone is changed, with and without a flush."""
    def turn(control: int, cr3: int) -> None:
        words = (ctypes.c_uint64 * native.CONTROL_WORDS).from_address(control)
        ctypes.c_uint64.from_address(words[native.ENV] + tlb.E_CR3).value = cr3
        if flushes:
            load().tlb_flush(words[native.CPU])

    monkeypatch.setattr(load(), "turn", turn)
    with pytest.raises(UserError) as caught:
        tlbcheck.check()
    assert "mix what they hold" in caught.value.line()


# --- guests -------------------------------------------------------------------------------------------------------------------------

ROUNDS, CHANGE_AT = 40, 20
ENTRY, FAULT, SECOND = 0x700, 0x500, 0x800
WORD = FREE_SLOT
"""Mapped in the user's tables to one page, in the kernel's to another."""
KERNELS_PAGE, TABLES, OTHER_TABLES, KERNELS, USERS, OTHERS = DATA + 1, 80, 90, 100, 101, 102  # pages; TABLES and OTHER_TABLES: four each
RETURN = "59 415b 6800000000 51 4153 50 b817000000 0f05"  # pop rcx; pop r11; push 0; push rcx; push r11; push rax; mov eax, 23; syscall
SPIN = "ebfe"


def at(address: int) -> str:
    return struct.pack("<I", address).hex()


READ = f"4c8b0425{at(va(WORD))}"  # mov r8, [WORD]
USERS_LOOP = f"{READ} 4d01c6 0f05 48ffc3 4883fb28 75ea"  # again: mov r8, [WORD]; add r14, r8; syscall; inc rbx; cmp rbx, 40; jne again


def value(page: int) -> int:
    return 1 << 8 * (page - KERNELS)


def tables(guest: Tiny, first: int, word: int) -> None:
    """Page tables of a user's own in pages `first` to `first` + 3: its code, its stack and WORD."""
    link = PRESENT | RW | USER
    for page in range(first, first + 3):
        slot = va(WORD) >> 21 & 511 if page == first + 2 else 0
        guest.put(page, (guest.mfn(page + 1) << 12 | link).to_bytes(8, "little"), slot * 8)
    for slot, page in ((USER_CODE, USER_CODE), (USER_STACK, USER_STACK), (WORD, word)):
        guest.put(first + 3, (guest.mfn(page) << 12 | link | (0 if slot == USER_CODE else NX)).to_bytes(8, "little"), slot * 8)
    for page in range(first, first + 4):
        assert guest.update((guest.entry_address(page), guest.entry(page) & ~RW))[0] == 0
    assert guest.extended(3, guest.mfn(first)) == 0  # PIN_L4_TABLE: it stays one, whether in use or not


def entry(guest: Tiny, first: int = TABLES, slot: int = WORD) -> int:
    return (guest.mfn(first + 3) << 12) + slot * 8


def hypercall(number: int, *arguments: int) -> str:
    """mov each register; syscall."""
    codes = ("bf", "be", "ba", "41ba")
    return "".join(code + at(argument) for code, argument in zip(codes, arguments, strict=False)) + f"b8{at(number)} 0f05"


def at_round(what: str) -> str:
    """inc r12; cmp r12, CHANGE_AT; jne over; what; over:"""
    return f"49ffc4 4983fc{CHANGE_AT:02x} 75{len(bytes.fromhex(what)):02x} {what}"


class Apart:
    """A guest whose user mode has page tables of its own, that makes ROUNDS system calls."""

    def __init__(self, native_too: bool, monkeypatch: pytest.MonkeyPatch, *, vcpus: int = 1) -> None:
        if not native_too:
            monkeypatch.setattr("emulator.hypervisor.crossing.allow", lambda domain: None)
        self.native = native_too
        self.guest = guest = Tiny(vcpus=vcpus)
        self.domain, self.core = guest.domain, guest.domain.core
        for page in (KERNELS, USERS, OTHERS):
            guest.put(page, value(page).to_bytes(8, "little"))
        link = PRESENT | RW | USER
        assert guest.update((guest.entry_address(WORD), guest.mfn(KERNELS) << 12 | link | NX))[0] == 0
        for stack in (STACK, STACK + 2):
            assert guest.update((guest.entry_address(stack), guest.entry(stack) | NX | 0x60))[0] == 0
        tables(guest, TABLES, USERS)
        tables(guest, OTHER_TABLES, OTHERS)
        guest.put(CODE, SPIN, FAULT)
        guest.traps((14, 0, va(CODE, FAULT)))
        assert guest.call("set_callbacks", va(CODE, FAULT), va(CODE, FAULT), va(CODE, ENTRY)) == 0
        assert guest.extended(15, guest.mfn(TABLES)) == 0
        self.core.flush_tlb()

    def run(self, user: str, kernel: str = "", budget: int = 8_000_000) -> Apart:
        """`user` after its loop of system calls, `kernel` at each of them."""
        guest, core = self.guest, self.core
        guest.put(CODE, f"{kernel} {RETURN}", ENTRY)
        rip = guest.put(USER_CODE, f"{USERS_LOOP} {user}")
        for number in range(16):
            core.regs[number] = 0
        frame = struct.pack("<9Q", 0, 0, 0, 0, rip, 0xE033, 0x202, va(USER_STACK, 4096), 0xE02B)
        core.regs[RSP] = guest.put(STACK, frame, 2048)
        asked = 0
        python = core.on_trap

        def counted(vector: int) -> None:
            nonlocal asked
            asked += 1
            python(vector)

        core.on_trap = counted
        guest.call("iret")
        self.domain.slice(budget)
        core.on_trap = python
        assert not self.domain.crash_reason
        assert (asked < 12) == self.native
        return self

    @property
    def fault(self) -> tuple[int, int]:
        """(address, error code) of the page fault that the kernel stands at."""
        assert self.core.rip == va(CODE, FAULT)
        (error,) = struct.unpack_from("<Q", self.guest.stack(24), 16)
        return self.domain.memory.words[self.domain.current.info + VI_CR2 >> 3], error

    @property
    def sum(self) -> int:
        assert self.core.regs[RBX] == ROUNDS
        return self.core.regs[R14]


@pytest.fixture(params=[True, False], ids=["native", "python"])
def apart(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Apart]:
    made = Apart(request.param, monkeypatch)
    yield made
    made.guest.close()


KERNEL_READS = f"{READ} 4d01c5 4c8b0c25{at(va(KERNELS_PAGE))}"  # mov r8, [WORD]; add r13, r8; mov r9, [KERNELS_PAGE]


def test_each_mode_sees_its_own_page_at_one_address(apart: Apart) -> None:
    apart.run(SPIN, KERNEL_READS)
    assert apart.sum == ROUNDS * value(USERS)
    assert apart.core.regs[13] == ROUNDS * value(KERNELS)


@pytest.mark.parametrize(("access", "error"), [("4c8b0425", 4), ("4c890425", 6)], ids=["read", "write"])
def test_a_page_of_the_kernels_alone_faults_right_after_a_crossing(apart: Apart, access: str, error: int) -> None:
    apart.run(f"{access}{at(va(KERNELS_PAGE))} {SPIN}", KERNEL_READS)
    assert apart.fault == (va(KERNELS_PAGE), error)


def test_code_of_the_kernels_alone_faults_right_after_a_crossing(apart: Apart) -> None:
    apart.run(f"b8{at(va(CODE, ENTRY))} ffe0")  # mov eax, ENTRY; jmp rax
    assert apart.fault == (va(CODE, ENTRY), 0x14)


def test_what_iret_and_lret_pop_is_forgotten_too(apart: Apart) -> None:
    """The processor reads what they pop as a supervisor: the kernel pops its own page, the user then its own of the same address."""
    pops = f"4989e7 bc{at(va(WORD))} 48cb 4c89fc"  # mov r15, rsp; mov esp, WORD; retfq; mov rsp, r15
    for page, back in ((KERNELS, va(CODE, ENTRY + 10)), (USERS, va(USER_CODE, len(bytes.fromhex(USERS_LOOP)) + 10))):
        apart.guest.put(page, struct.pack("<QQ", back, 0xE033))
    apart.run(f"{pops} 41be07000000 {SPIN}", pops)  # mov r14d, 7
    assert apart.sum == 7


def test_a_page_that_the_kernel_takes_from_the_user_is_gone(apart: Apart) -> None:
    guest = apart.guest
    guest.put(DATA, struct.pack("<QQ", entry(guest), 0), 1024)
    apart.run(SPIN, at_round(hypercall(1, va(DATA, 1024), 1, 0, 0x7FF0)))
    assert apart.fault == (va(WORD), 4)
    assert (apart.core.regs[RBX], apart.core.regs[R14]) == (CHANGE_AT, CHANGE_AT * value(USERS))


def test_a_page_that_the_kernel_exchanges_is_another_at_once(apart: Apart) -> None:
    guest = apart.guest
    new = guest.mfn(OTHERS) << 12 | PRESENT | RW | USER | NX
    guest.put(DATA, struct.pack("<QQQQ", entry(guest), new, guest.entry_address(WORD), new), 1024)
    apart.run(SPIN, READ + "4d01c5" + at_round(hypercall(1, va(DATA, 1024), 2, 0, 0x7FF0)))
    assert apart.sum == CHANGE_AT * value(USERS) + (ROUNDS - CHANGE_AT) * value(OTHERS)
    assert apart.core.regs[13] == CHANGE_AT * value(KERNELS) + (ROUNDS - CHANGE_AT) * value(OTHERS)


def test_a_table_that_the_kernel_unhooks_from_the_users_is_gone(apart: Apart) -> None:
    guest = apart.guest
    guest.put(DATA, struct.pack("<QQ", guest.mfn(TABLES) << 12, 0), 1024)
    apart.run(SPIN, at_round(hypercall(1, va(DATA, 1024), 1, 0, 0x7FF0)))
    assert apart.fault[1] == 0x14, "not even the next instruction is there"


def test_other_tables_of_the_users_are_followed_at_once_and_back(apart: Apart) -> None:
    guest = apart.guest
    for offset, first in ((1024, OTHER_TABLES), (1056, TABLES)):
        guest.put(DATA, struct.pack("<IxxxxQQ", 15, guest.mfn(first), 0), offset)  # NEW_USER_BASEPTR
    back = hypercall(26, va(DATA, 1056), 1, 0, 0x7FF0)
    later = f"4983fc{CHANGE_AT + 5:02x} 75{len(bytes.fromhex(back)):02x} {back}"
    apart.run(SPIN, at_round(hypercall(26, va(DATA, 1024), 1, 0, 0x7FF0)) + later)
    assert apart.sum == (ROUNDS - 5) * value(USERS) + 5 * value(OTHERS)


def test_other_tables_of_the_users_at_every_crossing(apart: Apart) -> None:
    guest = apart.guest
    for offset, first in ((1024, TABLES), (1056, OTHER_TABLES)):
        guest.put(DATA, struct.pack("<IxxxxQQ", 15, guest.mfn(first), 0), offset)
    # inc r12; mov edi, r12d; and edi, 1; shl edi, 5; add edi, DATA + 1024
    choose = f"49ffc4 4489e7 83e701 c1e705 81c7{at(va(DATA, 1024))}"
    apart.native = False  # each change is a hypercall
    apart.run(SPIN, choose + hypercall(26, 0, 1, 0, 0x7FF0)[10:])
    assert apart.sum == ROUNDS // 2 * (value(USERS) + value(OTHERS))


def test_the_users_tables_in_the_kernels_mode_are_none_of_the_users(apart: Apart) -> None:
    """One L4 table for both modes, after each had its own."""
    guest = apart.guest
    guest.put(DATA, struct.pack("<IxxxxQQ", 15, apart.domain.current.cr3_kernel, 0), 1024)
    apart.run(f"4c8b0c25{at(va(KERNELS_PAGE))} {SPIN}", at_round(hypercall(26, va(DATA, 1024), 1, 0, 0x7FF0)))
    assert apart.sum == CHANGE_AT * value(USERS) + (ROUNDS - CHANGE_AT) * value(KERNELS)


def test_new_code_that_the_kernel_writes_through_its_own_mapping_is_run_after_the_crossing(apart: Apart) -> None:
    """Its mapping was in use before there was any code to look for."""
    guest, slot, alias = apart.guest, FREE_SLOT + 1, FREE_SLOT + 2
    assert guest.update((guest.entry_address(alias), guest.mfn(OTHERS) << 12 | PRESENT | RW | USER | NX))[0] == 0
    assert guest.update((entry(guest, slot=slot), guest.mfn(OTHERS) << 12 | PRESENT | USER))[0] == 0
    guest.put(OTHERS, "b811000000 c3")  # mov eax, 0x11; ret
    twice = f"ff1425{at(va(USER_STACK))} 4189c5 0f05 ff1425{at(va(USER_STACK))}"  # call [..]; mov r13d, eax; syscall; call [..]
    guest.put(USER_STACK, struct.pack("<Q", va(slot)))
    change = f"c60425{at(va(alias, 2))}00 4883fb28 7508 c60425{at(va(alias, 1))}22"  # always alias[2] = 0, at last alias[1] = 0x22
    apart.run(f"{twice} {SPIN}", change)
    assert (apart.core.regs[13], apart.core.regs[0]) == (0x11, 0x22)


def test_new_code_of_the_kernels_own_is_looked_for_after_a_crossing_there_and_back(apart: Apart) -> None:
    guest, slot, alias = apart.guest, FREE_SLOT + 1, FREE_SLOT + 2
    for at_slot, rights in ((slot, 0), (alias, RW | NX)):
        assert guest.update((guest.entry_address(at_slot), guest.mfn(OTHERS) << 12 | PRESENT | USER | rights))[0] == 0
    guest.put(OTHERS, "b811000000 c3")  # mov eax, 0x11; ret
    guest.put(DATA, struct.pack("<Q", va(slot)), 3000)
    # inc r12; mov byte [alias + 2], 0; cmp r12, 20; jb over; je call; mov byte [alias + 1], 0x22; call: call [..]; add r13d, eax; over:
    store, change = (f"c60425{at(va(alias, byte))}{new}" for byte, new in ((2, "00"), (1, "22")))
    apart.run(SPIN, f"49ffc4 {store} 4983fc{CHANGE_AT:02x} 7214 7408 {change} ff1425{at(va(DATA, 3000))} 4101c5")
    assert apart.core.regs[13] == 0x11 + (ROUNDS - CHANGE_AT) * 0x22


def test_native_and_python_end_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    for native_too in (True, False):
        with monkeypatch.context() as patch:
            apart = Apart(native_too, patch)
            new = apart.guest.mfn(OTHERS) << 12 | PRESENT | RW | USER | NX
            apart.guest.put(DATA, struct.pack("<QQ", entry(apart.guest), new), 1024)
            apart.run(SPIN, KERNEL_READS + at_round(hypercall(1, va(DATA, 1024), 1, 0, 0x7FF0)))
            seen.append((save_domain(apart.domain), bytes(apart.domain.memory.octets)))
            apart.guest.close()
    assert seen[0] == seen[1]


def second_vcpu(guest: Tiny, rip: int) -> int:
    """vCPU 1 begins in the kernel at `rip`, with a stack of its own; the hypercall's answer."""
    data = bytearray(get_info(guest.domain.vcpus[0]))
    assert len(data) == CONTEXT_BYTES
    struct.pack_into("<Q", data, 512, VGCF_ONLINE | VGCF_IN_KERNEL)
    struct.pack_into("<16Q", data, 520, *[0] * 16)
    struct.pack_into("<3Q", data, 520 + 16 * 8, rip, 0xE033, 0x202)
    struct.pack_into("<QQ", data, 520 + 19 * 8, va(STACK + 2, 2048), 0xE02B)
    struct.pack_into("<Q", data, _TAIL_AT + 20 * 8, va(STACK + 2, 4096))
    for page in range(0, len(data), 4096):
        guest.put(DATA + 4 + page // 4096, bytes(data[page : page + 4096]))
    return guest.call("vcpu_op", 0, 1, va(DATA + 4))


@pytest.mark.parametrize("native_too", [True, False], ids=["native", "python"])
def test_two_vcpus_that_share_the_core_see_their_own(native_too: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    apart = Apart(native_too, monkeypatch, vcpus=2)
    guest, domain = apart.guest, apart.domain
    guest.put(DATA, struct.pack("<IxxxxQQ", 15, guest.mfn(OTHER_TABLES), 0), 1024)
    frame = struct.pack("<9Q", 0, 0, 0, 0, va(USER_CODE), 0xE033, 0x202, va(USER_STACK, 2048), 0xE02B)
    guest.put(STACK + 2, frame, 2048)
    assert second_vcpu(guest, guest.put(CODE, hypercall(26, va(DATA, 1024), 1, 0, 0x7FF0) + "b817000000 0f05", SECOND)) == 0
    rounds = 400
    loop = USERS_LOOP.replace("4883fb28 75ea", f"4881fb{at(rounds)} 75e7")
    guest.put(CODE, RETURN, ENTRY)
    rip = guest.put(USER_CODE, f"{loop} {SPIN}")
    for number in range(16):
        apart.core.regs[number] = 0
    frame = struct.pack("<9Q", 0, 0, 0, 0, rip, 0xE033, 0x202, va(USER_STACK, 4096), 0xE02B)
    apart.core.regs[RSP] = guest.put(STACK, frame, 2048)
    guest.call("iret")
    switches = 0
    switch = domain.rotation.switch

    def counted(vcpu: object) -> None:
        nonlocal switches
        switches += 1
        switch(vcpu)  # type: ignore[arg-type]

    monkeypatch.setattr(domain.rotation, "switch", counted)
    for _ in range(30):
        domain.slice(2_000_000)
    assert not domain.crash_reason
    assert switches > 10
    for vcpu, page in zip(domain.vcpus, (USERS, OTHERS), strict=True):
        with domain.rotation.borrowed(vcpu):
            assert (apart.core.regs[RBX], apart.core.regs[R14]) == (rounds, rounds * value(page))
    guest.close()
