"""Direct paging: what a guest may write into its tables, what is refused, and that every use is counted."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emulator.abi.errno import EBUSY, EINVAL, EPERM
from emulator.hypervisor.memory.frames import L1, L2, L4, NONE, WRITABLE
from tests.unit.domains import (
    BASE,
    CODE,
    DATA,
    FRAMES,
    FREE_SLOT,
    NX,
    PRESENT,
    PT_L1,
    PT_L2,
    PT_L3,
    PT_L4,
    RW,
    SPARE,
    USER,
    USER_L4,
    Tiny,
    tiny,
    va,
)

PIN_L1, PIN_L2, PIN_L3, PIN_L4, UNPIN, NEW_BASEPTR = range(6)
NEW_USER_BASEPTR = 15
LEAF = PRESENT | RW | USER


@pytest.fixture
def guest() -> Iterator[Tiny]:
    with tiny() as made:
        yield made
        made.check_counts()


def refused(guest: Tiny, pointer: int, value: int, *errnos: int) -> None:
    words = guest.domain.memory.words
    before = words[pointer >> 3] if pointer >> 3 < len(words) else 0
    result, done = guest.update((pointer, value))
    assert -result in (errnos or (EINVAL, EPERM, EBUSY)), result
    assert done == 0
    assert pointer >> 3 >= len(words) or words[pointer >> 3] == before


def read_only(guest: Tiny, pfn: int) -> None:
    """A page that is to become a table must not be mapped writable."""
    assert guest.update((guest.entry_address(pfn), guest.mfn(pfn) << 12 | PRESENT | USER)) == (0, 1)


def test_the_first_tables_are_counted(guest: Tiny) -> None:
    frames = guest.domain.frames
    assert [frames.type[guest.mfn(pfn)] for pfn in (PT_L4, PT_L3, PT_L2, PT_L1)] == [4, 3, 2, 1]
    assert frames.pinned[guest.mfn(PT_L4)]
    assert frames.count[guest.mfn(PT_L4)] == 2  # the pin and CR3
    assert frames.type[guest.mfn(CODE)] == WRITABLE
    guest.check_counts()


def test_a_table_cannot_be_mapped_writable(guest: Tiny) -> None:
    for table in (PT_L1, PT_L2, PT_L3, PT_L4):
        refused(guest, guest.entry_address(FREE_SLOT), guest.mfn(table) << 12 | LEAF)
        assert guest.call("update_va_mapping", va(FREE_SLOT), guest.mfn(table) << 12 | LEAF, 0) in (-EINVAL, -EBUSY, -EPERM)
        assert guest.update((guest.entry_address(FREE_SLOT), guest.mfn(table) << 12 | PRESENT | USER)) == (0, 1)


def test_frames_that_are_not_the_guests_are_refused(guest: Tiny) -> None:
    layout = guest.domain.layout
    outside = guest.domain.memory.frames
    for mfn in (0, layout.gdt_mfn, layout.zero_mfn, 4, 5, layout.reserve[0], outside, outside + 1, (1 << 40) - 1):
        refused(guest, guest.entry_address(FREE_SLOT), mfn << 12 | LEAF)
        refused(guest, guest.entry_address(FREE_SLOT), mfn << 12 | PRESENT | USER)
        refused(guest, guest.entry_address(7, PT_L2), mfn << 12 | LEAF)
        assert guest.extended(PIN_L1, mfn) == -EINVAL
        assert guest.extended(NEW_BASEPTR, mfn) == -EINVAL
        refused(guest, mfn << 12, PRESENT)  # as a table to write in


def test_shared_info_may_be_mapped_but_never_be_a_table(guest: Tiny) -> None:
    shared = guest.domain.layout.shared_info_mfn
    assert guest.update((guest.entry_address(FREE_SLOT), shared << 12 | LEAF)) == (0, 1)
    assert guest.update((guest.entry_address(FREE_SLOT), 0)) == (0, 1)
    assert guest.extended(PIN_L1, shared) == -EINVAL


def test_superpages_are_refused(guest: Tiny) -> None:
    refused(guest, guest.entry_address(9, PT_L2), guest.mfn(SPARE) << 12 | LEAF | 0x80)
    refused(guest, guest.entry_address(9, PT_L3), guest.mfn(SPARE) << 12 | LEAF | 0x80)


def test_the_hypervisors_slots_are_refused_and_filled(guest: Tiny) -> None:
    words, l4 = guest.domain.memory.words, guest.mfn(PT_L4)
    for slot in (256, 260, 271):
        refused(guest, guest.entry_address(slot, PT_L4), 0)
        refused(guest, guest.entry_address(slot, PT_L4), guest.mfn(PT_L3) << 12 | LEAF)
    assert words[(l4 << 9) + 256] & PRESENT
    assert not words[(l4 << 9) + 256] & RW
    assert not words[(l4 << 9) + 260] & USER
    read_only(guest, SPARE)
    guest.put(SPARE, struct.pack("<Q", guest.mfn(CODE) << 12 | LEAF), 256 * 8)  # nonsense there is Xen's to overwrite
    assert guest.extended(PIN_L4, guest.mfn(SPARE)) == 0
    assert guest.get(SPARE, 128, 256 * 8) == bytes(8) + guest.get(PT_L4, 120, 257 * 8)  # the M2P's comes with a kernel
    assert guest.extended(UNPIN, guest.mfn(SPARE)) == 0


def test_a_table_that_names_itself_is_read_only_and_counts_nothing(guest: Tiny) -> None:
    l4 = guest.mfn(PT_L4)
    refused(guest, guest.entry_address(300, PT_L4), l4 << 12 | LEAF)
    count = guest.domain.frames.count[l4]
    assert guest.update((guest.entry_address(300, PT_L4), l4 << 12 | PRESENT | USER)) == (0, 1)
    assert guest.domain.frames.count[l4] == count
    assert guest.update((guest.entry_address(300, PT_L4), 0)) == (0, 1)
    assert guest.domain.frames.count[l4] == count


def test_no_write_through_a_linear_map_reaches_a_table(guest: Tiny) -> None:
    """L4 slot 300 names the L4 itself, read-only. The walk's last entry is then an entry of a higher table, which is writable."""
    assert guest.update((guest.entry_address(300, PT_L4), guest.mfn(PT_L4) << 12 | PRESENT | USER)) == (0, 1)
    window = 0xFFFF000000000000 | 300 << 39 | (BASE >> 39 & 511) << 30 | (BASE >> 30 & 511) << 21 | (BASE >> 21 & 511) << 12
    assert guest.domain.guest.read_u64(window + 8 * CODE) == guest.entry(CODE)
    before = guest.get(PT_L1, 4096)
    assert guest.call("xen_version", 3, window) == -14, "the hypervisor wrote into a page table for the guest"
    assert guest.get(PT_L1, 4096) == before
    guest.traps((14, 4, va(CODE, 0x100)))
    guest.domain.core.regs[3] = window
    guest.put(CODE, "0f0b", 0x100)
    target = guest.entry(CODE) & 0xFFFFFFFFFF000
    guest.run("488903")
    assert guest.entry(CODE) & 0xFFFFFFFFFF000 == target
    assert guest.update((guest.entry_address(300, PT_L4), 0)) == (0, 1)


