"""Grant tables: what a domain lets others do with its frames, by itself and between two domains that never hold each other."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from emulator.abi import grant_table as abi
from emulator.hypervisor.domain import Domain
from emulator.hypervisor.memory.frames import FOREIGN, GUEST
from tests.unit.domains import DATA, FREE_SLOT, PRESENT, PT_L4, RW, SPARE, USER, Tiny, va

TABLE, STATUS = FREE_SLOT, FREE_SLOT + 1  # slots where the guest maps its grant table, its status frames
HERE, THERE = FREE_SLOT + 2, FREE_SLOT + 3
SELF = 0x7FF0
EBUSY, EINVAL, EOPNOTSUPP, ENOSYS = 16, 22, 95, 38


class Granter(Tiny):
    """With its grant table mapped at TABLE."""

    def set_up(self, frames: int = 1) -> None:
        assert self.operate(abi.GNTTABOP_setup_table, "<HxxIhxxxxxxQ", SELF, frames, 77, va(DATA, 512))[2] == 0
        mfn = struct.unpack("<Q", self.get(DATA, 8, 512))[0]
        assert self.update((self.entry_address(TABLE), mfn << 12 | PRESENT | RW | USER)) == (0, 1)

    def operate(self, command: int, form: str, *values: int) -> tuple[int, ...]:
        """One operation; its structure afterwards."""
        size = struct.calcsize(form)
        assert self.call("grant_table_op", command, self.put(DATA, struct.pack(form, *values)), 1) == 0
        return struct.unpack(form, self.get(DATA, size))

    def grant(self, ref: int, pfn: int, domid: int, flags: int = abi.GTF_permit_access) -> None:
        """The guest itself writes the entry."""
        mfn = self.domain.grants.shared[0]
        struct.pack_into("<HHI", self.domain.memory.bytes, (mfn << 12) + 8 * ref, flags, domid, self.mfn(pfn))

    def flags(self, ref: int) -> int:
        return int.from_bytes(self.domain.memory.bytes[(self.domain.grants.shared[0] << 12) + 8 * ref :][:2], "little")

    def map(self, ref: int, domid: int, slot: int = HERE, flags: int = abi.GNTMAP_host_map) -> tuple[int, int, int]:
        """(status, handle, machine address)."""
        return self.operate(abi.GNTTABOP_map_grant_ref, "<QIIHhIQ", va(slot), flags, ref, domid, 99, 0, 0)[4:]  # type: ignore[return-value]

    def unmap(self, handle: int, slot: int = HERE, bus: int = 0) -> int:
        return self.operate(abi.GNTTABOP_unmap_grant_ref, "<QQIhxx", va(slot) if slot else 0, bus, handle, 99)[3]


@pytest.fixture
def one() -> Iterator[Granter]:
    made = Granter()
    made.set_up()
    yield made
    made.check_counts()
    made.close()


@contextmanager
def pair() -> Iterator[tuple[Granter, Granter]]:
    """Two domains, 1 and 2, that know each other."""
    made = Granter(domid=1), Granter(domid=2)
    known: dict[int, Domain] = {guest.domain.domid: guest.domain for guest in made}
    for guest in made:
        guest.domain.peer = known.get
        guest.domain.domid_exists = lambda domid: domid == 0 or domid in known
        guest.set_up()
    try:
        yield made
    finally:
        for guest in made:
            known.pop(guest.domain.domid, None)
            if guest.domain.core.control is not None and hasattr(guest.domain, "tables"):
                guest.close()


def settle(*guests: Granter) -> None:
    """Each holder in turn serves what waits, until nothing does."""
    for _ in range(4):
        for guest in guests:
            guest.domain.serve()
            while (message := guest.domain.mailbox.take()) is not None:
                message.apply(guest.domain)


def across(guest: Granter, peer: Granter, command: int, form: str, *values: int) -> tuple[int, ...]:
    """An operation that concerns the peer: the vCPU parks, the peer answers, the hypercall is issued again."""
    core = guest.domain.core
    at = guest.put(DATA, struct.pack(form, *values))
    for _ in range(4):
        rip = core.rip
        result = guest.call("grant_table_op", command, at, 1)
        if guest.domain.current.parked is None:
            assert result == 0
            return struct.unpack(form, guest.get(DATA, struct.calcsize(form)))
        assert core.rip == rip and not guest.domain.current.can_run  # the trap moved RIP on by two, and it was moved back
        settle(peer, guest)
        assert guest.domain.current.can_run
    raise AssertionError("no answer")


def map_across(guest: Granter, peer: Granter, ref: int, flags: int = abi.GNTMAP_host_map, slot: int = HERE) -> tuple[int, int, int]:
    return across(guest, peer, abi.GNTTABOP_map_grant_ref, "<QIIHhIQ", va(slot), flags, ref, peer.domain.domid, 99, 0, 0)[4:]  # type: ignore[return-value]


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
    assert one.call("grant_table_op", abi.GNTTABOP_transfer, va(DATA), 1) == -EOPNOTSUPP
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


# --- two domains -------------------------------------------------------------------------------------------------------------------


def test_a_domain_maps_a_frame_of_another_and_both_see_what_is_written() -> None:
    with pair() as (granter, user):
        granter.grant(9, SPARE, 2)
        granter.put(SPARE, b"from one")
        status, handle, bus = map_across(user, granter, 9)
        assert status == 0 and user.domain.frames.owner[bus >> 12] == FOREIGN
        assert user.domain.guest.read(va(HERE), 8) == b"from one"
        user.domain.guest.write(va(HERE), b"from two")
        assert granter.get(SPARE, 8) == b"from two"
        assert granter.flags(9) == abi.GTF_permit_access | abi.GTF_reading | abi.GTF_writing
        granter.check_counts()
        # nobody but the grant operations may map it, and nobody may make it a table
        assert user.update((user.entry_address(THERE), bus | PRESENT | USER))[0] == -EBUSY
        assert user.extended(0, bus >> 12) == -EINVAL
        assert user.unmap(handle) == 0
        settle(granter, user)
        assert granter.flags(9) == abi.GTF_permit_access and granter.domain.grants.active == {}
        assert user.domain.guest.entry_index(va(HERE)) >= 0 and user.entry(HERE) == 0
        granter.check_counts()


def test_what_another_domain_refuses_comes_back_as_its_status() -> None:
    with pair() as (granter, user):
        granter.grant(9, SPARE, 5)
        assert map_across(user, granter, 9)[0] == abi.GNTST_general_error
        assert map_across(user, granter, 600)[0] == abi.GNTST_bad_gntref
        assert granter.domain.grants.active == {} and user.domain.mappings.handles == {}


def test_copies_between_domains_both_ways_and_between_two_others() -> None:
    with pair() as (granter, user):
        granter.grant(9, SPARE, 2)
        granter.grant(10, SPARE + 1, 2)
        granter.put(SPARE, b"abcdefgh")
        own = user.mfn(SPARE)
        form = "<QHHxxxxQHHxxxxHHhxx"
        read = across(user, granter, abi.GNTTABOP_copy, form, 9, 1, 2, own, SELF, 7, 4, abi.GNTCOPY_source_gref, 9)
        assert read[8] == 0 and user.get(SPARE, 4, 7) == b"cdef"
        both = abi.GNTCOPY_source_gref | abi.GNTCOPY_dest_gref
        assert across(user, granter, abi.GNTTABOP_copy, form, 9, 1, 0, 10, 1, 100, 8, both, 9)[8] == 0
        assert granter.get(SPARE + 1, 8, 100) == b"abcdefgh"
        written = across(user, granter, abi.GNTTABOP_copy, form, own, SELF, 7, 10, 1, 0, 4, abi.GNTCOPY_dest_gref, 9)
        assert written[8] == 0 and granter.get(SPARE + 1, 4) == b"cdef"
        assert across(user, granter, abi.GNTTABOP_copy, form, 9, 1, 4095, own, SELF, 0, 2, abi.GNTCOPY_source_gref, 9)[8] == abi.GNTST_bad_copy_arg
        assert granter.domain.grants.active == {} and user.domain.current.answers == {}
        granter.check_counts()
        user.check_counts()


def test_a_snapshotted_domains_frame_is_promoted_to_shared_backing() -> None:
    with pair() as (granter, user):
        memory = granter.domain.memory
        memory.map_private(memory.fd)  # what a first snapshot does
        granter.grant(9, SPARE, 2)
        granter.put(SPARE, b"private")
        status, handle, _bus = map_across(user, granter, 9)
        assert status == 0 and user.domain.guest.read(va(HERE), 7) == b"private"
        user.domain.guest.write(va(HERE), b"both of")
        assert granter.get(SPARE, 7) == b"both of"
        assert granter.mfn(SPARE) in memory.private_frames().tolist()
        memory.map_private(memory.fd)  # a restore: the frame is the base's again, for both
        assert granter.get(SPARE, 7) == user.domain.guest.read(va(HERE), 7) == bytes(7)
        assert user.unmap(handle) == 0


def test_a_domain_that_ends_lets_go_of_what_it_mapped_and_leaves_what_others_mapped() -> None:
    with pair() as (granter, user):
        granter.grant(9, SPARE, 2)
        granter.put(SPARE, b"still")
        assert map_across(user, granter, 9)[0] == 0
        user.domain._part_from_peers()
        settle(granter)
        assert granter.domain.grants.active == {}
    with pair() as (granter, user):
        granter.grant(9, SPARE, 2)
        granter.put(SPARE, b"still")
        _status, handle, _bus = map_across(user, granter, 9)
        granter.close()
        assert user.domain.guest.read(va(HERE), 5) == b"still"
        assert user.unmap(handle) == 0


def test_a_domain_that_ends_answers_those_that_wait() -> None:
    with pair() as (granter, user):
        at = user.put(DATA, struct.pack("<QIIHhIQ", va(HERE), abi.GNTMAP_host_map, 9, 1, 99, 0, 0))
        user.call("grant_table_op", abi.GNTTABOP_map_grant_ref, at, 1)
        assert user.domain.current.parked is not None
        granter.close()
        user.domain.peer = lambda domid: None
        settle(user)
        assert user.domain.current.can_run
        assert user.call("grant_table_op", abi.GNTTABOP_map_grant_ref, at, 1) == 0
        assert struct.unpack("<QIIHhIQ", user.get(DATA, 32))[4] == abi.GNTST_bad_domain
