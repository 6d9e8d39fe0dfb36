"""Grant tables: what a domain lets others do with its frames, by itself."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from emulator.abi import grant_table as abi
from emulator.hypervisor.memory.frames import GUEST
from tests.unit.domains import DATA, PT_L4, RW, SPARE, va
from tests.unit.granters import HERE, SELF, THERE, Granter

EPERM, EBUSY, EINVAL, EILSEQ, ENOSYS, EOPNOTSUPP = 1, 16, 22, 84, 38, 95


@pytest.fixture
def one() -> Iterator[Granter]:
    made = Granter()
    made.set_up()
    yield made
    made.check_counts()
    made.close()


# --- the table -------------------------------------------------------------------------------------------------------------------


def test_a_table_has_one_frame_at_first_and_grows_to_its_limit(one: Granter) -> None:
    assert one.operate(abi.GNTTABOP_query_size, "<HxxIIhxx", SELF, 0, 0, 9) == (SELF, 1, 64, 0)
    assert one.operate(abi.GNTTABOP_setup_table, "<HxxIhxxxxxxQ", SELF, 65, 9, va(DATA, 512))[2] == abi.GNTST_general_error
    assert one.operate(abi.GNTTABOP_setup_table, "<HxxIhxxxxxxQ", SELF, 64, 9, va(DATA, 512))[2] == 0
    assert len(set(struct.unpack("<64Q", one.get(DATA, 512, 512)))) == 64
    assert one.domain.grants.entries == 64 * 512


def test_another_domains_table_is_none_of_ones_business(one: Granter) -> None:
    assert one.operate(abi.GNTTABOP_setup_table, "<HxxIhxxxxxxQ", 0, 1, 9, va(DATA, 512))[2] == abi.GNTST_permission_denied
    assert one.operate(abi.GNTTABOP_query_size, "<HxxIIhxx", 77, 0, 0, 9)[3] == abi.GNTST_bad_domain


def test_bad_calls_fail_as_a_whole(one: Granter) -> None:
    assert one.call("grant_table_op", abi.GNTTABOP_map_grant_ref, va(DATA), 1 << 31) == -EINVAL
    assert one.call("grant_table_op", abi.GNTTABOP_dump_table, va(DATA), 1) == -ENOSYS
    assert one.call("grant_table_op", abi.GNTTABOP_copy, 0xFFFF800000000000, 1) == -14
    assert one.call("grant_table_op", 99, va(DATA), 1) == -ENOSYS


def test_version_two_keeps_the_toolstacks_entries_and_shows_uses_in_status_frames(one: Granter) -> None:
    one.domain.grants.seed(abi.GNTTAB_RESERVED_CONSOLE, 0, one.mfn(SPARE))
    assert one.operate(abi.GNTTABOP_set_version, "<I", 2) == (2,)
    assert one.operate(abi.GNTTABOP_get_version, "<HHI", SELF, 0, 0)[2] == 2
    assert one.operate(abi.GNTTABOP_get_status_frames, "<IHhQ", 1, SELF, 9, va(DATA, 512))[2] == 0
    status = struct.unpack("<Q", one.get(DATA, 8, 512))[0]
    table = one.domain.grants.shared[0] << 12
    assert struct.unpack_from("<HHHHQ", one.domain.memory.bytes, table) == (abi.GTF_permit_access, 0, 0, 0, one.mfn(SPARE))
    assert one.domain.grants.map(0, 0, True, (1,)) == one.mfn(SPARE)
    assert one.domain.memory.bytes[status << 12] == abi.GTF_reading | abi.GTF_writing
    one.domain.grants.unmap(0, (1,))
    assert one.domain.memory.bytes[status << 12] == 0
    assert one.operate(abi.GNTTABOP_set_version, "<I", 1) == (1,)
    assert one.domain.grants.status == []


def test_a_version_cannot_change_under_a_use(one: Granter) -> None:
    one.grant(9, SPARE, 1)
    status, handle, _bus = one.map(9, 1)
    assert status == 0
    assert one.call("grant_table_op", abi.GNTTABOP_set_version, one.put(DATA, b"\2\0\0\0"), 1) == -EBUSY
    assert one.unmap(handle) == 0
    assert one.call("grant_table_op", abi.GNTTABOP_set_version, one.put(DATA, b"\3\0\0\0"), 1) == -EINVAL


# --- within one domain ----------------------------------------------------------------------------------------------------------


def test_a_map_shows_the_frame_and_its_use_and_an_unmap_ends_both(one: Granter) -> None:
    one.grant(9, SPARE, 1)
    one.put(SPARE, b"granted")
    status, handle, bus = one.map(9, 1)
    assert (status, bus) == (0, one.mfn(SPARE) << 12)
    assert one.domain.guest.read(va(HERE), 7) == b"granted"
    assert one.flags(9) == abi.GTF_permit_access | abi.GTF_reading | abi.GTF_writing
    assert one.unmap(handle) == 0 and one.flags(9) == abi.GTF_permit_access and one.entry(HERE) == 0
    assert one.unmap(handle) == abi.GNTST_bad_handle


@pytest.mark.parametrize(
    ("ref", "domid", "flags", "expect"),
    [
        (512, 1, abi.GNTMAP_host_map, abi.GNTST_bad_gntref),
        (9, 1, 0, abi.GNTST_bad_gntref),
        (10, 1, abi.GNTMAP_host_map, abi.GNTST_general_error),
        (11, 1, abi.GNTMAP_host_map, abi.GNTST_general_error),
        (12, 1, abi.GNTMAP_host_map, abi.GNTST_general_error),
        (13, 1, abi.GNTMAP_host_map, abi.GNTST_bad_page),
        (14, 1, abi.GNTMAP_host_map, abi.GNTST_general_error),
        (9, 0, abi.GNTMAP_host_map, abi.GNTST_bad_gntref),
        (9, 77, abi.GNTMAP_host_map, abi.GNTST_bad_domain),
    ],
    ids=["no such entry", "no kind", "empty", "for another", "read-only", "no frame of its own", "a page table", "domain 0", "no domain"],
)  # fmt: skip
def test_what_may_not_be_mapped(one: Granter, ref: int, domid: int, flags: int, expect: int) -> None:
    one.grant(9, SPARE, 1)
    one.grant(11, SPARE, 5)
    one.grant(12, SPARE, 1, abi.GTF_permit_access | abi.GTF_readonly)
    one.grant(14, PT_L4, 1)
    table = one.domain.grants.shared[0] << 12
    struct.pack_into("<HHI", one.domain.memory.bytes, table + 8 * 13, abi.GTF_permit_access, 1, 2)
    assert one.map(ref, domid, flags=flags)[0] == expect
    assert one.domain.grants.active == {} and one.flags(12) == abi.GTF_permit_access | abi.GTF_readonly


def test_a_read_only_use_can_be_taken_twice_and_is_never_written(one: Granter) -> None:
    one.grant(9, PT_L4, 1, abi.GTF_permit_access | abi.GTF_readonly)
    readonly = abi.GNTMAP_host_map | abi.GNTMAP_readonly
    first, second = one.map(9, 1, HERE, readonly), one.map(9, 1, THERE, readonly)
    assert (first[0], second[0]) == (0, 0) and not one.entry(HERE) & RW
    assert one.update((one.entry_address(HERE), one.entry(HERE) | RW))[0] == -EBUSY
    assert one.unmap(first[1]) == 0 and one.flags(9) & abi.GTF_reading
    assert one.unmap(second[1], THERE) == 0 and not one.flags(9) & abi.GTF_reading


def test_device_and_host_mappings_end_one_by_one(one: Granter) -> None:
    one.grant(9, SPARE, 1)
    status, handle, bus = one.map(9, 1, flags=abi.GNTMAP_host_map | abi.GNTMAP_device_map)
    assert status == 0
    assert one.unmap(handle, 0, bus + 4096) == abi.GNTST_bad_dev_addr
    assert one.unmap(handle, 0, bus) == 0 and one.flags(9) & abi.GTF_writing
    assert one.unmap(handle) == 0 and not one.flags(9) & abi.GTF_writing


def test_an_entry_named_by_its_machine_address_is_checked(one: Granter) -> None:
    one.grant(9, SPARE, 1)
    form, contains = "<QIIHhIQ", abi.GNTMAP_host_map | abi.GNTMAP_contains_pte
    for address in (one.entry_address(HERE) + 4, one.mfn(PT_L4) << 12, one.mfn(SPARE) << 12, 1 << 12, 1 << 50):
        assert one.operate(abi.GNTTABOP_map_grant_ref, form, address, contains, 9, 1, 9, 0, 0)[4] == abi.GNTST_general_error
    made = one.operate(abi.GNTTABOP_map_grant_ref, form, one.entry_address(HERE), contains, 9, 1, 9, 0, 0)
    assert made[4] == 0 and one.entry(HERE) >> 12 & 0xFFFFF == one.mfn(SPARE)
    assert one.operate(abi.GNTTABOP_unmap_grant_ref, "<QQIhxx", one.entry_address(HERE), 0, made[5], 9)[3] == 0


def test_unmap_and_replace_moves_an_entry(one: Granter) -> None:
    one.grant(9, SPARE, 1)
    _status, handle, _bus = one.map(9, 1)
    moved = SPARE + 1
    entry = one.entry(moved)
    assert one.operate(abi.GNTTABOP_unmap_and_replace, "<QQIhxx", va(HERE), va(moved), handle, 9)[3] == 0
    assert one.entry(HERE) == entry and one.entry(moved) == 0


def test_an_entry_the_guest_has_changed_is_no_mapping_to_end(one: Granter) -> None:
    one.grant(9, SPARE, 1)
    _status, handle, _bus = one.map(9, 1)
    assert one.update((one.entry_address(HERE), 0)) == (0, 1)
    assert one.unmap(handle) == abi.GNTST_general_error


def test_a_granted_frame_in_use_does_not_leave_the_domain(one: Granter) -> None:
    one.grant(9, SPARE, 1)
    one.domain.grants.map(9, 1, False, (0,))
    owned = one.domain.reservation.owned
    assert one.update((one.entry_address(SPARE), 0)) == (0, 1)
    extent = one.put(DATA, struct.pack("<Q", one.mfn(SPARE)), 512)
    assert one.call_with("memory_op", 1, "QQIIHxxxxxx", extent, 1, 0, 0, SELF) == 1
    assert one.domain.reservation.owned == owned and one.domain.frames.owner[one.mfn(SPARE)] == GUEST
    one.domain.grants.unmap(9, (0,))
    assert one.domain.reservation.owned == owned - 1
    one.domain.reservation.check()


def copy(guest: Granter, source: tuple[int, int, int], dest: tuple[int, int, int], length: int, flags: int) -> int:
    return guest.operate(abi.GNTTABOP_copy, "<QHHxxxxQHHxxxxHHhxx", *source, *dest, length, flags, 99)[8]


def test_copies_within_a_domain_obey_bounds_and_types(one: Granter) -> None:
    source, dest = one.mfn(SPARE), one.mfn(SPARE + 1)
    one.put(SPARE, b"0123456789")
    assert copy(one, (source, SELF, 2), (dest, SELF, 5), 4, 0) == 0
    assert one.get(SPARE + 1, 4, 5) == b"2345"
    assert copy(one, (source, SELF, 4000), (dest, SELF, 0), 97, 0) == abi.GNTST_bad_copy_arg
    assert copy(one, (source, SELF, 0), (one.mfn(PT_L4), SELF, 0), 8, 0) == abi.GNTST_general_error
    assert copy(one, (2, SELF, 0), (dest, SELF, 0), 8, 0) == abi.GNTST_bad_page
    assert copy(one, (source, 0, 0), (dest, SELF, 0), 8, 0) == abi.GNTST_permission_denied
    one.grant(9, SPARE, 1)
    assert copy(one, (9, 1, 1), (dest, SELF, 0), 3, abi.GNTCOPY_source_gref) == 0 and one.get(SPARE + 1, 3) == b"123"
    assert one.flags(9) == abi.GTF_permit_access


def test_a_part_of_a_page_is_all_that_is_granted(one: Granter) -> None:
    assert one.operate(abi.GNTTABOP_set_version, "<I", 2) == (2,)
    entry = struct.pack("<HHHHQ", abi.GTF_permit_access | abi.GTF_sub_page, 1, 100, 50, one.mfn(SPARE))
    table = one.domain.grants.shared[0] << 12
    one.domain.memory.bytes[table + 16 * 9 : table + 16 * 10] = entry
    dest = (one.mfn(SPARE + 1), SELF, 0)
    assert copy(one, (9, SELF, 100), dest, 50, abi.GNTCOPY_source_gref) == 0
    assert copy(one, (9, SELF, 99), dest, 10, abi.GNTCOPY_source_gref) == abi.GNTST_general_error
    assert copy(one, (9, SELF, 140), dest, 11, abi.GNTCOPY_source_gref) == abi.GNTST_general_error
    assert one.map(9, 1)[0] == abi.GNTST_general_error


def test_entries_swap_unless_they_are_used(one: Granter) -> None:
    one.grant(9, SPARE, 1)
    one.grant(10, SPARE + 1, 2)
    assert one.operate(abi.GNTTABOP_swap_grant_ref, "<IIhxx", 9, 10, 7)[2] == 0
    assert one.domain.grants.list()[0][2:4] == (2, one.mfn(SPARE + 1))
    one.domain.grants.map(10, 1, False, (0,))
    assert one.operate(abi.GNTTABOP_swap_grant_ref, "<IIhxx", 9, 10, 7)[2] == abi.GNTST_eagain
    assert one.operate(abi.GNTTABOP_swap_grant_ref, "<IIhxx", 9, 999, 7)[2] == abi.GNTST_bad_gntref
    one.domain.grants.unmap(10, (0,))


@pytest.mark.parametrize(
    ("where", "offset", "length", "what", "command", "expect"),
    [
        ("own", 0, 64, abi.GNTTAB_CACHE_CLEAN, abi.GNTTABOP_cache_flush, 0),
        ("own", 0, 64, abi.GNTTAB_CACHE_INVAL, abi.GNTTABOP_cache_flush, -EOPNOTSUPP),
        ("own", 0, 64, abi.GNTTAB_CACHE_CLEAN | abi.GNTTAB_CACHE_INVAL, abi.GNTTABOP_cache_flush, 0),
        ("own", 4096, 0, abi.GNTTAB_CACHE_CLEAN, abi.GNTTABOP_cache_flush, -EINVAL),
        ("own", 1, 4096, abi.GNTTAB_CACHE_CLEAN, abi.GNTTABOP_cache_flush, -EINVAL),
        ("own", 0, 64, abi.GNTTAB_CACHE_SOURCE_GREF, abi.GNTTABOP_cache_flush, -EINVAL),
        ("own", 0, 0, abi.GNTTAB_CACHE_CLEAN, abi.GNTTABOP_cache_flush, 0),
        ("own", 0, 0, abi.GNTTAB_CACHE_CLEAN, abi.GNTTABOP_cache_flush | 1 << 12, -EILSEQ),
        ("xen", 0, 64, abi.GNTTAB_CACHE_CLEAN, abi.GNTTABOP_cache_flush, -EPERM),
        ("end", 0, 64, abi.GNTTAB_CACHE_CLEAN, abi.GNTTABOP_cache_flush, -EINVAL),
        ("own", 0, 64, abi.GNTTAB_CACHE_CLEAN, abi.GNTTABOP_copy | 1 << 12, -EINVAL),
    ],
)
def test_a_cache_flush_flushes_nothing_and_refuses_what_xen_does(
    one: Granter, where: str, offset: int, length: int, what: int, command: int, expect: int
) -> None:
    mfn = {"own": one.mfn(SPARE), "xen": 2, "end": one.domain.memory.frames}[where]
    at = one.put(DATA, struct.pack("<QHHI", mfn << 12, offset, length, what))
    assert one.call("grant_table_op", command, at, 1) == expect


def test_a_list_of_frames_that_cannot_be_written_is_told_as_a_bad_address(one: Granter) -> None:
    assert one.operate(abi.GNTTABOP_setup_table, "<HxxIhxxxxxxQ", SELF, 2, 9, va(DATA, 4088))[2] == 0
    assert one.update((one.entry_address(DATA + 1), 0)) == (0, 1)
    assert one.operate(abi.GNTTABOP_setup_table, "<HxxIhxxxxxxQ", SELF, 2, 9, va(DATA, 4088))[2] == abi.GNTST_bad_virt_addr
    assert one.operate(abi.GNTTABOP_get_status_frames, "<IHhQ", 1, SELF, 9, va(DATA, 512))[2] == abi.GNTST_general_error
