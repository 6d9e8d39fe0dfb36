"""What both rings of a vif share: indices in the guest's memory, of which only the frontend's are ever read."""

from __future__ import annotations

import struct
from typing import Final

from emulator.abi.netif import REQ_EVENT, REQ_PROD, RING_HEADER, RSP_EVENT, RSP_PROD, SLOTS
from emulator.dom0.grants import GrantLook

FRAME: Final = 4096
_U32: Final = struct.Struct("<I")
_MASK: Final = 0xFFFFFFFF


class Ring:
    """`memory`: the guest's machine memory; `mfn`: the ring's frame, which the caller keeps granted."""

    slot_size = 0

    def __init__(self, memory: memoryview, mfn: int, grants: GrantLook) -> None:
        self._memory, self._head, self._grants = memory, mfn * FRAME, grants
        self._slots = self._head + RING_HEADER
        self.req_cons = self.rsp_prod = 0
        self.broken = ""  # why the ring is no longer served; one line
        self._told = 0  # rsp_prod as the frontend last saw it

    def _load(self, at: int) -> int:
        value: int = _U32.unpack_from(self._memory, self._head + at)[0]
        return value

    def _store(self, at: int, value: int) -> None:
        _U32.pack_into(self._memory, self._head + at, value & _MASK)

    def waiting(self) -> int:
        """Requests that wait; 0 on a broken ring. Indices that make no sense break it."""
        if self.broken:
            return 0
        prod = self._load(REQ_PROD)
        if prod - self.rsp_prod & _MASK > SLOTS:
            self.broken = f"req_prod {prod:#x} is {prod - self.rsp_prod & _MASK} past rsp_prod {self.rsp_prod:#x}, the ring has {SLOTS} slots"
            return 0
        count = prod - self.req_cons & _MASK
        if count > SLOTS:
            self.broken = f"req_prod {prod:#x} went back behind req_cons {self.req_cons:#x}"
            return 0
        return count

    def await_request(self, past: int = 1) -> None:
        """Ask for an event when req_prod moves to `past` beyond what was consumed."""
        self._store(REQ_EVENT, self.req_cons + past)

    def push(self) -> bool:
        """RING_PUSH_RESPONSES_AND_CHECK_NOTIFY; whether the frontend wants an event."""
        old, new = self._told, self.rsp_prod
        if old == new:
            return False
        self._store(RSP_PROD, new)
        self._told = new
        return new - self._load(RSP_EVENT) & _MASK < new - old & _MASK

    def indices(self) -> tuple[int, int, int, int]:
        """req_prod, req_cons, rsp_prod, rsp_cons; the last is a guess from rsp_event, which frontends keep ahead of it."""
        seen = self._load(RSP_EVENT) - 1 & _MASK
        rsp_cons = seen if self.rsp_prod - seen & _MASK <= SLOTS else self.rsp_prod
        return self._load(REQ_PROD), self.req_cons, self.rsp_prod, rsp_cons

    def _slot(self, index: int) -> bytes:
        at = self._slots + (index & SLOTS - 1) * self.slot_size
        return bytes(self._memory[at : at + self.slot_size])

    def _awaiting(self) -> set[int]:
        """Slots with requests not answered yet."""
        ahead = min(SLOTS, self._load(REQ_PROD) - self.rsp_prod & _MASK)
        return {index & SLOTS - 1 for index in range(self.rsp_prod, self.rsp_prod + ahead)}

    def save(self) -> tuple[int, int, str]:
        return self.req_cons, self.rsp_prod, self.broken

    def load(self, state: tuple[int, int, str]) -> None:
        self.req_cons, self.rsp_prod, self.broken = state
        self._told = self.rsp_prod
