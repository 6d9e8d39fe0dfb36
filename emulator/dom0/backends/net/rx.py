"""The receive ring (backend to frontend), sans-I/O: frames go into the buffers that the frontend has put there.

A frame takes a slot a page, and one more for its segment size when it is a large one. Responses lie in the slots of their requests
(netfront goes by the slot, not by the id). A frame that finds too few buffers waits in a bounded queue, until the frontend says by an
event that it gave more.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from emulator.abi.netif import (
    EXTRA_GSO,
    RX_REQUEST,
    RX_RESPONSE,
    RX_SLOT,
    SLOTS,
    XEN_NETIF_EXTRA_TYPE_GSO,
    NETRXF_csum_blank,
    NETRXF_data_validated,
    NETRXF_extra_info,
    NETRXF_more_data,
)
from emulator.dom0.backends.net.ring import Ring
from emulator.dom0.backends.ring import FRAME
from emulator.dom0.grants import GrantError
from emulator.dom0.network.frame import Frame

MAX_QUEUED_FRAMES: Final = 4096
MAX_QUEUED_BYTES: Final = 8 << 20
_MASK: Final = 0xFFFFFFFF


class RxRing(Ring):
    slot_size = RX_SLOT

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self.queue: deque[Frame] = deque()
        self.queued_bytes = 0
        self.dropped = 0
        self.written: list[int] = []  # frames whose contents are new; for the owner to take

    def put(self, frames: list[Frame]) -> None:
        """Frames for the guest: into its buffers as far as there are any, else into the queue, else nowhere."""
        for frame in frames:
            if len(self.queue) >= MAX_QUEUED_FRAMES or self.queued_bytes + len(frame.data) > MAX_QUEUED_BYTES:
                self.dropped += 1
                continue
            self.queue.append(frame)
            self.queued_bytes += len(frame.data)
        self.fill()

    def fill(self) -> None:
        """Move what waits into buffers."""
        while self.queue:
            available = self.waiting()
            frame = self.queue[0]
            needed = -(-len(frame.data) // FRAME) + (1 if frame.gso else 0)
            if available < needed:
                self.await_request(available + 1)
                if self.waiting() < needed:
                    return
            self.queue.popleft()
            self.queued_bytes -= len(frame.data)
            self._write(frame)
            if self.broken:
                return

    def _write(self, frame: Frame) -> None:
        data, memory = frame.data, self._memory
        size = len(data)
        flags = NETRXF_csum_blank | NETRXF_data_validated if frame.blank else NETRXF_data_validated if frame.validated else 0
        if frame.gso:
            flags |= NETRXF_extra_info
        at = 0
        while at < size or not at:
            length = min(FRAME, size - at)
            index = self.rsp_prod & SLOTS - 1
            ident, _, gref = RX_REQUEST.unpack_from(memory, self._slots + index * RX_SLOT)
            try:
                (mfn,) = self._grants.look((gref,), True)
            except GrantError as bad:
                self.broken = str(bad)
                return
            start = mfn * FRAME
            memory[start : start + length] = data if length == size else data[at : at + length]
            self.written.append(mfn)
            at += length
            if at < size:
                flags |= NETRXF_more_data
            self._respond(RX_RESPONSE.pack(ident, 0, flags, length))
            if flags & NETRXF_extra_info:
                self._respond(EXTRA_GSO.pack(XEN_NETIF_EXTRA_TYPE_GSO, 0, frame.gso, frame.gso_type, 0, 0))
            flags = 0

    def _respond(self, slot: bytes) -> None:
        start = self._slots + (self.rsp_prod & SLOTS - 1) * RX_SLOT
        self._memory[start : start + RX_SLOT] = slot
        self.rsp_prod = self.rsp_prod + 1 & _MASK
        self.req_cons = self.rsp_prod

    def slots(self) -> tuple[str, ...]:
        """Every slot as it reads now."""
        waiting, shown = self._awaiting(), []
        for index in range(SLOTS):
            slot = self._slot(index)
            if index in waiting:
                ident, _, gref = RX_REQUEST.unpack(slot)
                shown.append(f"buffer {ident}: grant {gref}")
            else:
                ident, _, flags, status = RX_RESPONSE.unpack(slot)
                shown.append(f"received {ident}: {status} bytes" + (", more" if flags & NETRXF_more_data else "") if any(slot) else "")
        return tuple(shown)
