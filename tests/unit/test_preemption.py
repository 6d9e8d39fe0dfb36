"""No hypercall holds a physical CPU for long: trees of tables are validated and let go in pieces, and whatever is left half done adds up."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator

import pytest

from emulator.abi.errno import EBUSY, EINVAL
from emulator.hypervisor import context
from emulator.hypervisor.context import get_info
from emulator.hypervisor.memory.frames import L1, L4, NONE, FrameTable
from emulator.hypervisor.memory.promotion import ALLOWANCE, ENTRY_WORK
from tests.unit.domains import DATA, FREE_SLOT, PRESENT, PT_L4, SPARE, USER, Tiny, va
from tests.unit.widetree import LEAVES, LINK, MOST, Wide

PIN_L1, PIN_L2, PIN_L3, PIN_L4, UNPIN, NEW_BASEPTR, NEW_USER_BASEPTR = 0, 1, 2, 3, 4, 5, 15
POPULATE = 6
@pytest.fixture
def wide() -> Iterator[Wide]:
    made = Wide()
    uses = made.domain.frames.count[made.target]
    yield made
    made.check_counts()
    assert made.most[0] <= MOST and made.most[1] <= ALLOWANCE // ENTRY_WORK + 4, made.most
    made.patience = 100_000
    assert made.call("mmuext_op", made.put(DATA, bytes(24)), 0, 0, 0x7FF0) == 0
    assert not made.domain.frames.unfinished
    if made.domain.current.cr3_kernel and not made.domain.frames.partial and made.types() == {NONE}:
        assert made.domain.frames.count[made.target] == uses
    made.let_go()
    made.close()


def test_a_wide_tree_is_pinned_and_unpinned_in_pieces(wide: Wide) -> None:
    assert wide.extended(PIN_L4, wide.l4) == 0
    assert wide.pieces >= LEAVES // MOST
    assert [wide.domain.frames.type[mfn] for mfn in (wide.l4, wide.l1[0], wide.l1[-1])] == [L4, L1, L1]
    wide.check_counts()
    wide.pieces = 0
    assert wide.extended(UNPIN, wide.l4) == 0
    assert wide.pieces >= LEAVES // MOST
    assert wide.types() == {NONE}


def test_events_reach_the_guest_between_two_pieces(wide: Wide) -> None:
    wide.patience = 1
    wide.extended(PIN_L4, wide.l4)
    core = wide.domain.core
    assert core.regs[0] == 26, "the hypercall is issued again"
    assert core.regs[7] and core.regs[6] == 1 | 1 << 31
    assert wide.domain.frames.partial


def test_a_list_of_pins_is_no_longer_than_one(wide: Wide) -> None:
    operations = b"".join(struct.pack("<IxxxxQQ", PIN_L1, mfn, 0) for mfn in wide.l1[:160])
    assert wide.call("mmuext_op", wide.put(DATA, operations), 160, va(SPARE), 0x7FF0) == 0
    assert wide.pieces > 1 and wide.get(SPARE, 4) == (160).to_bytes(4, "little")


def test_a_multicall_of_pins_is_no_longer_than_one(wide: Wide) -> None:
    at = wide.put(DATA, b"".join(struct.pack("<IxxxxQQ", PIN_L1, mfn, 0) for mfn in wide.l1[:160]))
    calls = b"".join(struct.pack("<Qq6Q", 26, 7, at + 48 * n, 2, 0, 0x7FF0, 0, 0) for n in range(60))
    assert wide.call("multicall", wide.put(DATA + 2, calls), 60) == 0
    assert wide.pieces > 1


def test_a_multicall_of_lists_is_no_longer_than_a_list(wide: Wide) -> None:
    """Each of them is short enough by itself; 60 of them were not."""
    grants, extents = wide.put(DATA, bytes(4000)), wide.put(DATA + 1, struct.pack("<QQIIHxxxxxx", va(DATA + 3), 256, 0, 0, 0x7FF0))
    table = wide.put(DATA + 3, struct.pack("<BBHxxxxQ", 200, 0, 0xE033, va(0)) * 255 + bytes(16))
    for number, arguments in ((20, (5, grants, 100)), (12, (0, extents)), (0, (table,)), (18, (0, 4096, va(DATA)))):
        calls = b"".join(struct.pack("<Qq6Q", number, 7, *arguments, *(0,) * (6 - len(arguments))) for _ in range(60))
        wide.pieces = 0
        assert wide.call("multicall", wide.put(DATA + 2, calls), 60) == 0
        assert wide.pieces > (0 if number == 18 else 4), number


def test_what_was_begun_and_left_can_be_nothing_else_and_is_gone_on_with(wide: Wide) -> None:
    wide.patience = 4
    wide.extended(PIN_L4, wide.l4)
    wide.check_counts()
    frames, l4 = wide.domain.frames, wide.l4
    assert l4 in frames.partial and frames.count[l4] == 1 and not frames.pinned[l4]
    wide.patience = 100_000
    assert wide.extended(UNPIN, l4) == -EINVAL
    assert wide.extended(PIN_L3, l4) == -EINVAL
    assert wide.extended(16, l4) == -EINVAL, "CLEAR_PAGE"
    assert wide.update((l4 << 12, 0)) == (-EINVAL, 0)
    assert wide.update((wide.entry_address(FREE_SLOT), l4 << 12 | LINK)) == (-EBUSY, 0)
    assert wide.update((wide.entry_address(300, PT_L4), l4 << 12 | PRESENT | USER)) == (-EINVAL, 0), "a linear map of it"
    part = next(mfn for mfn in wide.l2 if mfn in frames.partial)
    assert wide.update((part << 12, 0)) == (-EINVAL, 0)
    wide.check_counts()
    wide.pieces = 0
    assert wide.extended(PIN_L4, l4) == 0
    assert wide.pieces < LEAVES // MOST + 2, "begun anew"
    assert wide.extended(UNPIN, l4) == 0
    assert wide.types() == {NONE}


def test_what_was_begun_and_left_counts_for_nothing_at_the_domains_end(wide: Wide) -> None:
    wide.patience = 4
    wide.extended(PIN_L4, wide.l4)
    wide.let_go()
    assert wide.types() == {NONE}


def test_a_tree_pinned_again_while_it_is_let_go(wide: Wide) -> None:
    assert wide.extended(PIN_L4, wide.l4) == 0
    wide.patience = 3
    wide.extended(UNPIN, wide.l4)
    assert wide.l4 in wide.domain.frames.partial and wide.domain.frames.unfinished
    wide.check_counts()
    wide.patience = 100_000
    assert wide.extended(PIN_L4, wide.l4) == 0, "what is unfinished is let go first, then it is validated anew"
    wide.check_counts()
    assert wide.extended(UNPIN, wide.l4) == 0


@pytest.mark.parametrize("where", ["leaf", "lower", "upper", "top"])
def test_a_tree_that_fails_at_its_very_end_lets_go_in_pieces(wide: Wide, where: str) -> None:
    last = {"leaf": wide.l1[-1], "lower": wide.l2[5], "upper": wide.l3[-1], "top": wide.l4}[where]
    wide.table(last)[511] = (wide.mfn(PT_L4) if where != "top" else wide.domain.memory.frames) << 12 | LINK
    expected = -EBUSY if where == "leaf" else -EINVAL
    assert wide.extended(PIN_L4, wide.l4) == expected
    assert wide.pieces >= (2 * LEAVES // MOST if where != "leaf" else 2)
    assert wide.types() == {NONE}
    assert "L1 table" in wide.domain.refusals[-1][3] or "frame" in wide.domain.refusals[-1][3]


def test_a_part_that_two_trees_share_belongs_to_whoever_ends_it(wide: Wide) -> None:
    other = wide.mfn(SPARE)
    assert wide.update((wide.entry_address(SPARE), 0)) == (0, 1)
    wide.table(other)[:] = wide.table(wide.l4)
    wide.patience = 3
    wide.extended(PIN_L4, wide.l4)
    wide.extended(PIN_L4, other)
    assert {wide.l4, other} <= set(wide.domain.frames.partial)
    wide.check_counts()
    wide.patience = 100_000
    assert wide.extended(PIN_L4, other) == 0
    wide.check_counts()
    assert wide.extended(PIN_L4, wide.l4) == 0
    wide.check_counts()
    assert wide.extended(UNPIN, other) == 0
    assert wide.extended(UNPIN, wide.l4) == 0
    assert wide.types() == {NONE}


def test_bases_are_changed_in_pieces(wide: Wide) -> None:
    wide.table(wide.l4)[0] = wide.table(wide.mfn(PT_L4))[0]  # where the test itself lies, it lies there too
    assert wide.extended(NEW_USER_BASEPTR, wide.l4) == 0
    assert wide.pieces >= LEAVES // MOST
    assert wide.extended(NEW_USER_BASEPTR, 0) == 0
    assert wide.domain.frames.type[wide.l4] == NONE
    assert wide.extended(NEW_BASEPTR, wide.l4) == 0
    assert wide.domain.core.cr3 == wide.l4 << 12
    wide.check_counts()
    assert wide.extended(NEW_BASEPTR, wide.mfn(PT_L4)) == 0
    assert wide.types() == {NONE}


def test_a_move_to_cr3_is_tried_again_until_the_tree_is_valid(wide: Wide) -> None:
    wide.table(wide.l4)[0] = wide.table(wide.mfn(PT_L4))[0]
    wide.domain.core.regs[0] = wide.l4 << 12
    wide.run("0f22d8 ebfe")  # mov %rax, %cr3
    assert wide.domain.current.cr3_kernel == wide.l4 and not wide.domain.ended
    assert wide.extended(NEW_BASEPTR, wide.mfn(PT_L4)) == 0


def test_an_entry_that_brings_a_tree_or_takes_it_away(wide: Wide) -> None:
    slot = wide.entry_address(300, PT_L4)
    sub = wide.l3[0]
    assert wide.update((slot, sub << 12 | LINK)) == (0, 1)
    assert wide.pieces > 1
    wide.check_counts()
    wide.pieces = 0
    assert wide.update((slot, wide.l3[1] << 12 | LINK), (slot, 0)) == (0, 2), "one for the other, then neither"
    assert wide.pieces > 2
    assert wide.types() == {NONE}


@pytest.mark.parametrize(("kernel", "user"), [(True, False), (False, True), (True, True)])
def test_a_vcpu_may_begin_on_tables_that_nobody_has_validated(kernel: bool, user: bool) -> None:
    wide = Wide(vcpus=2)
    data = bytearray(get_info(wide.domain.vcpus[0]))
    struct.pack_into("<Q", data, 512, 4)  # VGCF_in_kernel
    for number, use in ((3, kernel), (1, user)):
        struct.pack_into("<Q", data, context._TAIL_AT + 8 * (2 + 16 + 1 + 2 + number), (wide.l4 if use else wide.mfn(PT_L4)) << 12)
    for page in range(0, len(data), 4096):
        wide.put(DATA + page // 4096, bytes(data[page : page + 4096]))
    wide.pieces = 0
    assert wide.call("vcpu_op", 0, 1, va(DATA)) == 0
    assert wide.pieces >= LEAVES // MOST and wide.most[0] <= MOST
    wide.check_counts()
    wide.let_go()
    wide.close()


def test_a_snapshot_keeps_what_is_half_done(wide: Wide) -> None:
    wide.patience = 4
    wide.extended(PIN_L4, wide.l4)
    frames = wide.domain.frames
    other = FrameTable(frames.frames)
    other.load(frames.save())
    assert other.partial == frames.partial != {}
    assert other.save() == frames.save()


def test_hundreds_of_extents_out_of_a_large_free_memory_are_found_quickly() -> None:
    """With 16 times the free memory a search that went through all of it would be 16 times dearer."""
    small, large = (min(populated(1 << bits) for _ in range(2)) for bits in (13, 17))
    assert large < 9 * small


def populated(max_frames: int) -> float:
    """CPU seconds for 512 extents of a guest that may have so many frames."""
    guest = Tiny(max_frames=max_frames)
    reservation = guest.domain.reservation
    reservation.set_maximum(max_frames)
    extents = guest.put(DATA, bytes(4096))
    began = time.thread_time()
    for order in (1, 3):
        request = guest.put(DATA + 1, struct.pack("<QQIIHxxxxxx", extents, 256, order, 0, 0x7FF0))
        assert guest.call("memory_op", POPULATE, request) == 256
        assert not any(mfn & (1 << order) - 1 for (mfn,) in struct.iter_unpack("<Q", guest.get(DATA, 2048)))
    took = time.thread_time() - began
    reservation.check()
    guest.domain.close()
    return took
