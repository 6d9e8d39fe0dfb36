"""A backend's end of a shared ring (public/io/ring.h): the indices, of which only the frontend's are ever read back.

    frontend                     backend
    req_prod ->  slots  -> req_cons (ours alone)
    rsp_cons <-  slots  <- rsp_prod (ours alone; the copy in the page is the frontend's to read)
"""

from __future__ import annotations

import struct
from typing import Final

from emulator.abi.ring import REQ_EVENT, REQ_PROD, RSP_EVENT, RSP_PROD

FRAME: Final = 4096
MASK: Final = 0xFFFFFFFF
_U32: Final = struct.Struct("<I")


class BackRing:
    """`memory`: the guest's machine memory; `mfn`: the ring's first frame, which the caller keeps granted; `size`: slots, a power of two."""

    def __init__(self, memory: memoryview, mfn: int, size: int) -> None:
        self._memory, self._head, self.size = memory, mfn * FRAME, size
        self.req_cons = self.rsp_prod = 0
        self.broken = ""  # why the ring is no longer served; one line
        self._told = 0  # rsp_prod as the frontend last saw it

    def _load(self, at: int) -> int:
        value: int = _U32.unpack_from(self._memory, self._head + at)[0]
        return value

    def _store(self, at: int, value: int) -> None:
        _U32.pack_into(self._memory, self._head + at, value & MASK)

    def waiting(self) -> int:
        """Requests that wait; 0 on a broken ring. Indices that make no sense break it."""
        if self.broken:
            return 0
        prod = self._load(REQ_PROD)
        if prod - self.rsp_prod & MASK > self.size:
            self.broken = f"req_prod {prod:#x} is {prod - self.rsp_prod & MASK} past rsp_prod {self.rsp_prod:#x}, the ring has {self.size} slots"
            return 0
        count = prod - self.req_cons & MASK
        if count > self.size:
            self.broken = f"req_prod {prod:#x} went back behind req_cons {self.req_cons:#x}"
            return 0
        return count

    def await_request(self, past: int = 1) -> None:
        """Ask for an event when req_prod moves to `past` beyond what was consumed."""
        self._store(REQ_EVENT, self.req_cons + past)

    def push(self) -> bool:
        """Make the answers visible (RING_PUSH_RESPONSES_AND_CHECK_NOTIFY); whether the frontend wants an event."""
        old, new = self._told, self.rsp_prod
        if old == new:
            return False
        self._store(RSP_PROD, new)
        self._told = new
        return new - self._load(RSP_EVENT) & MASK < new - old & MASK

    def owes_event(self) -> bool:
        """Whether an answer is there at which the frontend wants an event: it has looked at none since."""
        return self._told - self._load(RSP_EVENT) & MASK < 1 << 31

    def _awaiting(self) -> set[int]:
        """Slots with requests not answered yet."""
        ahead = min(self.size, self._load(REQ_PROD) - self.rsp_prod & MASK)
        return {index & self.size - 1 for index in range(self.rsp_prod, self.rsp_prod + ahead)}

    def indices(self) -> tuple[int, int, int, int]:
        """req_prod, req_cons, rsp_prod, rsp_cons; the last is a guess from rsp_event, which frontends keep one ahead of it."""
        seen = self._load(RSP_EVENT) - 1 & MASK
        rsp_cons = seen if self.rsp_prod - seen & MASK <= self.size else self.rsp_prod
        return self._load(REQ_PROD), self.req_cons, self.rsp_prod, rsp_cons
