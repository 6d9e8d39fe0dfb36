"""What tests of event channels and timers share: the bits in the shared page, and ports bound for a test."""

from __future__ import annotations

import struct

from emulator.abi.xen import SI_MASK, SI_PENDING, VI_PENDING_SEL, VI_UPCALL_PENDING
from tests.unit.domains import DATA, Tiny

OP = "event_channel_op"
BIND_VIRQ = 1


class Bits:
    """The shared page's event words, as the guest sees them."""

    def __init__(self, guest: Tiny) -> None:
        self.words, self.base = guest.domain.memory.words, guest.domain.layout.shared_info_mfn << 12
        self.bytes, self.info = guest.domain.memory.bytes, guest.domain.vcpus[0].info

    def _at(self, which: int, port: int) -> tuple[int, int]:
        return (self.base + which >> 3) + (port >> 6), 1 << (port & 63)

    def pending(self, port: int) -> bool:
        at, bit = self._at(SI_PENDING, port)
        return bool(self.words[at] & bit)

    def mask(self, port: int) -> None:
        at, bit = self._at(SI_MASK, port)
        self.words[at] |= bit

    def clear(self, port: int) -> None:
        at, bit = self._at(SI_PENDING, port)
        self.words[at] &= ~bit

    @property
    def selector(self) -> int:
        return self.words[self.info + VI_PENDING_SEL >> 3]

    @property
    def upcall(self) -> int:
        return self.bytes[self.info + VI_UPCALL_PENDING]

    def take(self) -> None:
        """What an upcall handler does first."""
        self.bytes[self.info + VI_UPCALL_PENDING] = 0
        self.words[self.info + VI_PENDING_SEL >> 3] = 0


def bound(guest: Tiny, command: int, form: str, *values: int) -> int:
    """A command that answers a port in the last field of its structure."""
    assert guest.call_with(OP, command, form, *values) == 0
    size = struct.calcsize("<" + form)
    return int.from_bytes(guest.get(DATA, 4, size - 4), "little")


def blocked(guest: Tiny) -> bool:
    return guest.domain.vcpus[0].blocked
