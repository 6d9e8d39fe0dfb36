"""A hostile frontend as a string of bytes: each eight of them are one move of it, or of what happens around it meanwhile.

    move, small number u8, number u16, number u32          (little-endian)

`play` makes the moves and checks after each that nothing of the host, of the guest's other memory, or of its neighbours was touched. The
corpus (`corpus/net/`) holds strings that reach places in the backend which others do not; `grow` finds such.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from emulator.abi.netif import RX_REQUEST, SLOTS, TX_REQUEST
from emulator.abi.ring import RING_HEADER, RSP_EVENT
from emulator.dom0.backends.net.device import Vif
from emulator.dom0.backends.net.rx import MAX_QUEUED_BYTES, MAX_QUEUED_FRAMES
from emulator.dom0.grants import GrantError
from emulator.dom0.network import Frame, Network
from emulator.dom0.vifspec import parse_vif
from emulator.dom0.xenstore import Store
from tests.unit.net_frontend import MASK, RX_FRAME, TX_FRAME, PlainSide
from tests.unit.plain_grants import PlainGrants

MOVE: Final = struct.Struct("<BBHI")
MOVES: Final = 80
_REQ_PROD: Final = 0
_SECOND: Final = (8, 9)
_RINGS: Final = (TX_FRAME, RX_FRAME, *_SECOND)
_SLOT: Final = {TX_FRAME: 12, RX_FRAME: 8, 8: 12, 9: 8}
_OWN: Final = (0, 1, 2, 10, 11)
"""Frames of the guest that it never granted."""


class HostileGrants(PlainGrants):
    """Not all frames are granted; and while the backend looks, the guest writes on (`scribble`)."""

    def __init__(self, memory: memoryview) -> None:
        super().__init__()
        self._memory = memory
        self.scribble = b""

    def look(self, grefs: Sequence[int], write: bool) -> list[int]:
        frames = super().look(grefs, write)
        if any(frame in _OWN for frame in frames):
            raise GrantError("that frame is not granted")
        for ring in _RINGS if self.scribble else ():
            size = len(self.scribble) * SLOTS
            self._memory[ring * 4096 + RING_HEADER : ring * 4096 + RING_HEADER + size] = self.scribble * SLOTS
        return frames


class HostileSide(PlainSide):
    def __init__(self, domid: int) -> None:
        super().__init__(domid)
        self.grants: HostileGrants = HostileGrants(self.memory)

    def notify(self, port: int, name: str) -> None:
        assert self.bound[port] == name


class Neighbour:
    """A port of the network whose frames are its own."""

    def __init__(self, network: Network, name: str, mac: bytes) -> None:
        self.name, self.mac, self.network = name, mac, network
        self.heard: list[Frame] = []
        self.port = network.attach(self, mac)

    def deliver(self, frames: list[Frame]) -> None:
        self.heard += frames

    def send(self, target: bytes, body: bytes, gso: int = 0) -> None:
        self.network.send(self.port, [Frame(target + self.mac + body, bool(gso), False, gso, 1 if gso else 0)])


class Game:
    """A hostile guest and two neighbours on one network."""

    def __init__(self) -> None:
        self.network, self.store = Network("net0"), Store()
        self.side = HostileSide(1)
        self.vif = Vif(parse_vif("rate=100Mb/s", domain="hostile", number=0), self.network, self.side, self.store, lambda vif: vif.close())
        self.vif.advertise()
        self.near = Neighbour(self.network, "near", b"\x00\x16\x3e\0\0\x0a")
        self.far = Neighbour(self.network, "far", b"\x00\x16\x3e\0\0\x0b")
        self.own = [bytes(self.side.page(number)) for number in _OWN]
        self.prods = dict.fromkeys(_RINGS, 0)
        self.connect(0)

    def connect(self, number: int) -> None:
        """With one queue, or with two."""
        nodes = {"request-rx-copy": "1", "feature-sg": str(number & 1), "feature-gso-tcpv4": str(number >> 1 & 1),
                 "request-multicast-control": str(number >> 2 & 1), "multi-queue-num-queues": str(1 + (number >> 3 & 1))}  # fmt: skip
        for queue, (tx, rx) in enumerate(((TX_FRAME, RX_FRAME), _SECOND)):
            for prefix in (f"queue-{queue}/", "" if not queue else "other/"):
                nodes |= {f"{prefix}tx-ring-ref": str(100 + tx), f"{prefix}rx-ring-ref": str(100 + rx), f"{prefix}event-channel": str(5 + queue)}
        for key, value in nodes.items():
            self.store.write(f"{self.vif.front}/{key}", value)
        for ring in _RINGS:
            self.side.page(ring)[:] = bytes(4096)
            self.prods[ring] = 0
        for state in (1, 3, 4):
            self.state(state)

    def state(self, state: int) -> None:
        if not self.vif.closed.is_set():
            self.store.write(f"{self.vif.front}/state", str(state))
            self.vif.frontend_changed(str(state))

    def put(self, ring: int, slot: bytes) -> None:
        at = ring * 4096 + RING_HEADER + self.prods[ring] % SLOTS * _SLOT[ring]
        self.side.memory[at : at + _SLOT[ring]] = slot.ljust(_SLOT[ring], b"\0")[: _SLOT[ring]]
        self.prods[ring] = self.prods[ring] + 1 & MASK
        self.side.memory[ring * 4096 : ring * 4096 + 4] = self.prods[ring].to_bytes(4, "little")

    def move(self, what: int, small: int, number: int, wide: int) -> None:
        side, vif = self.side, self.vif
        queue = small >> 7
        tx, rx = (TX_FRAME, RX_FRAME) if not queue else _SECOND
        what %= 15
        if what == 0:  # a packet's slot: one in four with numbers of its own choice
            gref = 116 + small % 40 if number & 3 else wide & 0xFF
            flags = wide >> 24 & 15
            self.put(tx, TX_REQUEST.pack(gref, wide & 0xFFF if number & 4 else 0, flags, number, (number >> 3 if number & 1 else 60)))
            data = (self.near.mac if small & 1 else b"\xff" * 6) + vif.spec.mac + b"\x08\x00"
            side.page(16 + small % 40)[: len(data)] = data
        elif what == 1:  # an extra info
            self.put(tx, bytes((small & 7, number & 1, *wide.to_bytes(4, "little"), number >> 8, 0)))
        elif what == 2:  # an index that jumps, wraps or goes back
            ring = (tx, rx)[number & 1]
            self.prods[ring] = (self.prods[ring] + (wide & 0x3FF) - 256 if number & 2 else wide) & MASK
            side.memory[ring * 4096 + _REQ_PROD : ring * 4096 + _REQ_PROD + 4] = self.prods[ring].to_bytes(4, "little")
        elif what == 3:
            for _ in range(1 + (number & 31)):
                self.put(rx, RX_REQUEST.pack(number, 0, 116 + small % 40 if wide & 3 else wide))
        elif what == 4:
            side.grants.revoked ^= {100 + small % 64}
        elif what == 5:
            side.grants.readonly ^= {100 + small % 64}
        elif what == 6:
            at = (tx, rx)[number & 1] * 4096 + RSP_EVENT
            side.memory[at : at + 4] = wide.to_bytes(4, "little")
        elif what == 7:
            side.grants.scribble = MOVE.pack(what, small, number, wide) if small & 1 else b""
        elif what == 8:
            vif.kick()
        elif what == 9:
            self.near.send(vif.spec.mac if small & 1 else b"\xff" * 6, b"\x08\x00" + bytes(number % 20_000), wide & 0x7FF if small & 2 else 0)
        elif what == 10:
            while side.posted:
                vif.received(side.posted.pop(0)[1])
        elif what == 11:
            side.clock += wide
            if side.wakes:
                side.wakes.clear()
                vif.received(())
        elif what == 12:
            self.state(number % 8)
        elif what == 13:
            self.connect(number)
        else:
            saved = vif.save()
            vif.load(saved)

    def check(self) -> None:
        vif, side = self.vif, self.side
        assert [bytes(side.page(number)) for number in _OWN] == self.own
        assert side.grants.held == 2 * len(vif.queues) and len(side.bound) == len(vif.queues)
        for queue in vif.queues:
            assert queue.tx.rsp_prod == queue.tx.req_cons and not queue.tx.broken and not queue.rx.broken
            assert len(queue.rx.queue) <= MAX_QUEUED_FRAMES and queue.rx.queued_bytes <= MAX_QUEUED_BYTES
            queue.tx.slots(), queue.rx.slots(), queue.tx.indices(), queue.rx.indices()
        assert all(frame.source == vif.spec.mac and 14 <= len(frame.data) <= 0xFFFF for frame in self.near.heard)
        assert not vif.trouble or any(vif.trouble in said for said in side.said)
        self.near.heard.clear()
        self.far.heard.clear()
        self.near.send(self.far.mac, b"\x08\x00hello")  # nobody else notices
        assert [frame.data[14:] for frame in self.far.heard] == [b"hello"]
        self.far.heard.clear()


def play(data: bytes) -> Game:
    """The moves that `data` stands for."""
    game = Game()
    for at in range(0, min(len(data), MOVES * MOVE.size) // MOVE.size * MOVE.size, MOVE.size):
        game.move(*MOVE.unpack_from(data, at))
        game.check()
    return game
