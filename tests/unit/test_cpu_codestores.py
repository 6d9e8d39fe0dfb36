"""Code that the guest itself changes is what runs, by whatever mapping it is changed."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emulator.cpu import codestores
from emulator.cpu.layout import Prober
from emulator.cpu.libunicorn import load
from emulator.errors import UserError
from tests.unit.domains import DATA, FREE_SLOT, NX, PRESENT, RW, USER, Tiny, tiny, va
from tests.unit.machinecode import check

FLUSH = "89d0 0f22d8 0f20d8"  # mov %edx, %eax; mov %rax, %cr3; mov %cr3, %rax: a change of address space


@pytest.fixture
def guest() -> Iterator[Tiny]:
    with tiny() as made:
        yield made


def test_the_bytes_are_what_their_comments_say() -> None:
    words = {name: len(codestores.CODE) + 8 * at for at, name in enumerate(codestores.WORDS)}
    check(codestores.__file__, codestores.CODE, {}, words)


def test_the_library_calls_it_and_a_function_that_it_does_not_import_is_refused(guest: Tiny) -> None:
    lib, prober = load(), Prober()
    at, _page = codestores.look_by_page()
    for symbol, place in (("tlb_set_dirty_x86_64", at), ("tlb_protect_code_x86_64", at + codestores.PROTECT)):
        slot = codestores.import_slot(lib, prober, symbol)
        assert ctypes.c_uint64.from_address(slot).value == place
    with pytest.raises(UserError, match="uc_version is imported 0 times"):
        codestores.import_slot(lib, prober, "uc_version")
    prober.close()


CALL_CHANGE_CALL = "c60311 ffd6 89c7 0f0b c60322 ffd6 ebfe"
"""movb $0x11, (%rbx); call *%rsi; mov %eax, %edi; nothing or a change of address space; movb $0x22, (%rbx); call *%rsi; L: jmp L"""


def change_code_through_an_alias(guest: Tiny, between: str) -> tuple[int, int]:
    """What a function of the guest's returns before and after its code is changed by a store through a second mapping, which has NX."""
    guest.put(100, "b800000000 c3")
    assert guest.update((guest.entry_address(FREE_SLOT), guest.mfn(100) << 12 | PRESENT | RW | USER | NX))[0] == 0
    regs = guest.domain.core.regs
    regs[3], regs[6], regs[0], regs[2] = va(FREE_SLOT, 1), va(100), 0, guest.domain.core.cr3
    guest.run(CALL_CHANGE_CALL.replace("0f0b", between))
    return regs[7], regs[0]


def test_code_that_the_guest_changes_through_an_alias_is_new_after_a_change_of_address_space(guest: Tiny) -> None:
    assert change_code_through_an_alias(guest, FLUSH) == (0x11, 0x22)


def test_code_that_the_guest_changes_through_an_alias_is_new_at_once(guest: Tiny) -> None:
    assert change_code_through_an_alias(guest, "90") == (0x11, 0x22)


PAGE = 100  # and the next one, which some of the code reaches into
MAPPINGS = (va(PAGE), va(FREE_SLOT), va(FREE_SLOT + 2))
"""Of both pages; all but the first have NX."""


@dataclass(frozen=True)
class Step:
    """A call of function `number`, or a store: into its value or (`beside`) to where no code is, by one of the mappings."""

    kind: str
    number: int
    mapping: int
    value: int


kinds = st.sampled_from(("call", "call", "change", "change", "beside", "flush"))
steps = st.builds(Step, kinds, st.integers(0, 4), st.integers(0, 2), st.integers(0, 255))


@settings(max_examples=60, deadline=None)
@given(st.lists(steps, min_size=24, max_size=80), st.sampled_from((0xFFD, 0xFFE, 0xFFF)))
def test_whatever_is_changed_by_whatever_mapping_is_what_runs(program: list[Step], across: int) -> None:
    """`across`: a function that begins in one page and ends in the next; the others lie in one of them."""
    places = (0x10, 0x18, 0x7F8, across, 0x1020)
    values, wanted, code = [0] * len(places), [], b""
    for step in program:
        place = places[step.number]
        if step.kind == "call":
            code += b"\xbe" + struct.pack("<I", va(PAGE) + place) + bytes.fromhex("ffd6 aa")  # mov $place, %esi; call *%rsi; stosb
            wanted.append(values[step.number])
        elif step.kind == "flush":
            code += bytes.fromhex(FLUSH)
        else:
            address = MAPPINGS[step.mapping] + place + (1 if step.kind == "change" else 0x400)
            code += b"\xbb" + struct.pack("<I", address) + b"\xc6\x03" + bytes([step.value])  # mov $address, %ebx; movb $value, (%rbx)
            if step.kind == "change":
                values[step.number] = step.value
    with tiny() as guest:
        pages = bytearray(8192)
        for place in places:
            pages[place : place + 6] = bytes.fromhex("b800000000 c3")  # mov $value, %eax; ret
        guest.put(PAGE, bytes(pages[:4096]))
        guest.put(PAGE + 1, bytes(pages[4096:]))
        for slot in range(4):
            entry = guest.mfn(PAGE + slot % 2) << 12 | PRESENT | RW | USER | NX
            assert guest.update((guest.entry_address(FREE_SLOT + slot), entry))[0] == 0
        guest.domain.core.regs[7], guest.domain.core.regs[2] = va(DATA), guest.domain.core.cr3
        guest.run(code + bytes.fromhex("ebfe"))
        assert list(guest.get(DATA, len(wanted))) == wanted
