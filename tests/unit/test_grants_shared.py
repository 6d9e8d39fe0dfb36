"""What two domains share and time: code that the other one writes, and going back to a snapshot."""

from __future__ import annotations

import struct

from emulator.abi import grant_table as abi
from emulator.hypervisor.state import cannot_load, load_domain, save_domain
from tests.unit.domains import DATA, NX, SPARE, va
from tests.unit.granters import HERE, map_across, pair, settle

MAP = "<QIIHhIQ"


# --- code that another domain writes -------------------------------------------------------------------------------------------------


def call_page(slot: int) -> bytes:
    """mov rax, page; call rax; mov [DATA], eax; jmp $"""
    return b"\x48\xb8" + struct.pack("<Q", va(slot)) + b"\xff\xd0\xa3" + struct.pack("<Q", va(DATA)) + b"\xeb\xfe"


def store_byte(slot: int, value: int) -> bytes:
    """mov rax, page + 1; mov byte [rax], value; jmp $"""
    return b"\x48\xb8" + struct.pack("<Q", va(slot, 1)) + b"\xc6\x00" + bytes((value,)) + b"\xeb\xfe"


def test_code_in_a_granted_page_is_what_the_other_domain_made_of_it() -> None:
    with pair() as (granter, user):
        granter.grant(9, SPARE, 2)
        granter.put(SPARE, b"\xb8\x01\x00\x00\x00\xc3")  # mov eax, 1; ret
        _status, handle, _bus = map_across(user, granter, 9)
        for value in (1, 2, 3):
            if value > 1:
                user.run(store_byte(HERE, value))
            granter.run(call_page(SPARE))
            assert int.from_bytes(granter.get(DATA, 4), "little") == value
        assert user.unmap(handle) == 0
        settle(granter, user)
        assert not granter.domain.foreign_writes.count and not user.domain.foreign_writes.count


def test_code_in_a_mapped_page_is_what_its_owner_made_of_it() -> None:
    with pair() as (granter, user):
        granter.grant(9, SPARE, 2)
        granter.put(SPARE, b"\xb8\x01\x00\x00\x00\xc3")
        map_across(user, granter, 9)
        assert user.update((user.entry_address(HERE), user.entry(HERE) & ~NX)) == (0, 1), "no more than in Xen is NX kept"
        for value in (1, 2, 3):
            if value > 1:
                granter.run(store_byte(SPARE, value))
            user.run(call_page(HERE))
            assert int.from_bytes(user.get(DATA, 4), "little") == value


# --- back in time ----------------------------------------------------------------------------------------------------------------------


def test_going_back_ends_what_has_come_since_and_is_refused_for_what_cannot_be_had_again() -> None:
    with pair() as (granter, user):
        granter.grant(9, SPARE, 2)
        before_user, before_granter = save_domain(user.domain), save_domain(granter.domain)
        _status, handle, bus = map_across(user, granter, 9)
        mapped_user, mapped_granter = save_domain(user.domain), save_domain(granter.domain)
        assert "domain 2 uses its grant 9 now" in cannot_load(granter.domain, before_granter)
        assert cannot_load(user.domain, before_user) == ""
        entry = user.entry_address(HERE) - (user.mfn(3) << 12)
        load_domain(user.domain, before_user)
        user.domain.memory.words[(user.mfn(3) << 9) + entry // 8] = 0  # as its memory was
        settle(granter)
        assert not granter.domain.grants.active and not user.domain.mappings.handles and not user.domain.foreign_writes.count
        assert not any(user.domain.memory.frame(bus >> 12)), "the window shows nothing"
        assert "it mapped grant 9 of domain 1 then" in cannot_load(user.domain, mapped_user)
        assert cannot_load(granter.domain, mapped_granter) == "" and handle == 0
        load_domain(granter.domain, mapped_granter)
        assert not granter.domain.grants.active and granter.flags(9) == abi.GTF_permit_access
        user.check_counts()
        granter.check_counts()


def test_an_answer_to_a_question_asked_in_a_time_that_is_undone_is_given_back() -> None:
    with pair() as (granter, user):
        granter.grant(9, SPARE, 2)
        state = save_domain(user.domain)
        at = user.put(DATA, struct.pack(MAP, va(HERE), abi.GNTMAP_host_map, 9, 1, 99, 0, 0))
        user.call("grant_table_op", abi.GNTTABOP_map_grant_ref, at, 1)
        load_domain(user.domain, state)
        assert not user.domain.current.waiting
        settle(granter, user, granter)
        assert not user.domain.current.answers and not granter.domain.grants.active
