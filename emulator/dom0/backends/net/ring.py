"""What both rings of a vif share beyond any ring: one page, slots of one size."""

from __future__ import annotations

from emulator.abi.netif import SLOTS
from emulator.abi.ring import RING_HEADER
from emulator.dom0.backends.ring import BackRing
from emulator.dom0.grants import GrantLook


class Ring(BackRing):
    """`memory`: the guest's machine memory; `mfn`: the ring's frame, which the caller keeps granted."""

    slot_size = 0

    def __init__(self, memory: memoryview, mfn: int, grants: GrantLook) -> None:
        super().__init__(memory, mfn, SLOTS)
        self._grants = grants
        self._slots = self._head + RING_HEADER

    def _slot(self, index: int) -> bytes:
        at = self._slots + (index & SLOTS - 1) * self.slot_size
        return bytes(self._memory[at : at + self.slot_size])

    def save(self) -> tuple[int, int, str]:
        return self.req_cons, self.rsp_prod, self.broken

    def load(self, state: tuple[int, int, str]) -> None:
        self.req_cons, self.rsp_prod, self.broken = state
        self._told = self.rsp_prod
