"""The pages that Domain-0 writes into of itself, of the console and of xenstore, are held as writable for as long as the domain is: a guest
that made a page table of one would have its entries written by what it asks xenstore."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from emulator.dom0.guest import Guest
from emulator.dom0.turns import in_turn
from emulator.hypervisor.memory.frames import L1, WRITABLE
from emulator.hypervisor.refusal import Refusal
from tests.benchmarks.paper import rig


@pytest.fixture
def guest() -> Iterator[Guest]:
    with rig(1) as host:
        yield host.add("shell")


def unmap(guest: Guest, mfn: int) -> None:
    """Clear every leaf that maps the frame, as the guest may."""
    domain = guest.domain
    for table in np.flatnonzero(domain.frames.types == L1).tolist():
        entries = domain.memory.quads[table << 9 : (table + 1) << 9]
        for index in np.flatnonzero((entries & np.uint64(1) != 0) & (entries >> np.uint64(12) & np.uint64((1 << 40) - 1) == mfn)).tolist():
            domain.tables.write_l1(table << 9 | index, 0)


def test_neither_page_becomes_a_table_or_anybody_elses(guest: Guest) -> None:
    def attack() -> None:
        domain = guest.domain
        for mfn in (guest.console_mfn, guest.store_mfn):
            unmap(guest, mfn)
            assert domain.frames.type[mfn] == WRITABLE and domain.frames.count[mfn] == 1
            with pytest.raises(Refusal):
                domain.tables.pin(mfn, L1)
            assert domain.reservation.part_with(mfn) is None
            assert domain.reservation.release(mfn) and mfn not in domain.reservation.free, "gone with its last use only"
            domain.frames.leaving.discard(mfn)

    in_turn(guest, attack)
