"""Domains that grant each other frames, driven by hand: each one's holder serves when told to."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager

from emulator.abi import grant_table as abi
from emulator.hypervisor.domain import Domain
from tests.unit.domains import DATA, FREE_SLOT, PRESENT, RW, USER, Tiny, va

TABLE, STATUS = FREE_SLOT, FREE_SLOT + 1  # slots where the guest maps its grant table, its status frames
HERE, THERE = FREE_SLOT + 2, FREE_SLOT + 3
SELF = 0x7FF0
COPY = "<QHHxxxxQHHxxxxHHhxx"


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


@contextmanager
def several(count: int, vcpus: int = 1) -> Iterator[list[Granter]]:
    """Domains 1 to `count` that know each other; what is left of them at the end must add up."""
    made = [Granter(domid=number + 1, vcpus=vcpus) for number in range(count)]
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
            if not guest.domain.memory.closed:
                guest.close()


@contextmanager
def pair(vcpus: int = 1) -> Iterator[tuple[Granter, Granter]]:
    with several(2, vcpus) as (one, two):
        yield one, two


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
        if not guest.domain.current.waiting:
            assert result == 0
            return struct.unpack(form, guest.get(DATA, struct.calcsize(form)))
        assert core.rip == rip and not guest.domain.current.can_run  # the trap moved RIP on by two, and it was moved back
        settle(peer, guest)
        assert guest.domain.current.can_run
    raise AssertionError("no answer")


def listed(guest: Granter, peers: list[Granter], command: int, form: str, *operations: tuple[int, ...]) -> tuple[list[tuple[int, ...]], int]:
    """A list of operations; their structures afterwards, and how often the vCPU had to wait."""
    size, rounds = struct.calcsize(form), 0
    at = guest.put(DATA, b"".join(struct.pack(form, *values) for values in operations))
    registers = at, len(operations)
    while True:
        result = guest.call("grant_table_op", command, *registers)
        if not guest.domain.current.waiting:
            assert result == 0
            return [struct.unpack(form, guest.get(DATA, size, size * n)) for n in range(len(operations))], rounds
        rounds += 1
        registers = guest.domain.core.regs[6], guest.domain.core.regs[2]
        settle(*peers, guest)


def map_across(guest: Granter, peer: Granter, ref: int, flags: int = abi.GNTMAP_host_map, slot: int = HERE) -> tuple[int, int, int]:
    return across(guest, peer, abi.GNTTABOP_map_grant_ref, "<QIIHhIQ", va(slot), flags, ref, peer.domain.domid, 99, 0, 0)[4:]  # type: ignore[return-value]
