"""Corners of mmu_update and mmuext_op as Xen 4.17 has them (do_mmu_update, update_intpte, handle_ldt_mapping_fault)."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from emulator.abi.errno import EBUSY, EFAULT, EINVAL, ENOSYS, EPERM, ESRCH
from emulator.abi.xen import DOMID_IO, DOMID_SELF, VI_CR2
from tests.unit.domains import CODE, DATA, FREE_SLOT, PRESENT, PT_L2, RW, SPARE, USER, Tiny, va

ACCESSED, DIRTY, LEAF = 0x20, 0x40, PRESENT | RW | USER
PRESERVE_AD = 2


@pytest.fixture
def guest() -> Iterator[Tiny]:
    made = Tiny()
    yield made
    made.check_counts()
    made.close()


def update_as(guest: Tiny, domid: int, pointer: int, value: int) -> int:
    return guest.call("mmu_update", guest.put(DATA, struct.pack("<QQ", pointer, value)), 1, 0, domid)


@pytest.mark.parametrize("count", [1, 40])
def test_accessed_and_dirty_are_kept_in_an_entry_that_is_cleared(guest: Tiny, count: int) -> None:
    """update_intpte ORs them in whatever the new entry is, one by one and in a list."""
    at, words = guest.entry_address(FREE_SLOT), guest.domain.memory.words
    assert guest.update(*((at + 8 * n, guest.mfn(SPARE) << 12 | LEAF | ACCESSED | DIRTY) for n in range(count))) == (0, count)
    assert guest.update(*((at + 8 * n | PRESERVE_AD, 0) for n in range(count))) == (0, count)
    assert {words[(at >> 3) + n] for n in range(count)} == {ACCESSED | DIRTY}
    assert guest.update(*((at + 8 * n, 0) for n in range(count))) == (0, count)
    assert {words[(at >> 3) + n] for n in range(count)} == {0}


def test_in_the_name_of_domid_io_entries_may_be_cleared_and_nothing_else(guest: Tiny) -> None:
    at, value = guest.entry_address(FREE_SLOT), guest.mfn(SPARE) << 12 | LEAF
    assert update_as(guest, DOMID_IO, at, value) == -EBUSY
    assert update_as(guest, DOMID_IO, at, value | 0x80) == -EINVAL
    assert update_as(guest, DOMID_IO, at, 0x12345 << 12 | LEAF) == -EPERM
    assert update_as(guest, DOMID_IO, guest.entry_address(9, PT_L2), 0) == -EINVAL
    assert update_as(guest, DOMID_IO, guest.mfn(SPARE) << 12 | 1, SPARE) == -EINVAL
    assert guest.update((at, value)) == (0, 1)
    assert update_as(guest, DOMID_IO, at, 0) == 0
    assert guest.entry(FREE_SLOT) == 0


def test_the_order_of_refusals(guest: Tiny) -> None:
    """The list, then the domains, then each operation: read, its command, the right to it, its frame."""
    assert update_as(guest, 12345, 7, 0) == -ESRCH
    assert guest.call("mmu_update", 0xFFFF830000000000, 1, 0, 12345) == -EFAULT
    assert guest.call("mmu_update", va(DATA), 0, 0, 0) == 0, "nothing asked, nothing refused"
    assert guest.call("mmu_update", 0x1000, 1, 0, 0) == -EFAULT
    assert update_as(guest, 0, 7, 0) == -ENOSYS
    assert update_as(guest, 0, guest.entry_address(FREE_SLOT), 0) == -EPERM
    assert update_as(guest, 1 << 16 | DOMID_SELF, guest.entry_address(FREE_SLOT), 0) == -EPERM, "the tables of domain 0"
    assert update_as(guest, 12346 << 16 | DOMID_SELF, 0, 0) == -ESRCH
    assert guest.call("update_va_mapping_otherdomain", 1 << 63, 0, 0, 12345) == -ESRCH
    assert guest.call("update_va_mapping_otherdomain", 1 << 63, 0, 0, 0) == -EPERM
    assert guest.call("update_va_mapping_otherdomain", 1 << 63, 0, 0, DOMID_SELF) == -EINVAL
    assert guest.call("update_va_mapping_otherdomain", va(FREE_SLOT), 0, 0, 1) == -ESRCH, "its own number"
    assert guest.call("mmuext_op", 0xFFFF830000000000, 1, 0, 12345) == -EFAULT
    assert guest.call("mmuext_op", va(DATA), 0, 0, 0) == -EPERM, "the right is asked for before any operation"


def test_a_flush_that_fails_leaves_the_mapping_made(guest: Tiny) -> None:
    value = guest.mfn(SPARE) << 12 | LEAF
    assert guest.call("update_va_mapping", va(FREE_SLOT), value, 0xFFFF830000000001) == -EFAULT
    assert guest.entry(FREE_SLOT) & ~0x100 == value
    assert guest.call("update_va_mapping", va(FREE_SLOT), value | 0x200, 0xFFFF830000000003) == 0, "no kind of flush: nothing to read"
    assert guest.call("update_va_mapping", va(FREE_SLOT), 0, 0) == 0


def test_a_fault_in_the_ldt_is_the_guests_at_the_guests_own_address(guest: Tiny) -> None:
    """The processor faulted on Xen's mapping of it, of which the guest knows nothing."""
    guest.traps((14, 4, va(CODE, 0x100)))
    guest.put(CODE, "ebfe", 0x100)
    assert guest.extended(13, va(FREE_SLOT + 4), 512) == 0  # nothing is mapped there
    guest.run("66b81f00 8ed8 ebfe")  # mov $0x1f, %ax; mov %ax, %ds
    assert guest.domain.core.rip == va(CODE, 0x100)
    assert guest.domain.memory.words[guest.domain.current.info + VI_CR2 >> 3] == va(FREE_SLOT + 4, 0x18)
    assert guest.extended(13, 0, 0) == 0
