"""Grants between domains that never hold each other: what one asks the other carries out, between two of its slices."""

from __future__ import annotations

import os
import struct

import pytest

from emulator.abi import grant_table as abi
from emulator.hypervisor.memory.frames import FOREIGN, GUEST
from tests.unit.domains import DATA, PRESENT, SPARE, USER, va
from tests.unit.granters import COPY, HERE, SELF, THERE, Granter, across, listed, map_across, pair, settle, several

EBUSY, EINVAL = 16, 22
MAP, UNMAP = "<QIIHhIQ", "<QQIhxx"
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


def test_a_grant_mapped_twice_and_let_go_twice_is_watched_for_foreign_writes_no_more() -> None:
    with pair() as (granter, user):
        granter.grant(9, SPARE, 2)
        handles = [map_across(user, granter, 9, slot=slot)[1] for slot in (HERE, THERE)]
        assert granter.domain.foreign_writes.count == 1
        for handle, slot in zip(handles, (HERE, THERE), strict=True):
            assert user.unmap(handle, slot) == 0
        settle(granter, user)
        assert granter.domain.foreign_writes.count == user.domain.foreign_writes.count == 0


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
        read = across(user, granter, abi.GNTTABOP_copy, COPY, 9, 1, 2, own, SELF, 7, 4, abi.GNTCOPY_source_gref, 9)
        assert read[8] == 0 and user.get(SPARE, 4, 7) == b"cdef"
        both = abi.GNTCOPY_source_gref | abi.GNTCOPY_dest_gref
        assert across(user, granter, abi.GNTTABOP_copy, COPY, 9, 1, 0, 10, 1, 100, 8, both, 9)[8] == 0
        assert granter.get(SPARE + 1, 8, 100) == b"abcdefgh"
        written = across(user, granter, abi.GNTTABOP_copy, COPY, own, SELF, 7, 10, 1, 0, 4, abi.GNTCOPY_dest_gref, 9)
        assert written[8] == 0 and granter.get(SPARE + 1, 4) == b"cdef"
        assert across(user, granter, abi.GNTTABOP_copy, COPY, 9, 1, 4095, own, SELF, 0, 2, abi.GNTCOPY_source_gref, 9)[8] == abi.GNTST_bad_copy_arg
        assert granter.domain.grants.active == {} and user.domain.current.answers == {}
        granter.check_counts()
        user.check_counts()


def test_a_snapshotted_domains_frame_is_promoted_to_shared_backing() -> None:
    with pair() as (granter, user):
        memory = granter.domain.memory
        memory.map_private()  # what a first snapshot does
        granter.grant(9, SPARE, 2)
        granter.put(SPARE, b"private")
        status, handle, _bus = map_across(user, granter, 9)
        assert status == 0 and user.domain.guest.read(va(HERE), 7) == b"private"
        user.domain.guest.write(va(HERE), b"both of")
        assert granter.get(SPARE, 7) == b"both of"
        assert granter.mfn(SPARE) in memory.private_frames().tolist()
        memory.map_private()  # a restore: the frame is the base's again, for both
        assert granter.get(SPARE, 7) == user.domain.guest.read(va(HERE), 7) == bytes(7)
        assert user.unmap(handle) == 0


def test_a_domain_that_ends_lets_go_of_what_it_mapped_and_leaves_what_others_mapped() -> None:
    with pair() as (granter, user):
        granter.grant(9, SPARE, 2)
        granter.put(SPARE, b"still")
        assert map_across(user, granter, 9)[0] == 0
        user.close()
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
        assert user.domain.current.waiting
        granter.close()
        user.domain.peer = lambda domid: None
        settle(user)
        assert user.domain.current.can_run
        assert user.call("grant_table_op", abi.GNTTABOP_map_grant_ref, at, 1) == 0
        assert struct.unpack("<QIIHhIQ", user.get(DATA, 32))[4] == abi.GNTST_bad_domain


# --- lists: one round trip for each peer -------------------------------------------------------------------------------------------