def test_a_linear_map_of_another_table_holds_it(guest: Tiny) -> None:
    """Were it not counted, the other table could become plain memory and be written while it is walked."""
    read_only(guest, SPARE)
    read_only(guest, SPARE + 1)
    other = guest.mfn(SPARE)
    assert guest.extended(PIN_L4, other) == 0
    result, _ = guest.update((guest.entry_address(301, PT_L4), other << 12 | PRESENT | USER))
    assert guest.extended(UNPIN, other) == 0
    writable, _ = guest.update((guest.entry_address(SPARE), other << 12 | LEAF))
    assert (result == 0) is (writable != 0), "a table that is in use became writable"
    if result == 0:
        assert guest.update((guest.entry_address(301, PT_L4), 0)) == (0, 1)
        assert guest.update((guest.entry_address(SPARE), other << 12 | LEAF)) == (0, 1)
    assert guest.domain.frames.type[other] == WRITABLE


def test_counts_return_to_zero_after_unpin(guest: Tiny) -> None:
    frames = guest.domain.frames
    for pfn in range(SPARE, SPARE + 4):
        read_only(guest, pfn)
    l4, l3, l2, l1 = (guest.mfn(pfn) for pfn in range(SPARE, SPARE + 4))
    guest.put(SPARE, struct.pack("<Q", l3 << 12 | LEAF))
    guest.put(SPARE + 1, struct.pack("<QQ", l2 << 12 | LEAF, l2 << 12 | LEAF))
    guest.put(SPARE + 2, struct.pack("<QQ", l1 << 12 | LEAF, l1 << 12 | LEAF))
    guest.put(SPARE + 3, struct.pack("<3Q", guest.mfn(100) << 12 | LEAF, guest.mfn(100) << 12 | LEAF, guest.mfn(101) << 12 | PRESENT))
    before = frames.count[guest.mfn(100)]
    assert guest.extended(PIN_L4, l4) == 0
    assert [frames.type[mfn] for mfn in (l4, l3, l2, l1)] == [4, 3, 2, 1]
    assert [frames.count[mfn] for mfn in (l4, l3, l2, l1)] == [1, 1, 2, 2]
    assert frames.count[guest.mfn(100)] == before + 2
    guest.check_counts()
    assert guest.extended(PIN_L4, l4) == -EINVAL  # twice
    assert guest.extended(UNPIN, l4) == 0
    assert [frames.type[mfn] for mfn in (l4, l3, l2, l1)] == [NONE] * 4
    assert [frames.count[mfn] for mfn in (l4, l3, l2, l1)] == [0] * 4
    assert frames.count[guest.mfn(100)] == before
    assert guest.extended(UNPIN, l4) == -EINVAL


