"""The hypervisor reads and writes guest memory by the guest's own tables, and by no more than they allow."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emulator.abi.errno import EFAULT
from emulator.hypervisor.refusal import Refusal
from tests.unit.domains import (
    BASE,
    CODE,
    DATA,
    FREE_SLOT,
    NX,
    PRESENT,
    PT_L1,
    PT_L2,
    PT_L3,
    RW,
    SHARED,
    USER,
    USER_L4,
    Tiny,
    tiny,
    va,
)

ACCESSED, DIRTY = 0x20, 0x40


@pytest.fixture
def guest() -> Iterator[Tiny]:
    with tiny() as made:
        yield made


def refused(call: object, *arguments: object) -> str:
    with pytest.raises(Refusal) as caught:
        call(*arguments)  # type: ignore[operator]
    assert caught.value.errno == EFAULT
    return caught.value.reason


BAD = {
    "nothing": va(FREE_SLOT), "no L1": BASE + (1 << 21), "no L2": BASE + (1 << 30), "no L3": BASE + (1 << 39),
    "non-canonical low": 0x0000800000000000, "non-canonical middle": 1 << 63, "non-canonical high": 0xFFFF7FFFFFFFFFFF,
    "the M2P": 0xFFFF800000000000, "the hypervisor's": 0xFFFF820000000000, "its last byte": 0xFFFF87FFFFFFFFFF,
    "the top": 0xFFFFFFFFFFFFFFF8, "null": 0,
}  # fmt: skip


@pytest.mark.parametrize("what", sorted(BAD))
def test_addresses_that_cannot_be_reached(guest: Tiny, what: str) -> None:
    memory = guest.domain.guest
    for call in (lambda: memory.read(BAD[what], 8), lambda: memory.write(BAD[what], b"12345678"), lambda: memory.read_u64(BAD[what]),
                 lambda: memory.read_u32(BAD[what]), lambda: memory.write_u32(BAD[what], 1)):  # fmt: skip
        refused(call)
    assert guest.call("console_io", 0, 8, BAD[what]) == -EFAULT


def test_reads_and_writes_cross_pages(guest: Tiny) -> None:
    memory = guest.domain.guest
    data = bytes(range(256)) * 40
    for start in (0, 1, 4088, 4095):
        memory.write(va(DATA, start), data)
        assert memory.read(va(DATA, start), len(data)) == data
    memory.write(va(DATA, 4092), b"\1\2\3\4\5\6\7\x08")
    assert memory.read_u64(va(DATA, 4092)) == 0x0807060504030201
    assert memory.read_u32(va(DATA, 4094)) == 0x06050403
    assert guest.get(DATA, 4, 4092) == b"\1\2\3\4", "pages that follow each other for the guest lie apart in the machine"
    assert guest.get(DATA + 1, 4) == b"\5\6\7\x08"


def test_a_read_over_the_end_of_what_is_mapped_is_refused_whole(guest: Tiny) -> None:
    memory = guest.domain.guest
    assert memory.read(va(255, 4088), 8) == bytes(8)
    memory.read(va(SHARED, 0), 4096)
    refused(memory.read, va(SHARED, 4090), 8)
    refused(memory.read, va(DATA), 1 << 21)


def test_read_only_pages_are_not_written(guest: Tiny) -> None:
    memory = guest.domain.guest
    before = guest.get(PT_L1, 4096)
    assert "not writable" in refused(memory.write, va(PT_L1), b"x" * 8)
    refused(memory.write, va(USER_L4, 4090), b"123456789012")
    refused(memory.write_u64, va(PT_L1, 8), 0)
    assert guest.get(PT_L1, 4096) == before
    assert memory.read(va(PT_L1), 8) == before[:8]


@pytest.mark.parametrize("table", [PT_L2, PT_L3])
def test_a_level_without_the_right_to_write_takes_it_from_all_below(guest: Tiny, table: int) -> None:
    index = BASE >> 21 if table == PT_L2 else 0
    pointer = guest.entry_address(index, table)
    entry = guest.domain.memory.words[pointer >> 3]
    assert guest.call("mmu_update", guest.put(DATA, pointer.to_bytes(8, "little") + (entry & ~RW).to_bytes(8, "little")), 1, 0, 0x7FF0) == 0
    memory = guest.domain.guest
    refused(memory.write, va(DATA), b"x")
    memory.read(va(DATA), 1)
    assert guest.call("mmu_update", guest.put(DATA, pointer.to_bytes(8, "little") + entry.to_bytes(8, "little")), 1, 0, 0x7FF0) == 0
    memory.write(va(DATA), b"x")


def test_accessed_and_dirty_are_marked_as_the_processor_would(guest: Tiny) -> None:
    memory = guest.domain.guest
    assert not guest.entry(DATA) & (ACCESSED | DIRTY)
    memory.read(va(DATA), 1)
    assert guest.entry(DATA) & (ACCESSED | DIRTY) == ACCESSED
    memory.write(va(DATA), b"x")
    assert guest.entry(DATA) & (ACCESSED | DIRTY) == ACCESSED | DIRTY


def test_nothing_is_marked_by_a_refusal(guest: Tiny) -> None:
    before = guest.entry(PT_L1)
    refused(guest.domain.guest.write, va(PT_L1), b"x")
    assert guest.entry(PT_L1) == before


def test_code_written_by_the_hypervisor_is_new(guest: Tiny) -> None:
    guest.run("b811000000 ebfe", at=100, budget=100_000)
    assert guest.domain.core.regs[0] == 0x11
    guest.domain.guest.write(va(100, 1), b"\x22")
    guest.domain.core.rip = va(100)
    guest.domain.slice(100_000)
    assert guest.domain.core.regs[0] == 0x22


def test_code_written_by_the_hypervisor_through_another_mapping_is_new(guest: Tiny) -> None:
    """The buffer of a hypercall may be a page that is code elsewhere."""
    guest.run("b811000000 ebfe", at=100, budget=100_000)
    assert guest.update((guest.entry_address(FREE_SLOT), guest.mfn(100) << 12 | PRESENT | RW | USER | NX))[0] == 0
    guest.domain.guest.write(va(FREE_SLOT, 1), b"\x22")
    guest.domain.core.rip = va(100)
    guest.domain.slice(100_000)
    assert guest.domain.core.regs[0] == 0x22


@settings(max_examples=200, deadline=None)
@given(address=st.one_of(st.integers(0, (1 << 64) - 1), st.integers(BASE, BASE + (1 << 21)), st.sampled_from(sorted(BAD.values()))),
       size=st.integers(0, 10_000), write=st.booleans())  # fmt: skip
def test_no_address_gets_past_a_refusal(shared_guest: Tiny, address: int, size: int, write: bool) -> None:
    memory, domain = shared_guest.domain.guest, shared_guest.domain
    hidden = domain.layout.gdt_mfn << 12
    before = bytes(domain.memory.bytes[hidden : hidden + 4096])
    try:
        if write:
            memory.write(address, bytes(size))
        else:
            assert len(memory.read(address, size)) == size
    except Refusal as refusal:
        assert refusal.errno == EFAULT
    assert bytes(domain.memory.bytes[hidden : hidden + 4096]) == before


@pytest.fixture(scope="module")
def shared_guest() -> Iterator[Tiny]:
    with tiny() as made:
        made.put(CODE, "ebfe")
        yield made