def test_a_list_of_maps_waits_once_for_all_its_peers() -> None:
    with several(3) as (one, two, user):
        for ref in range(9, 15):
            one.grant(ref, SPARE + ref, 3)
            two.grant(ref, SPARE + ref, 3)
        slots = [va(THERE + n) for n in range(12)]
        wanted = [(slots[n], abi.GNTMAP_host_map, 9 + n // 2, 1 + n % 2, 99, 0, 0) for n in range(12)]
        wanted[5] = (slots[5], abi.GNTMAP_host_map, 600, 2, 99, 0, 0)
        wanted[7] = (slots[7], abi.GNTMAP_host_map, 9, 77, 99, 0, 0)
        done, rounds = listed(user, [one, two], abi.GNTTABOP_map_grant_ref, MAP, *wanted)
        assert rounds == 1
        assert [entry[4] for entry in done] == [0] * 5 + [abi.GNTST_bad_gntref, 0, abi.GNTST_bad_domain] + [0] * 4
        assert len(one.domain.grants.active) == 6 and len(two.domain.grants.active) == 4 and not user.domain.current.answers
        ended = [(slots[n], 0, entry[5], 99) for n, entry in enumerate(done) if entry[4] == 0]
        assert {entry[3] for entry in listed(user, [one, two], abi.GNTTABOP_unmap_grant_ref, UNMAP, *ended)[0]} == {0}
        settle(one, two)
        assert not one.domain.grants.active and not two.domain.grants.active
        for guest in (one, two, user):
            guest.check_counts()


def test_copies_that_go_the_same_way_wait_once_and_those_that_turn_wait_again() -> None:
    with pair() as (granter, user):
        for ref in (9, 10):
            granter.grant(ref, SPARE + ref, 2)
        granter.put(SPARE + 9, bytes(range(64)))
        own = user.mfn(SPARE)
        read = [(9, 1, n, own, SELF, n, 1, abi.GNTCOPY_source_gref, 99) for n in range(20)]
        done, rounds = listed(user, [granter], abi.GNTTABOP_copy, COPY, *read)
        assert rounds == 1 and {entry[8] for entry in done} == {0} and user.get(SPARE, 20) == bytes(range(20))
        turning = [
            (own, SELF, 1, 10, 1, 0, 4, abi.GNTCOPY_dest_gref, 99),  # 1 2 3 4 out,
            (10, 1, 0, own, SELF, 30, 4, abi.GNTCOPY_source_gref, 99),  # back to 30,
            (own, SELF, 30, 10, 1, 8, 4, abi.GNTCOPY_dest_gref, 99),  # and out again: what came must be what goes
            (own, SELF, 31, 10, 1, 12, 1, abi.GNTCOPY_dest_gref, 99),
        ]
        done, rounds = listed(user, [granter], abi.GNTTABOP_copy, COPY, *turning)
        assert rounds == 3 and {entry[8] for entry in done} == {0}
        assert granter.get(SPARE + 10, 13) == bytes((1, 2, 3, 4, 0, 0, 0, 0, 1, 2, 3, 4, 2))
        assert not granter.domain.grants.active and not user.domain.current.answers


def test_answers_that_a_changed_list_has_no_use_for_are_given_back() -> None:
    with pair() as (granter, user):
        granter.grant(9, SPARE, 2)
        granter.grant(10, SPARE + 1, 2)
        maps = [struct.pack(MAP, va(HERE + n), abi.GNTMAP_host_map, 9 + n, 1, 99, 0, 0) for n in range(2)]
        at = user.put(DATA, b"".join(maps))
        user.call("grant_table_op", abi.GNTTABOP_map_grant_ref, at, 2)
        settle(granter, user)
        assert set(granter.domain.grants.active) == {9, 10}
        user.put(DATA, struct.pack("<I", 9), 32 + 12)  # the second is now the first's reference
        user.call("grant_table_op", abi.GNTTABOP_map_grant_ref, at, 2)
        settle(granter, user)
        rest = user.domain.core.regs
        assert user.call("grant_table_op", abi.GNTTABOP_map_grant_ref, rest[6], rest[2]) == 0
        settle(granter, user)
        assert set(granter.domain.grants.active) == {9} and granter.domain.grants.active[9].pins == [0, 2, 0, 0]


def test_pins_for_an_asker_that_died_meanwhile_are_given_back() -> None:
    with pair() as (granter, user):
        granter.grant(9, SPARE, 2)
        at = user.put(DATA, struct.pack(MAP, va(HERE), abi.GNTMAP_host_map, 9, 1, 99, 0, 0))
        user.call("grant_table_op", abi.GNTTABOP_map_grant_ref, at, 1)
        user.close()
        settle(granter)
        assert not granter.domain.grants.active and granter.flags(9) == abi.GTF_permit_access
        granter.check_counts()


def test_what_is_left_of_a_dead_domain_is_told_until_it_is_unmapped() -> None:
    with pair() as (granter, user):
        left: list[int] = []
        handles = []
        for n in range(2):
            granter.grant(9 + n, SPARE + n, 2)
            granter.put(SPARE + n, bytes((n + 1,)) * 4096)
            handles.append(map_across(user, granter, 9 + n, slot=HERE + n)[1])
        file = granter.domain.memory.file
        remnants = granter.domain.remnants
        granter.close()
        remnants.watch(left.append)
        assert os.fstat(file.fd).st_blocks * 512 == 2 * 4096, "the host has the rest back"
        assert user.domain.guest.read(va(HERE), 2) == b"\1\1" and user.domain.guest.read(va(HERE + 1), 2) == b"\2\2"
        assert user.unmap(handles[0], HERE) == 0 and user.unmap(handles[1], HERE + 1) == 0
        assert left == [2, 1, 0]


# --- transitive grants, transfers --------------------------------------------------------------------------------------------------


def version_two(guest: Granter) -> None:
    assert guest.operate(abi.GNTTABOP_set_version, "<I", 2) == (2,)


def lead(guest: Granter, ref: int, domid: int, onward: int, gref: int, flags: int = abi.GTF_transitive) -> None:
    """A transitive entry: `domid` may copy what `gref` of domain `onward` grants to this guest."""
    table = guest.domain.grants.shared[0] << 12
    abi.TRANSITIVE_V2.pack_into(guest.domain.memory.bytes, table + 16 * ref, flags, domid, onward, gref)


@pytest.mark.parametrize("write", [False, True])
def test_a_transitive_grant_leads_one_domain_further_for_copies(write: bool) -> None:
    with several(3) as (user, middle, owner):
        version_two(middle)
        owner.grant(9, SPARE, 2)
        owner.put(SPARE, b"the owner's")
        lead(middle, 20, 1, 3, 9)
        own = user.mfn(SPARE)
        user.put(SPARE, b"the user's.")
        ends = (own, SELF, 0, 20, 2, 0) if write else (20, 2, 0, own, SELF, 0)
        flag = abi.GNTCOPY_dest_gref if write else abi.GNTCOPY_source_gref
        (done,), _rounds = listed(user, [middle, owner, middle], abi.GNTTABOP_copy, COPY, (*ends, 11, flag, 99))
        assert done[8] == 0
        assert owner.get(SPARE, 11) == user.get(SPARE, 11) == (b"the user's." if write else b"the owner's")
        settle(user, middle, owner)
        assert not middle.domain.grants.active and not owner.domain.grants.active
        status = middle.domain.grants.status[0] << 12
        assert not any(middle.domain.memory.bytes[status : status + 4096])
        assert map_across(user, middle, 20)[0] == abi.GNTST_general_error


def test_a_transitive_grant_may_lead_back_to_the_caller_and_its_own_may_lead_out() -> None:
    with several(2) as (user, middle):
        version_two(middle)
        version_two(user)
        entry = struct.pack("<HHHHQ", abi.GTF_permit_access | abi.GTF_sub_page, 2, 100, 8, user.mfn(SPARE))
        table = user.domain.grants.shared[0] << 12
        user.domain.memory.bytes[table + 16 * 9 : table + 16 * 10] = entry
        user.put(SPARE, b"12345678", 100)
        lead(middle, 20, 1, 1, 9)
        own, source = user.mfn(SPARE + 1), abi.GNTCOPY_source_gref
        copies = [(20, 2, offset, own, SELF, 0, 8, source, 9) for offset in (100, 99)]
        (good, outside), _ = listed(user, [middle], abi.GNTTABOP_copy, COPY, *copies)
        assert good[8] == 0 and user.get(SPARE + 1, 8) == b"12345678" and outside[8] == abi.GNTST_general_error
        lead(user, 30, 1, 2, 21)
        granted = struct.pack("<HHHHQ", abi.GTF_permit_access, 1, 0, 0, middle.mfn(SPARE))
        table = middle.domain.grants.shared[0] << 12
        middle.domain.memory.bytes[table + 16 * 21 : table + 16 * 22] = granted
        middle.put(SPARE, b"afar")
        (done,), _ = listed(user, [middle], abi.GNTTABOP_copy, COPY, (30, SELF, 0, own, SELF, 0, 4, source, 9))
        assert done[8] == 0 and user.get(SPARE + 1, 4) == b"afar"
        settle(user, middle)
        assert not user.domain.grants.active and not middle.domain.grants.active


@pytest.mark.parametrize(
    ("onward", "ref", "flags", "expect"),
    [
        (2, 9, abi.GTF_transitive, abi.GNTST_general_error),
        (7, 9, abi.GTF_transitive, abi.GNTST_general_error),
        (SELF, 9, abi.GTF_transitive, abi.GNTST_general_error),
        (3, 21, abi.GTF_transitive, abi.GNTST_general_error),
        (3, 10, abi.GTF_transitive, abi.GNTST_general_error),
        (3, 9999, abi.GTF_transitive, abi.GNTST_bad_gntref),
        (3, 9, abi.GTF_transitive | abi.GTF_readonly, abi.GNTST_general_error),
    ],
    ids=["to itself", "to nobody", "to no number", "a second step", "not granted to it", "no such entry", "read-only"],
)
def test_transitive_grants_that_lead_nowhere(onward: int, ref: int, flags: int, expect: int) -> None:
    with several(3) as (user, middle, owner):
        version_two(middle)
        version_two(owner)
        entry = struct.pack("<HHHHQ", abi.GTF_permit_access, 2, 0, 0, owner.mfn(SPARE))
        table = owner.domain.grants.shared[0] << 12
        owner.domain.memory.bytes[table + 16 * 9 : table + 16 * 10] = entry
        lead(owner, 21, 2, 1, 9)
        lead(middle, 20, 1, onward, ref, flags)
        (done,), _ = listed(user, [middle, owner], abi.GNTTABOP_copy, COPY, (user.mfn(SPARE), SELF, 0, 20, 2, 0, 8, abi.GNTCOPY_dest_gref, 99))
        assert done[8] == expect
        settle(user, middle, owner)
        assert not middle.domain.grants.active and not owner.domain.grants.active


def test_a_domain_that_dies_while_it_is_led_to_lets_the_middle_go() -> None:
    with several(3) as (user, middle, owner):
        version_two(middle)
        lead(middle, 20, 1, 3, 9)
        at = user.put(DATA, struct.pack(COPY, 20, 2, 0, user.mfn(SPARE), SELF, 0, 8, abi.GNTCOPY_source_gref, 99))
        user.call("grant_table_op", abi.GNTTABOP_copy, at, 1)
        settle(middle)
        assert middle.domain.grants.active[20].mfn == -1
        owner.close()
        settle(user, middle)
        assert not middle.domain.grants.active
        assert user.call("grant_table_op", abi.GNTTABOP_copy, at, 1) == 0
        assert struct.unpack(COPY, user.get(DATA, 40))[8] == abi.GNTST_bad_domain


def test_a_page_moves_to_another_domain_with_what_it_holds() -> None:
    with pair() as (giver, taker):
        assert taker.update((taker.entry_address(SPARE), 0)) == (0, 1)
        extent = taker.put(DATA, struct.pack("<Q", taker.mfn(SPARE)), 512)
        assert taker.call_with("memory_op", 1, "QQIIHxxxxxx", extent, 1, 0, 0, SELF) == 1
        table = taker.domain.grants.shared[0] << 12
        struct.pack_into("<HHI", taker.domain.memory.bytes, table + 8 * 9, abi.GTF_accept_transfer, 1, 77)
        form, mfn = "<QHxxIhxxxxxx", giver.mfn(SPARE)
        giver.put(SPARE, b"moved")
        assert across(giver, taker, abi.GNTTABOP_transfer, form, mfn, 2, 9, 99)[3] == abi.GNTST_bad_page  # it is mapped
        assert giver.update((giver.entry_address(SPARE), 0)) == (0, 1)
        owned = giver.domain.reservation.owned, taker.domain.reservation.owned
        assert across(giver, taker, abi.GNTTABOP_transfer, form, mfn, 2, 9, 99)[3] == 0
        assert (giver.domain.reservation.owned, taker.domain.reservation.owned) == (owned[0] - 1, owned[1] + 1)
        flags, domid, new = struct.unpack_from("<HHI", taker.domain.memory.bytes, table + 8 * 9)
        assert flags == abi.GTF_accept_transfer | abi.GTF_transfer_committed | abi.GTF_transfer_completed and domid == 1
        assert taker.domain.frames.owner[new] == GUEST and taker.domain.layout.pfn_of(new) == 77
        assert bytes(taker.domain.memory.frame(new)[:5]) == b"moved"
        assert across(giver, taker, abi.GNTTABOP_transfer, form, mfn, 2, 9, 99)[3] == abi.GNTST_bad_page  # it is gone
        for guest in (giver, taker):
            guest.domain.reservation.check()


def test_a_page_that_nobody_takes_is_gone_all_the_same() -> None:
    with pair() as (giver, taker):
        form = "<QHxxIhxxxxxx"
        for number, (domid, expect) in enumerate(((2, abi.GNTST_general_error), (7, abi.GNTST_bad_domain), (0, abi.GNTST_general_error))):
            pfn = SPARE + number
            assert giver.update((giver.entry_address(pfn), 0)) == (0, 1)
            owned = giver.domain.reservation.owned
            assert across(giver, taker, abi.GNTTABOP_transfer, form, giver.mfn(pfn), domid, 9, 99)[3] == expect
            assert giver.domain.reservation.owned == owned - 1
        giver.domain.reservation.check()