def test_a_table_refused_half_way_leaves_nothing_behind(guest: Tiny) -> None:
    frames = guest.domain.frames
    for pfn in range(SPARE, SPARE + 3):
        read_only(guest, pfn)
    l2, good, bad = (guest.mfn(pfn) for pfn in range(SPARE, SPARE + 3))
    guest.put(SPARE + 1, struct.pack("<Q", guest.mfn(100) << 12 | LEAF))
    guest.put(SPARE + 2, struct.pack("<QQ", guest.mfn(100) << 12 | LEAF, guest.mfn(PT_L4) << 12 | LEAF))
    guest.put(SPARE, struct.pack("<QQ", good << 12 | LEAF, bad << 12 | LEAF))
    before = frames.tally.tobytes()
    assert guest.extended(PIN_L2, l2) < 0
    assert frames.tally.tobytes() == before
    assert not frames.pinned[l2]


def test_a_page_mapped_writable_cannot_become_a_table(guest: Tiny) -> None:
    assert guest.extended(PIN_L1, guest.mfn(SPARE)) in (-EINVAL, -EBUSY)
    assert guest.extended(PIN_L4, guest.mfn(PT_L1)) == -EINVAL  # already one of another level
    assert guest.extended(PIN_L1, guest.mfn(PT_L1)) == 0
    assert guest.extended(UNPIN, guest.mfn(PT_L1)) == 0


def test_a_table_cannot_map_itself_writable(guest: Tiny) -> None:
    read_only(guest, SPARE)
    guest.put(SPARE, struct.pack("<Q", guest.mfn(SPARE) << 12 | LEAF))
    assert guest.extended(PIN_L1, guest.mfn(SPARE)) < 0
    guest.put(SPARE, struct.pack("<Q", guest.mfn(SPARE) << 12 | PRESENT | USER))
    assert guest.extended(PIN_L1, guest.mfn(SPARE)) == 0
    assert guest.extended(UNPIN, guest.mfn(SPARE)) == 0


def test_the_wrong_level_is_refused(guest: Tiny) -> None:
    refused(guest, guest.entry_address(9, PT_L2), guest.mfn(PT_L3) << 12 | LEAF)
    refused(guest, guest.entry_address(9, PT_L3), guest.mfn(PT_L1) << 12 | LEAF)
    refused(guest, guest.entry_address(9, PT_L4), guest.mfn(PT_L2) << 12 | LEAF)


def test_the_present_base_may_be_unpinned_but_stays_a_table(guest: Tiny) -> None:
    assert guest.extended(UNPIN, guest.mfn(PT_L4)) == 0
    assert guest.domain.frames.count[guest.mfn(PT_L4)] == 1
    refused(guest, guest.entry_address(FREE_SLOT), guest.mfn(PT_L4) << 12 | LEAF)
    assert guest.extended(PIN_L4, guest.mfn(PT_L4)) == 0


def test_kernel_and_user_base_may_be_one_table(guest: Tiny) -> None:
    assert guest.extended(NEW_USER_BASEPTR, guest.mfn(PT_L4)) == 0
    assert guest.domain.frames.count[guest.mfn(PT_L4)] == 3
    assert guest.extended(NEW_USER_BASEPTR, guest.mfn(USER_L4)) == 0
    assert guest.domain.frames.count[guest.mfn(PT_L4)] == 2
    assert guest.extended(NEW_USER_BASEPTR, 0) == 0
    assert guest.domain.frames.count[guest.mfn(USER_L4)] == 0
    assert guest.extended(NEW_BASEPTR, guest.mfn(USER_L4)) == 0
    assert guest.domain.core.cr3 == guest.mfn(USER_L4) << 12
    assert guest.extended(NEW_BASEPTR, guest.mfn(PT_L4)) == 0


