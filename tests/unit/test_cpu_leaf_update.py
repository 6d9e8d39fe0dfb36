"""mmu_update of one entry in machine code: its comments are its bytes, and a guest cannot tell it from Python's, TLB and all."""

from __future__ import annotations

import ctypes
import random
import struct
from dataclasses import asdict
from typing import Any

import pytest

from emulator.abi.xen import VI_CR2
from emulator.cpu import crossing, leafupdate, native, tlb
from emulator.cpu.core import R8, R9, R10, R11, RAX, RDI, RDX, RSI, RSP
from emulator.hypervisor import crossing as hypervisor_crossing
from emulator.hypervisor.domain import Domain
from emulator.hypervisor.memory import frames
from emulator.hypervisor.state import save_domain
from tests.unit.domains import CODE, DATA, FRAMES, NX, PRESENT, PT_L1, PT_L2, RW, SPARE, STACK, USER, USER_L4, Tiny, tiny, va
from tests.unit.machinecode import check, disassembled

CONTROL = {name: 8 * value for name, value in vars(native).items() if isinstance(value, int)}
WORDS = {name: 8 * value for name, value in vars(crossing).items() if isinstance(value, int)}
OFFSETS = {name: value for module in (tlb, leafupdate) for name, value in vars(module).items() if isinstance(value, int)}
PLACE, NEIGHBOUR = 300, 300 - 256
"""Two slots that a TLB of 256 entries keeps at one place."""
PLACES = (PLACE, NEIGHBOUR, 301, 45)
LIST, FAULT = va(DATA, 64), 0x500
MARKED = 0x60 | NX  # ACCESSED, DIRTY
SPIN = "ebfe"


def at(address: int) -> str:
    return struct.pack("<I", address).hex()


def read(slot: int, register: str = "04") -> str:
    """mov r8 (or by its code another), [slot]"""
    return f"4c8b{register}25{at(va(slot))}"


def write(slot: int) -> str:
    return f"c60425{at(va(slot, 8))}01"


def execute(slot: int) -> str:
    """call slot, which holds a RET"""
    return f"bd{at(va(slot))} ffd5"


UPDATE = f"bf{at(LIST)} be01000000 31d2 41baf07f0000 b801000000 0f05"


def test_every_line_disassembles_to_its_comment_and_the_jumps_go_where_they_say() -> None:
    names = {"rbp": CONTROL, "rbx": WORDS, "r12": OFFSETS, "rdx": OFFSETS, "r14": OFFSETS, "rcx": OFFSETS}
    check(leafupdate.__file__, leafupdate.UPDATE, names, {})


def test_both_ways_out_pop_what_crossing_pushed() -> None:
    instructions = disassembled(leafupdate.UPDATE)
    assert not [instruction for instruction in instructions if instruction.mnemonic in ("push", "call")]
    assert [i.op_str for i in instructions if i.mnemonic == "pop"] == ["r14", "r13", "r12", "rbp", "rbx"] * 2
    for number, instruction in enumerate(instructions):
        if instruction.mnemonic == "ret" or (instruction.mnemonic, instruction.op_str) == ("jmp", "rax"):
            assert "rbx" in (instructions[number - 1].op_str, instructions[number - 2].op_str)
    pushed = [i.op_str for i in disassembled(crossing.CROSSING) if i.mnemonic == "push"]
    assert pushed == ["rbx", "rbp", "r12", "r13", "r14"]


def test_the_numbers_are_those_of_the_tlb_and_the_frame_table() -> None:
    assert (tlb.DESCRIPTION, tlb.DESCRIPTION - 8 * 64) == (0x2B8, 0xB8)
    assert (leafupdate.E_RAX, leafupdate.E_EFLAGS) == (crossing.E_RAX, crossing.E_EFLAGS)
    assert (frames.NONE, frames.L1, frames.WRITABLE, frames.GUEST) == (0, 1, 6, 1)


