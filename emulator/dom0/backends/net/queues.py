"""A queue of an interface: a pair of rings and the event channels that they ring. One, or as many as the frontend asks for (multi-queue)."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from emulator.dom0.backends.net.rx import RxRing
from emulator.dom0.backends.net.side import GuestSide
from emulator.dom0.backends.net.tx import TxRing
from emulator.dom0.grants import GrantError
from emulator.dom0.network import Frame

MAX_QUEUES: Final = 8
LAZY_SLOTS: Final = 32
LAZY_NS: Final = 4_000_000
"""Slots of frames that were sent and whose answers the guest has not been told of, at most, and for how long: they are no news to it, and it hears
of them with the next frame that it gets."""
_MOST: Final = (1 << 32) - 1
_IPV4, _IPV6 = b"\x08\x00", b"\x86\xdd"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a queue lies: grants and machine frames of its two rings (tx, rx), and its ports (tx and rx, or one for both)."""

    grefs: tuple[int, int]
    frames: tuple[int, int]
    ports: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class QueueState:
    """A saved queue: of its rings the indices and what waited for the guest."""

    place: Place
    tx: tuple[int, int, str]
    rx: tuple[int, int, str]
    waiting: tuple[Frame, ...]
    freed: int


class Queue:
    """`multicast`: the interface's filter, which all of its queues share."""

    def __init__(self, side: GuestSide, name: str, place: Place, multicast: set[bytes]) -> None:
        self._side, self._name, self.place = side, name, place
        self.tx = TxRing(side.memory, place.frames[0], side.grants)
        self.rx = RxRing(side.memory, place.frames[1], side.grants)
        self.tx.multicast = multicast
        self._freed = 0  # answers to its frames when it was last told of them at once

    def push(self) -> str:
        """Tell the frontend of all answers. Why the queue can no longer be served, "" while it can."""
        tx, rx, side = self.tx, self.rx, self._side
        if rx.written:
            side.written(rx.written)
            rx.written = []
        asked = tx.push()
        if tx.rsp_prod - self._freed & _MOST > LAZY_SLOTS:
            if asked or tx.owes_event():
                self._freed = tx.rsp_prod
                side.notify(self.place.ports[0], self._name)
        elif asked:
            side.notify_lazily(self.place.ports[0], self._name, LAZY_NS)
        if rx.push():
            side.notify(self.place.ports[-1], self._name)
        return f"sending: {tx.broken}" if tx.broken else f"receiving: {rx.broken}" if rx.broken else ""

    def notify(self) -> None:
        for port in self.place.ports:
            self._side.notify(port, self._name)

    def release(self) -> None:
        """Give grants and event channels back."""
        for port in self.place.ports:
            self._side.unbind(port, self._name)
        for gref in self.place.grefs:
            self._side.grants.end(gref, True)

    def save(self) -> QueueState:
        return QueueState(self.place, self.tx.save(), self.rx.save(), tuple(self.rx.queue), self._freed)

    def load(self, state: QueueState) -> None:
        self.tx.load(state.tx)
        self.rx.load(state.rx)
        self._freed = state.freed
        self.rx.queue.extend(state.waiting)
        self.rx.queued_bytes = sum(len(frame.data) for frame in state.waiting)


def open_queue(side: GuestSide, name: str, number: Callable[[str], int], split: bool) -> Place:
    """Take a queue's rings and event channels, after connect_data_rings of xen-netback. `number`: reads one of its nodes.

    Raises GrantError, or ValueError for an event channel, with nothing taken."""
    grefs = number("tx-ring-ref"), number("rx-ring-ref")
    ports = tuple(number(key) for key in (("event-channel-tx", "event-channel-rx") if split else ("event-channel",)))
    held: list[int] = []
    bound: list[int] = []
    try:
        frames = []
        for gref in grefs:
            frames.append(side.grants.begin(gref, True))
            held.append(gref)
        if frames[0] == frames[1] or len(set(ports)) < len(ports):
            raise GrantError("its two rings are one")
        for port in ports:
            side.bind(port, name)
            bound.append(port)
    except (GrantError, ValueError):
        for port in bound:
            side.unbind(port, name)
        for gref in held:
            side.grants.end(gref, True)
        raise
    return Place(grefs, (frames[0], frames[1]), ports)


def choose(data: bytes, queues: int) -> int:
    """The queue for a frame: packets of a connection stay in theirs, so that they keep their order."""
    kind = data[12:14]
    if kind == _IPV4:
        return zlib.crc32(data[26:38]) % queues
    return zlib.crc32(data[22:58]) % queues if kind == _IPV6 else 0