def test_user_is_added_at_every_level(guest: Tiny) -> None:
    read_only(guest, SPARE)
    guest.put(SPARE, struct.pack("<Q", guest.mfn(100) << 12 | PRESENT | RW))
    assert guest.update((guest.entry_address(9, PT_L2), guest.mfn(SPARE) << 12 | PRESENT | RW)) == (0, 1)
    words = guest.domain.memory.words
    assert words[(guest.mfn(PT_L2) << 9) + 9] & USER
    assert words[guest.mfn(SPARE) << 9] & USER
    assert guest.update((guest.entry_address(9, PT_L2), 0)) == (0, 1)


def test_a_bad_list_does_the_part_before_it(guest: Tiny) -> None:
    good = (guest.entry_address(FREE_SLOT), guest.mfn(100) << 12 | LEAF)
    bad = (guest.entry_address(FREE_SLOT + 1), guest.mfn(PT_L4) << 12 | LEAF)
    result, done = guest.update(good, good, bad, good)
    assert result < 0
    assert done == 2
    assert guest.entry(FREE_SLOT + 1) == 0
    assert guest.update((good[0], 0)) == (0, 1)


def test_m2p_updates_are_for_ones_own_frames(guest: Tiny) -> None:
    mfn = guest.mfn(100)
    assert guest.update((mfn << 12 | 1, 0x1234)) == (0, 1)
    assert guest.domain.layout.pfn_of(mfn) == 0x1234
    assert guest.update((mfn << 12 | 1, 100)) == (0, 1)
    for other in (0, guest.domain.layout.gdt_mfn, guest.domain.memory.frames, 1 << 45):
        result, done = guest.update((other << 12 | 1, 7))
        assert (result < 0, done) == (True, 0)


def test_a_plain_page_may_be_written_by_mmu_update_but_no_typed_one(guest: Tiny) -> None:
    assert guest.update(((guest.mfn(100) << 12) + 8, 0xABCD)) == (0, 1)
    assert guest.get(100, 8, 8) == (0xABCD).to_bytes(8, "little")


def test_code_changed_by_mmu_update_runs_new(guest: Tiny) -> None:
    code = bytes.fromhex("b811000000 ebfe 90")  # mov eax, 0x11; L: jmp L
    guest.run(code, at=100, budget=100_000)
    assert guest.domain.core.regs[0] == 0x11
    assert guest.update((guest.mfn(100) << 12, int.from_bytes(code.replace(b"\x11", b"\x22"), "little"))) == (0, 1)
    guest.domain.core.rip = va(100)
    guest.domain.slice(100_000)
    assert guest.domain.core.regs[0] == 0x22


def test_a_stale_translation_is_gone_when_a_page_becomes_a_table(guest: Tiny) -> None:
    """The guest has written the page just now, so the processor holds a writable translation of it."""
    core = guest.domain.core
    core.regs[3] = va(SPARE)
    guest.run("48890b ebfe", budget=100_000)
    guest.traps((14, 4, va(CODE, 0x100)))
    guest.put(SPARE, bytes(4096))
    read_only(guest, SPARE)
    assert guest.extended(PIN_L1, guest.mfn(SPARE)) == 0
    core.regs[3], core.regs[1] = va(SPARE), guest.mfn(PT_L4) << 12 | LEAF
    guest.run("48890b ebfe", budget=100_000)
    assert guest.get(SPARE, 8) == bytes(8)
    assert guest.extended(UNPIN, guest.mfn(SPARE)) == 0


def test_a_store_to_a_table_is_checked_and_done(guest: Tiny) -> None:
    core = guest.domain.core
    core.regs[3], core.regs[1] = va(PT_L1, FREE_SLOT * 8), guest.mfn(100) << 12 | LEAF
    guest.run("48890b ebfe", budget=100_000)
    assert guest.domain.ended == ""
    assert guest.entry(FREE_SLOT) & 0xFFFFFFFFFF003 == guest.mfn(100) << 12 | PRESENT | RW
    guest.check_counts()
    core.regs[1] = 0
    guest.run("48890b ebfe", budget=100_000)
    assert guest.entry(FREE_SLOT) == 0


