"""The xenstore ring of a guest: moves bytes between its interface page (io/xs_wire.h) and its connection.

The page belongs to the guest: indices are read once a kick, checked, and used from the copy. Each kick moves at most one
ring's length each way, so no guest can keep it busy. Indices live in the page alone, as xenstored keeps them.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from emulator.dom0.xenstore import wire
from emulator.dom0.xenstore.holdings import ConnectionState
from emulator.dom0.xenstore.recorded import Words
from emulator.dom0.xenstore.server import Connection
from emulator.dom0.xenstore.wire import XENSTORE_RING_SIZE

_U32: Final = struct.Struct("<I")
_FEATURES: Final = wire.XENSTORE_SERVER_FEATURE_RECONNECTION | wire.XENSTORE_SERVER_FEATURE_ERROR


@dataclass(frozen=True, slots=True)
class RingState:
    broken: str
    connection: ConnectionState


class XenstoreRing:
    """`page`: a writable view of the guest's interface page, at least 2076 bytes. Call `kick` on the guest's notification, and
    when the connection's `on_output` said that an event waits; never while the guest runs on another thread."""

    def __init__(self, page: memoryview, connection: Connection) -> None:
        if page.readonly or page.nbytes < wire.INTERFACE_SIZE:
            raise ValueError(f"a xenstore interface page is {wire.INTERFACE_SIZE} writable bytes or more, not {page.nbytes}")
        self._page = page.cast("B") if page.format != "B" else page
        self.connection = connection
        self.broken = ""  # why the ring is no longer served; one line

    def advertise(self) -> None:
        """Tells the guest what the server can do; once, before it starts."""
        self._store(wire.SERVER_FEATURES, _FEATURES)

    def kick(self, answering: bool = True) -> bool:
        """Serves what the guest asked and, `answering`, hands it what waits for it; whether the guest must be notified."""
        if self.connection.released:
            return False
        if self._load(wire.CONNECTION) == wire.XENSTORE_RECONNECT and self._load(wire.SERVER_FEATURES) & 1:
            self._reconnect()
            return True
        if self.broken:
            return False
        req_cons, req_prod = self._load(wire.REQ_CONS), self._load(wire.REQ_PROD)
        rsp_cons, rsp_prod = self._load(wire.RSP_CONS), self._load(wire.RSP_PROD)
        asked = (req_prod - req_cons) & 0xFFFFFFFF
        unread = (rsp_prod - rsp_cons) & 0xFFFFFFFF
        if asked > XENSTORE_RING_SIZE:
            return self._break(wire.XENSTORE_ERROR_RINGIDX, f"req_prod {req_prod:#x} is {asked} past req_cons {req_cons:#x}")
        if unread > XENSTORE_RING_SIZE:
            return self._break(wire.XENSTORE_ERROR_RINGIDX, f"rsp_prod {rsp_prod:#x} is {unread} past rsp_cons {rsp_cons:#x}")
        room = XENSTORE_RING_SIZE - unread
        moved = False
        while True:
            fed = min(asked, self.connection.room)
            if fed:
                self.connection.feed(self._get(wire.REQ, req_cons, fed))
                req_cons = (req_cons + fed) & 0xFFFFFFFF
                asked -= fed
                self._store(wire.REQ_CONS, req_cons)
            if self.connection.broken:
                return self._break(wire.XENSTORE_ERROR_PROTO, self.connection.broken)
            data = self.connection.take(room) if room and answering else b""
            if data:
                self._put(wire.RSP, rsp_prod, data)
                rsp_prod = (rsp_prod + len(data)) & 0xFFFFFFFF
                room -= len(data)
                self._store(wire.RSP_PROD, rsp_prod)
            if not fed and not data:
                return moved
            moved = True

    def say(self) -> Words:
        """Hands the guest what waits for it, as far as there is room, and tells what that was."""
        room, rsp_prod = self._room()
        before = self.connection.replies_taken
        data = self.connection.take(room) if room else b""
        self._said(rsp_prod, data)
        return Words(data, self.connection.replies_taken - before)

    def repeat(self, words: Words) -> None:
        """Hands the guest what `say` did in the run that is replayed, in place of what waits for it here."""
        self.connection.forgo(words.replies)
        self._said(self._room()[1], words.data)

    def _room(self) -> tuple[int, int]:
        """Bytes that may be put into the ring (none where it is broken), and where."""
        rsp_cons, rsp_prod = self._load(wire.RSP_CONS), self._load(wire.RSP_PROD)
        unread = (rsp_prod - rsp_cons) & 0xFFFFFFFF
        silent = self.broken or self.connection.released or unread > XENSTORE_RING_SIZE
        return 0 if silent else XENSTORE_RING_SIZE - unread, rsp_prod

    def _said(self, rsp_prod: int, data: bytes) -> None:
        if data:
            self._put(wire.RSP, rsp_prod, data)
            self._store(wire.RSP_PROD, (rsp_prod + len(data)) & 0xFFFFFFFF)

    def save(self) -> RingState:
        """The state outside of the page, which is saved with the guest's memory."""
        return RingState(self.broken, self.connection.save())

    def load(self, state: RingState) -> None:
        self.broken = state.broken
        self.connection.load(state.connection)

    def _reconnect(self) -> None:
        """The guest asked for a new start (docs/misc/xenstore-ring.txt)."""
        self.connection.reset()
        self.broken = ""
        for index in (wire.REQ_CONS, wire.REQ_PROD, wire.RSP_CONS, wire.RSP_PROD, wire.ERROR, wire.CONNECTION):
            self._store(index, 0)

    def _break(self, error: int, why: str) -> bool:
        self.broken = f"xenstore ring: {why}"
        self.connection.reset()
        self.connection.broken = why
        self._store(wire.ERROR, error)
        return True

    def _load(self, offset: int) -> int:
        value: int = _U32.unpack_from(self._page, offset)[0]
        return value

    def _store(self, offset: int, value: int) -> None:
        _U32.pack_into(self._page, offset, value)

    def _get(self, base: int, index: int, count: int) -> bytes:
        start = index % XENSTORE_RING_SIZE
        first = min(count, XENSTORE_RING_SIZE - start)
        return bytes(self._page[base + start : base + start + first]) + bytes(self._page[base : base + count - first])

    def _put(self, base: int, index: int, data: bytes) -> None:
        start = index % XENSTORE_RING_SIZE
        first = min(len(data), XENSTORE_RING_SIZE - start)
        self._page[base + start : base + start + first] = data[:first]
        self._page[base : base + len(data) - first] = data[first:]
