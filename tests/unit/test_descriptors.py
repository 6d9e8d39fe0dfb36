"""A page that becomes a descriptor table: checked as a whole as Xen checks it, one by one (validate_segdesc_page)."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emulator.abi.errno import EINVAL
from emulator.hypervisor.memory.descriptors import check_descriptor
from emulator.hypervisor.refusal import Refusal
from tests.unit.domains import DATA, SPARE, Tiny

CODE32, DATA0, TSS, GATE, BAD_GATE, HALF, ABSENT = (0x00CF9B000000FFFF, 0x00CF93000000FFFF, 0x00008B0000000067, 0x0000EC00E0330000,
                                                    0x0000EC00E0080000, 0x0000800012345678, 0x00007F0012345678)  # fmt: skip


@pytest.fixture(scope="module")
def guest() -> Iterator[Tiny]:
    made = Tiny()
    assert made.update((made.entry_address(SPARE), 0)) == (0, 1)
    yield made
    made.check_counts()
    made.close()


def one_by_one(page: list[int]) -> tuple[list[int], bool]:
    """What Xen's loop leaves, and whether it accepts."""
    fixed = list(page)
    for index, descriptor in enumerate(page):
        try:
            fixed[index] = check_descriptor(descriptor)
        except Refusal:
            return fixed, False
    return fixed, True


DESCRIPTORS = st.one_of(st.sampled_from((0, CODE32, DATA0, TSS, GATE, BAD_GATE, HALF, ABSENT)), st.integers(0, (1 << 64) - 1))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(entries=st.dictionaries(st.integers(0, 511), DESCRIPTORS, max_size=30))
def test_a_page_is_checked_as_its_descriptors_are_one_by_one(guest: Tiny, entries: dict[int, int]) -> None:
    page = guest.domain.memory.quads[guest.mfn(SPARE) << 9 : (guest.mfn(SPARE) + 1) << 9]
    page[:] = 0
    for index, descriptor in entries.items():
        page[index] = np.uint64(descriptor)
    expected, accepted = one_by_one(page.tolist())
    assert guest.call("set_gdt", guest.put(DATA, struct.pack("<Q", guest.mfn(SPARE))), 512) == (0 if accepted else -EINVAL)
    assert page.tolist() == expected
    assert guest.call("set_gdt", guest.put(DATA, bytes(8)), 0) == 0