def test_a_guest_that_did_not_ask_for_it_gets_its_page_fault() -> None:
    with tiny() as guest:
        guest.traps((14, 0, va(CODE, 0x100)))
        guest.put(CODE, "ebfe", 0x100)
        assert guest.call("vm_assist", 1, 2) == 0
        guest.domain.core.regs[3] = va(PT_L1, FREE_SLOT * 8)
        guest.run("48890b ebfe", budget=100_000)
        assert guest.domain.core.rip == va(CODE, 0x100)
        assert guest.entry(FREE_SLOT) == 0
        assert guest.stack(24)[16:24] == (3).to_bytes(8, "little")


def test_nx_is_lazy_and_unseen() -> None:
    with tiny() as guest:
        assert guest.entry(CODE) & NX
        guest.run("ebfe", budget=100_000)
        assert guest.domain.ended == ""
        assert not guest.entry(CODE) & NX
        assert guest.entry(DATA) & NX


def test_nx_that_the_guest_asked_for_faults() -> None:
    with tiny() as guest:
        guest.traps((14, 4, va(CODE, 0x100)))
        guest.put(CODE, "ebfe", 0x100)
        assert guest.call("update_va_mapping", va(100), guest.mfn(100) << 12 | LEAF | NX, 1) == 0
        guest.domain.core.rip = va(100)
        guest.domain.slice(10_000)
        assert guest.domain.core.rip == va(CODE, 0x100)
        assert guest.stack(24)[16:24] == (0x11).to_bytes(8, "little")  # present, instruction; user only in user mode


def test_an_entry_read_and_written_back_keeps_its_right_to_execute(guest: Tiny) -> None:
    guest.run("ebfe", budget=100_000)
    for value in (guest.entry(CODE), guest.entry(DATA)):
        slot = CODE if value == guest.entry(CODE) else DATA
        assert guest.update((guest.entry_address(slot), value)) == (0, 1)
    guest.run("ebfe", budget=100_000)
    guest.run("ebfe", at=DATA, budget=100_000)
    assert guest.domain.ended == ""


FLAGS = st.sampled_from([0, 1, 3, 5, 7, 7, 7, 0x87, NX | 7])
ACTIONS = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 23), st.integers(0, 15), FLAGS, st.booleans()), min_size=1, max_size=40)


@settings(max_examples=60, deadline=None)
@given(ACTIONS)
def test_any_sequence_of_updates_keeps_the_counts(actions: list[tuple[int, int, int, int, bool]]) -> None:
    """Writes of leaves and tables, pins and unpins, bases, in any order, over pages of every kind."""
    pages = [PT_L1, PT_L2, PT_L3, PT_L4, USER_L4, *range(SPARE, SPARE + 8), CODE, DATA, 100]
    with tiny() as guest:
        for pfn in range(SPARE, SPARE + 8):
            read_only(guest, pfn)
        for kind, index, page, flags, other in actions:
            mfn = guest.mfn(pages[page])
            value = mfn << 12 | flags if flags else 0
            if kind <= 2:
                table = (PT_L1, PT_L2, PT_L3)[kind]
                slot = FREE_SLOT + index if table == PT_L1 else 16 + index
                guest.update((guest.entry_address(slot, table), value))
            elif kind == 3:
                guest.update((guest.entry_address(16 + index, PT_L4), value & ~RW))
            elif kind == 4:
                guest.update((guest.entry_address(index, SPARE + page % 8), guest.mfn(pages[index % len(pages)]) << 12 | flags & ~0x80))
            elif kind == 5:
                guest.extended(index % 4, mfn)
            elif kind == 6:
                guest.extended(UNPIN if pages[page] != PT_L4 else PIN_L4, mfn)
            else:
                guest.extended(NEW_USER_BASEPTR, mfn if other else 0)
            guest.check_counts()
        frames = guest.domain.frames
        for mfn in range(frames.frames):
            assert frames.count[mfn] >= 0
            if frames.type[mfn] in (L1, L2, 3, L4) and frames.count[mfn]:
                assert all(not entry & RW for entry in mappings(guest, mfn)), "a table is mapped writable"


def mappings(guest: Tiny, mfn: int) -> list[int]:
    """Every leaf of a valid L1 table that names a frame."""
    frames, words = guest.domain.frames, guest.domain.memory.words
    found = []
    for table in range(frames.frames):
        if frames.type[table] == L1 and frames.count[table]:
            found += [entry for entry in words[table << 9 : (table + 1) << 9] if entry & PRESENT and (entry & 0xFFFFFFFFFF000) >> 12 == mfn]
    return found


def test_the_fixture_is_honest(guest: Tiny) -> None:
    assert guest.mfn(0) != 0
    assert len({guest.mfn(pfn) for pfn in range(FRAMES)}) == FRAMES
