"""Known holes of PV memory management, each tried as its Xen Security Advisory tells: written from the advisories' texts."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from emulator.abi import grant_table as abi
from emulator.abi.xen import HYPERCALL_NUMBER
from emulator.hypervisor.memory.frames import L1, SHARED, XEN
from tests.unit.domains import (
    BASE,
    DATA,
    FREE_SLOT,
    PRESENT,
    PT_L1,
    PT_L2,
    PT_L3,
    PT_L4,
    RW,
    SPARE,
    STACK,
    USER,
    USER_CODE,
    USER_L4,
    USER_STACK,
    Tiny,
    va,
)
from tests.unit.selfgrants import grant, map_grant, unmap_grant

PSE, ACCESSED = 1 << 7, 1 << 5
SELF = 0x7FF0
EFAULT, EBUSY, EEXIST, EINVAL, ENOSYS = 14, 16, 17, 22, 38
TABLE = PRESENT | RW | USER
HERE = FREE_SLOT + 2


@pytest.fixture
def guest() -> Iterator[Tiny]:
    made = Tiny()
    yield made
    made.check_counts()
    made.domain.reservation.check()
    made.close()


def test_xsa_148_no_superpage_comes_in_by_changing_the_flags_of_an_entry(guest: Tiny) -> None:
    l2 = guest.entry_address(BASE >> 21, PT_L2)
    present = guest.mfn(PT_L1) << 12 | TABLE
    for flag in (PSE, PSE | ACCESSED):
        assert guest.update((l2, present | flag)) == (-EINVAL, 0)
        assert guest.update((l2 + 8, guest.mfn(SPARE) << 12 | TABLE | flag)) == (-EINVAL, 0)
    assert guest.update((l2, guest.mfn(PT_L1) << 12 | TABLE)) == (0, 1)


@pytest.mark.parametrize(("table", "slot"), [(PT_L4, 300), (PT_L3, 300), (PT_L2, 300)])
def test_xsa_182_a_linear_map_never_becomes_writable_by_the_fast_path(guest: Tiny, table: int, slot: int) -> None:
    entry, itself = guest.entry_address(slot, table), guest.mfn(table) << 12
    assert guest.update((entry, itself | PRESENT | USER)) == (0, 1)
    assert guest.update((entry, itself | PRESENT | USER | RW)) == (-EINVAL, 0)
    assert guest.update((entry | 2, itself | PRESENT | RW)) == (-EINVAL, 0)
    assert guest.update((entry, itself | PRESENT | USER | ACCESSED)) == (0, 1)


@pytest.mark.parametrize("at", [0xFFFF800000000000, 0xFFFF830000000000, 0x800000000000, 0x900000000000])
def test_xsa_212_exchange_checks_where_it_writes(guest: Tiny, at: int) -> None:
    extent = guest.put(DATA, struct.pack("<Q", guest.mfn(SPARE)), 512)
    for done, start in ((0, at), (1 << 40, at - (1 << 43)), (0, extent)):
        fields = struct.pack("<QQIIHxxxxxxQQIIHxxxxxxQ", start, 1, 0, 0, SELF, at, 1, 0, 0, SELF, done)
        assert guest.call("memory_op", 11, guest.put(DATA, fields)) in (-EFAULT, -EINVAL)


def test_xsa_213_a_multicall_ends_where_iret_leaves_for_user_mode(guest: Tiny) -> None:
    """What followed was carried out with the user's page tables in place of the kernel's."""
    assert guest.extended(15, guest.mfn(USER_L4)) == 0
    frame = struct.pack("<9Q", 0x77, 0x11, 0xCC, 0, va(USER_CODE), 0xE033, 0x202, va(USER_STACK, 4096), 0xE02B)
    guest.domain.core.regs[4] = guest.put(STACK, frame, 2048)
    unpin = guest.put(DATA, struct.pack("<IxxxxQQ", 4, guest.mfn(PT_L4), 0), 512)
    entries = struct.pack("<Qq6Q", HYPERCALL_NUMBER["iret"], 7, *(0,) * 6)
    entries += struct.pack("<Qq6Q", HYPERCALL_NUMBER["mmuext_op"], 7, unpin, 1, 0, SELF, 0, 0)
    assert guest.call("multicall", guest.put(DATA, entries), 2) == 0x77
    assert not guest.domain.current.kernel_mode and guest.domain.core.rip == va(USER_CODE)
    assert struct.unpack("<q", guest.get(DATA, 8, 72)) == (7,), "not done"
    assert guest.domain.frames.pinned[guest.mfn(PT_L4)]


def test_xsa_227_an_entry_named_by_address_is_aligned_and_in_an_l1(guest: Tiny) -> None:
    grant(guest, 9, SPARE)
    flags = abi.GNTMAP_host_map | abi.GNTMAP_contains_pte
    for offset in range(1, 8):
        assert map_grant(guest, guest.entry_address(HERE) + offset, 9, flags)[0] == abi.GNTST_general_error
    for table in (PT_L4, PT_L3, PT_L2, SPARE + 1):
        assert map_grant(guest, guest.entry_address(300, table), 9, flags)[0] == abi.GNTST_general_error
    assert guest.entry(HERE) == 0 and not guest.domain.grants.active


def test_xsa_234_an_unmap_takes_only_the_mapping_it_made(guest: Tiny) -> None:
    grant(guest, 9, SPARE)
    readonly = abi.GNTMAP_host_map | abi.GNTMAP_readonly
    status, handle = map_grant(guest, va(HERE), 9, readonly)
    assert status == 0
    # a writable mapping of the same frame elsewhere is not what this handle stands for, nor is one of another frame
    assert unmap_grant(guest, va(SPARE), handle) == abi.GNTST_general_error
    assert unmap_grant(guest, va(SPARE + 1), handle) == abi.GNTST_general_error
    assert guest.entry(SPARE) & RW
    assert unmap_grant(guest, va(HERE), handle) == 0


def test_xsa_255_status_frames_do_not_outlive_version_two(guest: Tiny) -> None:
    version = guest.put(DATA, struct.pack("<I", 2))
    assert guest.call("grant_table_op", abi.GNTTABOP_set_version, version, 1) == 0
    status = guest.domain.grants.status[0]
    assert guest.update((guest.entry_address(HERE), status << 12 | PRESENT | RW | USER)) == (0, 1)
    guest.put(DATA, struct.pack("<I", 1))
    assert guest.call("grant_table_op", abi.GNTTABOP_set_version, version, 1) == -EBUSY
    assert guest.update((guest.entry_address(HERE), 0)) == (0, 1)
    guest.put(DATA, struct.pack("<I", 1))
    assert guest.call("grant_table_op", abi.GNTTABOP_set_version, version, 1) == 0
    assert guest.domain.frames.owner[status] == XEN != SHARED
    assert guest.update((guest.entry_address(HERE), status << 12 | PRESENT | USER))[0] == -EBUSY


def test_xsa_286_what_a_linear_map_has_cached_goes_when_a_table_changes(guest: Tiny) -> None:
    link = guest.mfn(PT_L3) << 12 | TABLE
    assert guest.update((guest.entry_address(8, PT_L4), link)) == (0, 1)
    guest.domain.memory.words[guest.entry_address(8, PT_L4) >> 3] |= ACCESSED  # the processor has walked it
    guest.domain.tables.stale = False
    guest.domain.tables.write_entry(guest.mfn(PT_L4), 8, 0)
    assert guest.domain.tables.stale


def test_xsa_296_initialising_a_vcpu_reads_the_whole_context_before_it_acts() -> None:
    guest = Tiny(vcpus=2)
    assert guest.call("vcpu_op", 0, 1, 0xFFFF800000000000) == -EFAULT
    assert guest.call("vcpu_op", 0, 1, va(DATA, 4096 * 300)) == -EFAULT
    assert guest.call("vcpu_op", 1, 1) < 0  # it is not initialised, and cannot come up
    assert guest.call("vcpu_op", 0, 0, va(DATA)) in (-EEXIST, -EINVAL)
    assert not guest.domain.ended
    guest.check_counts()
    guest.close()


def test_xsa_316_a_map_that_fails_says_so_and_leaves_nothing(guest: Tiny) -> None:
    grant(guest, 9, SPARE)
    grant(guest, 10, PT_L1)
    for ref, address in ((9, 0xFFFF800000000000), (9, va(900000)), (10, va(HERE)), (600, va(HERE))):
        assert map_grant(guest, address, ref)[0] < 0
    assert guest.domain.mappings.handles == {} and guest.domain.grants.active == {}
    table = guest.domain.grants.shared[0] << 12
    assert guest.domain.memory.bytes[table + 8 * 9] == abi.GTF_permit_access
    status, handle = map_grant(guest, va(HERE), 9)
    assert (status, unmap_grant(guest, va(HERE), handle)) == (0, 0)


def test_descriptor_pages_hold_nothing_that_leaves_ring_3(guest: Tiny) -> None:
    """What XSA-123 and its kin feared: gates and system segments in a page that becomes the GDT."""
    for descriptor in (0x00008B0000000067, 0x0000EE0000080000, 0x0000EC00E0080000, 0x0000EF0000080000):
        guest.domain.memory.words[guest.mfn(SPARE) << 9 | 3] = descriptor
        assert guest.update((guest.entry_address(SPARE), 0))[0] == 0
        assert guest.call("set_gdt", guest.put(DATA, struct.pack("<Q", guest.mfn(SPARE)), 256), 512) == -EINVAL
    guest.domain.memory.words[guest.mfn(SPARE) << 9 | 3] = 0x00CF9B000000FFFF  # DPL 0 code is made DPL 3
    assert guest.call("set_gdt", guest.put(DATA, struct.pack("<Q", guest.mfn(SPARE)), 256), 512) == 0
    assert guest.domain.memory.words[guest.mfn(SPARE) << 9 | 3] >> 45 & 3 == 3
    assert guest.update((guest.entry_address(SPARE), guest.mfn(SPARE) << 12 | PRESENT | RW | USER))[0] == -EBUSY


def test_a_table_of_one_level_is_never_one_of_another(guest: Tiny) -> None:
    for level, pfn in ((0, PT_L2), (1, PT_L1), (2, PT_L4), (3, PT_L3), (3, PT_L1)):
        assert guest.extended(level, guest.mfn(pfn)) == -EINVAL
    assert guest.domain.frames.type[guest.mfn(PT_L1)] == L1