class Kernel:
    """A guest kernel whose lists lie where native code takes them."""

    def __init__(self, native_too: bool, patch: pytest.MonkeyPatch, guest: Tiny) -> None:
        if not native_too:
            patch.setattr("emulator.hypervisor.crossing.allow", lambda domain: None)
        self.taken = 0
        collect = hypervisor_crossing.collect

        def counted(domain: Domain) -> None:
            self.taken += domain.core.control[native.UPDATES]
            collect(domain)

        patch.setattr("emulator.hypervisor.crossing.collect", counted)
        self.guest, self.domain, self.core = guest, guest.domain, guest.domain.core
        for page in range(SPARE, FRAMES):
            guest.put(page, b"\xc3" + struct.pack("<Q", page))
        guest.put(CODE, SPIN, FAULT)
        guest.traps(*((vector, 0, va(CODE, FAULT)) for vector in (*range(7), *range(9, 15), 16, 17, 19)))
        for page in (STACK, DATA):
            assert guest.update((guest.entry_address(page), guest.entry(page) | MARKED))[0] == 0

    def map(self, slot: int, page: int, flags: int = PRESENT | RW | USER | NX) -> None:
        assert self.guest.update((self.guest.entry_address(slot), self.guest.mfn(page) << 12 | flags))[0] == 0

    def run(self, code: str, pointer: int, value: int) -> None:
        self.guest.put(DATA, struct.pack("<QQ", pointer, value), 64)
        self.core.regs[RSP] = va(STACK, 2048)
        self.guest.run(code + SPIN, budget=100_000)

    def change(self, before: str, value: int, after: str, slot: int = PLACE) -> tuple[int, int]:
        """(RIP, CR2) after the kernel did this, changed a slot's entry, and did that."""
        self.run(before + UPDATE + after, self.guest.entry_address(slot), value)
        assert not self.domain.crash_reason
        return self.core.rip, self.domain.memory.words[self.domain.current.info + VI_CR2 >> 3]


