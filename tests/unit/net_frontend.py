"""A network frontend over plain bytes: what a guest's driver writes, good or bad; and an interface with everything around it."""

from __future__ import annotations

from collections.abc import Sequence

from emulator.abi.netif import RX_REQUEST, RX_RESPONSE, SLOTS, TX_REQUEST, TX_RESPONSE, NETTXF_extra_info, NETTXF_more_data
from emulator.abi.ring import REQ_PROD, RING_HEADER, RSP_EVENT, RSP_PROD
from emulator.dom0.network import Frame
from tests.unit.plain_grants import FRAMES, PlainGrants

TX_FRAME, RX_FRAME, FIRST_DATA = 3, 7, 16
MASK = 0xFFFFFFFF


class Rings:
    """The frontend's end of both rings, in the memory of a guest of 64 frames."""

    def __init__(self) -> None:
        self.memory = memoryview(bytearray(FRAMES * 4096))
        self.grants = PlainGrants()
        self.prod = {TX_FRAME: 0, RX_FRAME: 0}
        self.cons = {TX_FRAME: 0, RX_FRAME: 0}
        for ring in self.prod:
            self.set(ring, RSP_EVENT, 1)
        self._next_data = FIRST_DATA

    def set(self, ring: int, at: int, value: int) -> None:
        self.memory[ring * 4096 + at : ring * 4096 + at + 4] = (value & MASK).to_bytes(4, "little")

    def get(self, ring: int, at: int) -> int:
        return int.from_bytes(self.memory[ring * 4096 + at :][:4], "little")

    def put(self, ring: int, slot: bytes) -> None:
        size = TX_REQUEST.size if ring == TX_FRAME else RX_REQUEST.size
        at = ring * 4096 + RING_HEADER + self.prod[ring] % SLOTS * size
        self.memory[at : at + size] = slot.ljust(size, b"\0")
        self.prod[ring] = self.prod[ring] + 1 & MASK
        self.set(ring, REQ_PROD, self.prod[ring])

    def page(self, number: int) -> memoryview:
        return self.memory[number * 4096 : (number + 1) * 4096]

    def send(self, data: bytes, *, flags: int = 0, ident: int = 1, extras: Sequence[bytes] = (), step: int = 4096, offset: int = 0) -> None:
        """A packet in slots of `step` bytes."""
        parts = [data[at : at + step] for at in range(0, len(data), step)] or [b""]
        for number, part in enumerate(parts):
            page = FIRST_DATA + (self._next_data - FIRST_DATA) % 24
            self._next_data += 1
            self.page(page)[offset : offset + len(part)] = part
            more = NETTXF_more_data if number + 1 < len(parts) else 0
            first = (flags | (NETTXF_extra_info if extras else 0)) if not number else 0
            self.put(TX_FRAME, TX_REQUEST.pack(100 + page, offset, first | more, ident + number, len(data) if not number else len(part)))
            if not number:
                for extra in extras:
                    self.put(TX_FRAME, extra)

    def buffers(self, count: int, first: int = 40) -> None:
        """Receive buffers: ids and pages from `first` on, 20 of them in turn."""
        for _ in range(count):
            page = first + self.prod[RX_FRAME] % 20
            self.put(RX_FRAME, RX_REQUEST.pack(self.prod[RX_FRAME] & 0xFFFF, 0, 100 + page))

    def answers(self) -> list[tuple[int, int]]:
        """(id, status) of what was sent."""
        found = []
        while self.cons[TX_FRAME] != self.get(TX_FRAME, RSP_PROD):
            at = TX_FRAME * 4096 + RING_HEADER + self.cons[TX_FRAME] % SLOTS * TX_REQUEST.size
            found.append(TX_RESPONSE.unpack_from(self.memory, at))
            self.cons[TX_FRAME] = self.cons[TX_FRAME] + 1 & MASK
        self.set(TX_FRAME, RSP_EVENT, self.cons[TX_FRAME] + 1)
        return found

    def received(self) -> list[tuple[bytes, int, bytes]]:
        """(data, flags of the first slot, extra info) of each packet that came."""
        found: list[tuple[bytes, int, bytes]] = []
        end = self.get(RX_FRAME, RSP_PROD)
        while self.cons[RX_FRAME] != end:
            data, first, extra, more = b"", -1, b"", True
            while more:
                index = self.cons[RX_FRAME]
                at = RX_FRAME * 4096 + RING_HEADER + index % SLOTS * RX_RESPONSE.size
                ident, offset, flags, status = RX_RESPONSE.unpack_from(self.memory, at)
                assert ident == index & 0xFFFF and status >= 0
                data += bytes(self.page(40 + index % 20)[offset : offset + status])
                self.cons[RX_FRAME] = index + 1 & MASK
                if flags & 8:
                    at = RX_FRAME * 4096 + RING_HEADER + self.cons[RX_FRAME] % SLOTS * RX_RESPONSE.size
                    extra = bytes(self.memory[at : at + 8])
                    self.cons[RX_FRAME] = self.cons[RX_FRAME] + 1 & MASK
                first, more = flags if first < 0 else first, bool(flags & 4)
            found.append((data, first, extra))
        self.set(RX_FRAME, RSP_EVENT, self.cons[RX_FRAME] + 1)
        return found


class PlainSide(Rings):
    """A guest as an interface sees it (side.GuestSide): messages are kept until `run`."""

    def __init__(self, domid: int) -> None:
        super().__init__()
        self.domid = domid
        self.bound: dict[int, str] = {}
        self.refuse: set[int] = set()
        self.notified: list[int] = []
        self.lazily: list[int] = []
        self.posted: list[tuple[str, tuple[Frame, ...]]] = []
        self.wakes: list[int] = []
        self.said: list[str] = []
        self.clock = 0
        self.replaying = False

    def bind(self, port: int, name: str) -> None:
        if port in self.refuse or port in self.bound:
            raise ValueError(f"event channel {port} does not await Domain-0")
        self.bound[port] = name

    def unbind(self, port: int, name: str) -> None:
        self.bound.pop(port, None)

    def notify(self, port: int, name: str) -> None:
        assert self.bound[port] == name
        self.notified.append(port)

    def notify_lazily(self, port: int, name: str, ns: int) -> None:
        assert self.bound[port] == name and 0 < ns <= 4_000_000
        self.lazily.append(port)

    def written(self, frames: Sequence[int]) -> None:
        assert all(0 <= mfn < FRAMES for mfn in frames)

    def send(self, *arguments: object, **named: object) -> None:
        """Both a frontend's `send` and the side's: by what it is given."""
        if isinstance(arguments[0], str):
            self.posted.append(arguments)  # type: ignore[arg-type]
        else:
            super().send(*arguments, **named)  # type: ignore[arg-type]

    def wake(self, name: str, at_ns: int) -> None:
        self.wakes.append(at_ns)

    def now(self) -> int:
        return self.clock

    def log(self, level: str, text: str) -> None:
        self.said.append(text)
