"""A block frontend over plain bytes: what a guest's driver writes, good or bad."""

from __future__ import annotations

import itertools
import struct

from emulator.abi.blkif import DISCARD, INDIRECT, REQUEST, RESPONSE, SEGMENT, SLOT
from emulator.abi.ring import REQ_EVENT, REQ_PROD, RING_HEADER, RSP_EVENT, RSP_PROD
from emulator.dom0.backends.block.ring import BlockRing, Job
from tests.unit.plain_grants import FRAMES, PlainGrants

FIRST_DATA = 8


class Frontend:
    """Ring in the first frames, data from frame FIRST_DATA on; frames are not in order on purpose."""

    def __init__(self, capacity: int = 1 << 20, readonly: bool = False, pages: int = 1) -> None:
        self.memory = memoryview(bytearray(FRAMES * 4096))
        self.grants = PlainGrants()
        self.frames = [5, 1, 3, 2][:pages]
        self.ring = BlockRing(self.memory, self.frames, self.grants, capacity, readonly, itertools.count(1))
        self.disk = bytearray(capacity)
        self.req_prod = self.rsp_cons = 0
        self.set(REQ_EVENT, 1)
        self.set(RSP_EVENT, 1)

    def set(self, at: int, value: int) -> None:
        struct.pack_into("<I", self.memory, self.frames[0] * 4096 + at, value & 0xFFFFFFFF)

    def get(self, at: int) -> int:
        return int.from_bytes(self.memory[self.frames[0] * 4096 + at :][:4], "little")

    def _poke(self, at: int, data: bytes) -> None:
        for offset, byte in enumerate(data):
            page, start = divmod(at + offset, 4096)
            self.memory[self.frames[page] * 4096 + start] = byte

    def _peek(self, at: int, size: int) -> bytes:
        places = (divmod(at + offset, 4096) for offset in range(size))
        return bytes(self.memory[self.frames[page] * 4096 + start] for page, start in places)

    def put(self, slot: bytes) -> None:
        self._poke(RING_HEADER + self.req_prod % self.ring.size * SLOT, slot.ljust(SLOT, b"\0"))
        self.req_prod = self.req_prod + 1 & 0xFFFFFFFF
        self.set(REQ_PROD, self.req_prod)

    def request(self, operation: int, ident: int, sector: int, *segments: tuple[int, int, int]) -> None:
        table = b"".join(SEGMENT.pack(*segment) for segment in segments)
        self.put(REQUEST.pack(operation, len(segments), 0, ident, sector, table))

    def indirect(self, inner: int, ident: int, sector: int, segments: list[tuple[int, int, int]], gref: int = 104) -> None:
        table = b"".join(SEGMENT.pack(*segment) for segment in segments)
        self.memory[(gref - 100) * 4096 :][: len(table)] = table
        self.put(INDIRECT.pack(6, inner, len(segments), ident, sector, 0, gref, *[0] * 7))

    def discard(self, ident: int, sector: int, sectors: int) -> None:
        self.put(DISCARD.pack(5, 0, 0, ident, sector, sectors))

    def data(self, gref: int) -> memoryview:
        return self.memory[(gref - 100) * 4096 : (gref - 99) * 4096]

    def do(self, job: Job) -> None:
        """What a disk would."""
        if job.kind == 0:
            self.ring.finish(job.tag, "", bytes(self.disk[job.offset : job.offset + job.size]))
            return
        self.disk[job.offset : job.offset + len(job.data)] = job.data
        self.ring.finish(job.tag, "")

    def run(self) -> bool:
        for job in self.ring.take():
            self.do(job)
        return self.ring.push()

    def answers(self) -> list[tuple[int, int, int]]:
        found = []
        while self.rsp_cons != self.get(RSP_PROD):
            at = RING_HEADER + self.rsp_cons % self.ring.size * SLOT
            found.append(RESPONSE.unpack(self._peek(at, RESPONSE.size)))
            self.rsp_cons = self.rsp_cons + 1 & 0xFFFFFFFF
        self.set(RSP_EVENT, self.rsp_cons + 1)
        return found
