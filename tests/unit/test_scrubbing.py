"""Frames that a domain gives back: zeroed before anyone has them again, and their memory the host's."""

from __future__ import annotations

import os
import struct

import pytest

from tests.unit.domains import DATA, SPARE, Tiny, tiny

COUNT = 16
SELF = 0x7FF0


def fill(guest: Tiny) -> list[int]:
    """Pages with something in them, and mapped nowhere any more."""
    mfns = [guest.mfn(SPARE + n) for n in range(COUNT)]
    for n in range(COUNT):
        guest.put(SPARE + n, b"secret" * 600)
        assert guest.update((guest.entry_address(SPARE + n), 0)) == (0, 1)
    return mfns


def give_back(guest: Tiny, mfns: list[int]) -> None:
    extents = guest.put(DATA, struct.pack(f"<{COUNT}Q", *mfns), 512)
    assert guest.call_with("memory_op", 1, "QQIIHxxxxxx", extents, COUNT, 0, 0, SELF) == COUNT


def test_what_is_given_back_is_zeroed_and_the_hosts_again_and_comes_back_empty() -> None:
    with tiny() as guest:
        mfns, file = fill(guest), guest.domain.memory.file
        before = os.fstat(file.fd).st_blocks
        give_back(guest, mfns)
        after = os.fstat(file.fd).st_blocks
        assert before - after == COUNT * 8, "a punched hole for every frame, in 512-byte blocks"
        assert not any(any(guest.domain.memory.frame(mfn)) for mfn in mfns)
        extents = guest.put(DATA, bytes(8 * COUNT), 512)
        assert guest.call_with("memory_op", 0, "QQIIHxxxxxx", extents, COUNT, 0, 0, SELF) == COUNT
        fresh = struct.unpack(f"<{COUNT}Q", guest.get(DATA, 8 * COUNT, 512))
        assert set(fresh) == set(mfns) and not any(any(guest.domain.memory.frame(mfn)) for mfn in fresh)


@pytest.mark.parametrize("exported", [False, True])
def test_a_snapshotted_domain_gives_back_zeros_and_its_past_keeps_what_was_there(exported: bool) -> None:
    with tiny() as guest:
        mfns, memory = fill(guest), guest.domain.memory
        memory.map_private()
        if exported:
            memory.export(mfns[0])
            memory.unexport(mfns[0])
        give_back(guest, mfns)
        assert not any(any(memory.frame(mfn)) for mfn in mfns)
        assert set(mfns) <= set(memory.private_frames().tolist()), "the next snapshot must hold the zeros"
        memory.map_private()
        assert all(bytes(memory.frame(mfn)[:6]) == b"secret" for mfn in mfns)


def test_pages_that_are_exchanged_or_handed_over_leave_nothing_behind() -> None:
    with tiny() as guest:
        mfns = fill(guest)
        contents = guest.domain.reservation.part_with(mfns[0])
        assert contents is not None and contents[:6] == b"secret" and not any(guest.domain.memory.frame(mfns[0]))
        at = guest.put(DATA, struct.pack("<2Q", mfns[1], 5), 512)
        fields = struct.pack("<QQIIHxxxxxxQQIIHxxxxxxQ", at, 1, 0, 0, SELF, at + 8, 1, 0, 0, SELF, 0)
        assert guest.call("memory_op", 11, guest.put(DATA, fields)) == 0
        assert not any(guest.domain.memory.frame(mfns[1]))