@pytest.fixture(params=[True, False], ids=["native", "python"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    with tiny() as guest:
        made = Kernel(request.param, monkeypatch, guest)
        yield made
        assert (made.taken > 0) == request.param
        guest.check_counts()


@pytest.mark.parametrize("between", ["", read(NEIGHBOUR, "1c")], ids=["at its place", "as a victim"])
def test_another_page_is_seen_at_once(kernel: Kernel, between: str) -> None:
    kernel.map(PLACE, 100)
    kernel.change(read(PLACE) + between, kernel.guest.mfn(101) << 12 | PRESENT | RW | USER | NX, read(PLACE, "0c"))
    assert [kernel.core.regs[register] >> 8 for register in (R8, R9)] == [100, 101]


@pytest.mark.parametrize(("pages", "size"), [(20, 64), (200, 512), (1000, 1024)])
def test_another_page_is_seen_at_once_at_both_its_addresses_in_a_tlb_of_any_size(kernel: Kernel, pages: int, size: int) -> None:
    """It grows at a flush, when most of it was in use; in a large one the entry's addresses have places of their own."""
    guest, core = kernel.guest, kernel.core
    for slot in range(FRAMES + 1, 512):
        kernel.map(slot, (slot - FRAMES) % 100 + SPARE)
    kernel.map(PLACE, 100)
    link = (guest.entry_address((va(0) >> 21) + 1, PT_L2), guest.mfn(PT_L1) << 12 | PRESENT | RW | USER)
    assert guest.update(link)[0] == 0
    # mov rcx, first; again: mov r8, [rcx]; add rcx, 4096; cmp rcx, last; jne again
    touch = f"48c7c1{at(va(1024 - pages))} 4c8b01 4881c100100000 4881f9{at(va(1024))} 75ed"
    for _ in range(5):
        kernel.run(touch, 0, 0)
        core.flush_tlb()
    mask, _table = struct.unpack("<QQ", ctypes.string_at(core._env_address + tlb.T_FAST_USED, 16))
    assert mask >= (size - 1) * 64
    both = [read(PLACE + offset, register) for offset, register in ((0, "04"), (512, "0c"), (0, "14"), (512, "1c"))]
    kernel.change("".join(both[:2]), guest.mfn(101) << 12 | PRESENT | RW | USER | NX, "".join(both[2:]))
    assert [core.regs[register] >> 8 for register in (R8, R9, R10, R11)] == [100, 100, 101, 101]


@pytest.mark.parametrize("between", ["", read(NEIGHBOUR, "1c")], ids=["at its place", "as a victim"])
def test_rights_that_go_are_gone_at_once(kernel: Kernel, between: str) -> None:
    page = kernel.guest.mfn(100) << 12
    for flags, after in ((PRESENT | USER | NX | 0x60, write(PLACE)), (0, read(PLACE))):
        kernel.map(PLACE, 100)
        assert kernel.change(write(PLACE) + between, page | flags, after) == (va(CODE, FAULT), va(PLACE, 8 if flags else 0))


def test_code_that_goes_is_gone_at_once(kernel: Kernel) -> None:
    page = kernel.guest.mfn(100) << 12 | PRESENT | USER
    kernel.map(PLACE, 100, PRESENT | RW | USER)
    kernel.change(execute(PLACE), page | 0x20, write(PLACE))  # it stays code, and loses RW
    assert kernel.core.rip == va(CODE, FAULT)
    assert kernel.change(execute(PLACE), page | NX, execute(PLACE)) == (va(CODE, FAULT), va(PLACE))


def rounds(native_too: bool, seed: int) -> tuple[list[Any], bytes, int]:
    """A kernel that changes one random entry after another, with an access before and after; what became of it each time."""
    choice = random.Random(seed)
    with tiny() as guest, pytest.MonkeyPatch.context() as patch:
        kernel = Kernel(native_too, patch, guest)
        domain, core = guest.domain, guest.domain.core
        for slot in PLACES:
            kernel.map(slot, 100)
        seen: list[Any] = []
        for number in range(100):
            slot = choice.choice(PLACES)
            target = choice.choice((guest.mfn(choice.randrange(100, 104)),) * 12 + (guest.mfn(PT_L1), guest.mfn(USER_L4), domain.memory.frames,
                                   domain.layout.shared_info_mfn, choice.getrandbits(40), 0))  # fmt: skip
            flags = choice.choice((PRESENT | RW | USER, PRESENT | USER, PRESENT | RW, PRESENT, 0)) | choice.choice((0, 0, 0x60, 0x20, 0x100))
            flags |= choice.choice((NX, NX, 0)) | choice.choice((0,) * 9 + (8, 0x10, 0x80, 1 << 52, 1 << 53))
            pointer = choice.choice((guest.entry_address(slot),) * 12 + (guest.entry_address(1, USER_L4), guest.mfn(9) << 12, choice.getrandbits(64)))
            command = choice.choice((0, 0, 0, 2, 2, 1, 3, 5))
            access = [choice.choice((read, write, execute))(choice.choice((slot, slot, *PLACES))) for _ in range(2)]
            code = access[0] + UPDATE + access[1]
            if choice.random() < 0.1:
                register, value = choice.choice(((RSI, 2), (RDX, va(DATA)), (R10, 0), (RDI, LIST + 4), (RDI, va(STACK, 0)), (RDI, 1 << 47)))
                for number, usual in ((RDI, LIST), (RSI, 1), (RDX, 0), (R10, 0x7FF0), (RAX, 1)):
                    core.regs[number] = value if number == register else usual
                code = "0f05" + access[1]
            if choice.random() < 0.1:
                code = code.replace("0f05", "9c 810c2400010000 9d 0f05")  # pushf; or dword [rsp], 0x100; popf: a single step
            domain.memory.bytes[domain.current.info] = choice.random() < 0.05
            kernel.run(code, pointer & ~7 | command, target << 12 | flags)
            state = save_domain(domain) if number % 10 == 0 else None
            seen.append((state, asdict(domain.stats) | {"cpu_ns": 0}, core.rip, core.regs[R8], domain.crash_reason))
            if domain.ended:  # what it called was no code
                break
        guest.check_counts()
        return seen, bytes(domain.memory.octets), kernel.taken


@pytest.mark.parametrize("seed", range(4))
def test_random_entries_end_where_python_takes_them(seed: int) -> None:
    states, memory, taken = rounds(True, seed)
    python_states, python_memory, none = rounds(False, seed)
    for state, python_state in zip(states, python_states, strict=True):
        assert state == python_state
    assert memory == python_memory
    assert taken > 3
    assert none == 0


def test_a_frame_that_leaves_is_pythons(monkeypatch: pytest.MonkeyPatch) -> None:
    with tiny() as guest:
        kernel = Kernel(True, monkeypatch, guest)
        kernel.map(PLACE, 100)
        kernel.map(301, 100)
        guest.put(DATA, struct.pack("<Q", guest.mfn(100)), 256)
        for slot in (100, 301):
            kernel.map(slot, 100, 0)
        assert guest.call_with("memory_op", 1, "QQIIHxx", va(DATA, 256), 1, 0, 0, 0x7FF0, offset=512) == 1
        assert guest.domain.frames.leaving == {kernel_mfn := guest.domain.frames.leaving.copy().pop()}
        kernel.change("", 0, "")
        assert kernel.taken == 0
        assert not guest.domain.frames.leaving
        assert not guest.domain.frames.owned(kernel_mfn)
        kernel.change("", guest.mfn(101) << 12 | PRESENT | USER | NX, "")
        assert kernel.taken == 1
