"""The backend's end of a block ring, sans-I/O: requests in by `take`, answers by `finish`, `push` tells whether to notify.

A frontend may write anything at any time. Each slot is copied once and the copy is checked and used; our own indices are never
read back; what is written is copied out of the guest before the request leaves for the disk, what was read goes to the frames
granted when it arrives (see dom0.grants). A bad request is answered with an error, as Linux's blkback does; indices that make
no sense break the ring: it is not served again until it is connected anew.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from emulator.abi.blkif import (
    BLKIF_OP_INDIRECT,
    BLKIF_RSP_ERROR,
    BLKIF_RSP_OKAY,
    RESPONSE,
    SECTOR,
    SLOT,
    ring_slots,
)
from emulator.abi.ring import REQ_PROD, RING_HEADER
from emulator.dom0.backends.block.requests import (
    DISCARD_OP,
    READ,
    WRITE,
    BadRequest,
    Request,
    check_range,
    decode,
    ident_of,
    with_segments,
)
from emulator.dom0.backends.ring import FRAME, MASK, BackRing
from emulator.dom0.grants import GrantError, GrantLook
from emulator.dom0.storage.image import scatter

MAX_HELD: Final = 8 << 20
"""Bytes of requests that a ring has in flight at most: what the guest asks for beyond waits in its slots."""
LARGE: Final = 64 << 10
"""Bytes of a request that may well be one of several that a larger one was taken to pieces for."""
AtOnce = Callable[[int, int, int, list[memoryview]], bool]
"""READ or WRITE, offset, size, and the guest's memory, `size` bytes together: done if that takes no waiting; else false, with anything in the
memory, or of it on the disk."""


@dataclass(frozen=True, slots=True)
class Job:
    """One thing for the disk to do. `data`: what is to be written. `tag` comes back with the answer."""

    tag: int
    kind: int
    offset: int
    size: int
    data: bytes = b""


@dataclass(frozen=True, slots=True)
class RingState:
    """A saved ring: indices, and the requests in flight."""

    req_cons: int
    rsp_prod: int
    broken: str
    flying: tuple[tuple[int, Request], ...]  # tag and request


@dataclass(slots=True)
class RingCounters:
    requests: int = 0
    errors: int = 0
    read_bytes: int = 0
    written_bytes: int = 0
    flushes: int = 0
    answered: int = 0  # requests that the disk was asked for and is done with
    wait_ns: int = 0  # from taking these out of the ring to their answers, in all
    refused: str = ""  # the last request that was answered with an error, and why


class BlockRing(BackRing):
    """`memory`: the guest's machine memory. `frames`: the ring's machine frames, which the caller keeps granted.

    `capacity`: bytes of the disk. `tags`: numbers never used before with this guest: late answers must find nobody.
    `written` hears of the guest's frames that were written."""

    def __init__(self, memory: memoryview, frames: Sequence[int], grants: GrantLook, capacity: int, readonly: bool,
                 tags: Iterator[int], written: Callable[[Sequence[int]], None] = lambda frames: None) -> None:  # fmt: skip
        super().__init__(memory, frames[0], ring_slots(len(frames)))
        self._base = [mfn * FRAME for mfn in frames]
        self._grants = grants
        self._capacity, self._readonly = capacity, readonly
        self.counters = RingCounters()
        self._tags, self._written = tags, written
        self._flying: dict[int, tuple[Request, int]] = {}  # tag -> request, since when (ns)
        self._held = 0  # bytes of these
        self._end = -1  # where on the disk the last request ended, if it was a large one

    # --- the ring's memory ---------------------------------------------------------------------------------------------------

    def _slot(self, index: int) -> bytes:
        """A copy of a slot; slots may lie across two pages."""
        at = RING_HEADER + (index & self.size - 1) * SLOT
        page, start = at // FRAME, at % FRAME
        base = self._base[page] + start
        if start + SLOT <= FRAME:
            return bytes(self._memory[base : base + SLOT])
        first = FRAME - start
        rest = self._base[page + 1]
        return bytes(self._memory[base : base + first]) + bytes(self._memory[rest : rest + SLOT - first])

    def _put_response(self, data: bytes) -> None:
        at = RING_HEADER + (self.rsp_prod & self.size - 1) * SLOT
        for offset in (0, 8):  # 16 bytes of an 8-aligned slot: a half never crosses a page
            page, start = (at + offset) // FRAME, (at + offset) % FRAME
            base = self._base[page] + start
            self._memory[base : base + 8] = data[offset : offset + 8]
        self.rsp_prod = self.rsp_prod + 1 & MASK

    # --- requests --------------------------------------------------------------------------------------------------------------

    def take(self, now: AtOnce | None = None) -> list[Job]:
        """All requests that wait, as work for the disk. Bad ones, and those that `now` could do at once, are answered here: `push` afterwards.
        What comes behind work for the disk is such work, too."""
        jobs: list[Job] = []
        counters = self.counters
        while count := self.waiting():
            for _ in range(count):
                if self._held >= MAX_HELD:
                    return jobs
                slot = self._slot(self.req_cons)
                self.req_cons = self.req_cons + 1 & MASK
                counters.requests += 1
                try:
                    request = self._accept(slot)
                    if now is None or jobs or request.kind > WRITE or not self._do_now(request, now):
                        jobs.append(self._start(request))
                except BadRequest as bad:
                    counters.refused = str(bad)
                    self._respond(*ident_of(slot), bad.status)
        if not self.broken:
            self.await_request()  # RING_FINAL_CHECK_FOR_REQUESTS needs no second look: the guest stands still
        return jobs

    def continues(self) -> bool:
        """Whether a request waits that goes on where the last one ended, both large ones."""
        if self._end < 0:
            return False
        slot = self._slot(self.req_cons)
        return slot[0] == BLKIF_OP_INDIRECT and int.from_bytes(slot[16:24], "little") * SECTOR == self._end

    def _accept(self, slot: bytes) -> Request:
        request = decode(slot)
        if request.indirect:
            request = with_segments(request, self._read_indirect(request))
        check_range(request, self._capacity, self._readonly)
        self._end = request.offset + request.size if request.size >= LARGE else -1
        return request

    def _do_now(self, request: Request, now: AtOnce) -> bool:
        """Have a read or a write done straight into or out of the guest's frames, while it stands still."""
        began, kind, size = time.monotonic_ns(), request.kind, request.size
        frames = self._look(request, request.grefs, kind == READ)
        if not now(kind, request.offset, size, self._views(frames, request.spans)):
            return False
        counters = self.counters
        if kind == READ:
            self._written(frames)
            counters.read_bytes += size
        else:
            counters.written_bytes += size
        counters.answered += 1
        counters.wait_ns += time.monotonic_ns() - began
        self._respond(request.ident, request.operation, BLKIF_RSP_OKAY)
        return True

    def _views(self, frames: Sequence[int], spans: Sequence[tuple[int, int]] | None) -> list[memoryview]:
        """The segments' memory. A guest's frames hardly ever lie in order: nothing is gained by joining neighbours."""
        memory = self._memory
        if spans is None:
            return [memory[mfn << 12 : (mfn << 12) + FRAME] for mfn in frames]
        return [memory[(mfn << 12) + first : (mfn << 12) + first + size] for mfn, (first, size) in zip(frames, spans, strict=True)]

    def _read_indirect(self, request: Request) -> bytes:
        """A copy of the pages that hold an indirect request's segments."""
        frames = self._look(request, request.indirect, False)
        return b"".join([self._memory[mfn * FRAME : (mfn + 1) * FRAME] for mfn in frames])

    def _look(self, request: Request, grefs: Sequence[int], write: bool) -> list[int]:
        try:
            return self._grants.look(grefs, write)
        except GrantError as bad:
            raise BadRequest(f"{request.text()}: {bad}") from bad

    def _start(self, request: Request, tag: int = 0) -> Job:
        data = b""
        if request.kind != READ and request.grefs:
            data = b"".join(self._views(self._look(request, request.grefs, False), request.spans))
        tag = tag or next(self._tags)
        self._flying[tag] = (request, time.monotonic_ns())
        self._held += request.size if request.kind != DISCARD_OP else 0
        return Job(tag, request.kind, request.offset, request.size, data)

    # --- answers ---------------------------------------------------------------------------------------------------------------

    def finish(self, tag: int, failure: str, data: bytes | bytearray = b"") -> bool:
        """The disk is done with a job: `failure` is empty or says why not, `data` is what was read. False: no job of this ring has
        that tag."""
        found = self._flying.pop(tag, None)
        if found is None:
            return False
        request, since = found
        self._held -= request.size if request.kind != DISCARD_OP else 0
        self.counters.answered += 1
        self.counters.wait_ns += time.monotonic_ns() - since
        if request.kind == READ and not failure:
            failure = self._deliver(request, data)
            self.counters.read_bytes += 0 if failure else request.size
        elif request.kind == WRITE and not failure:
            self.counters.written_bytes += request.size
        elif not failure:
            self.counters.flushes += 1
        if failure:
            self.counters.refused = failure
        if not self.broken:
            self._respond(request.ident, request.operation, BLKIF_RSP_ERROR if failure else BLKIF_RSP_OKAY)
        return True

    def _deliver(self, request: Request, data: bytes | bytearray) -> str:
        """Put what was read into the frames granted for it; why not, if not."""
        try:
            frames = self._look(request, request.grefs, True)
        except BadRequest as bad:
            return str(bad)
        scatter(data, self._views(frames, request.spans))
        self._written(frames)
        return ""

    def _respond(self, ident: int, operation: int, status: int) -> None:
        if status:
            self.counters.errors += 1
        self._put_response(RESPONSE.pack(ident, operation, status) + bytes(4))

    def abandon(self) -> None:
        """The frontend is gone or closing: answers that still come are ignored."""
        self._flying.clear()
        self._held = 0
        self.broken = self.broken or "closed"

    # --- looking, saving ---------------------------------------------------------------------------------------------------------

    @property
    def in_flight(self) -> int:
        return len(self._flying)

    @property
    def holds_back(self) -> bool:
        """Whether requests wait for others to be done, with no event to come for them."""
        return self.req_cons != self._load(REQ_PROD) and not self.broken

    def oldest_ns(self) -> int:
        """Monotonic time at which the oldest request in flight came, 0 when there is none."""
        return min((since for _, since in self._flying.values()), default=0)

    def slots(self) -> tuple[str, ...]:
        """Every slot as it reads now: the request in it, or the answer."""
        shown = []
        waiting = self._awaiting()
        for index in range(self.size):
            slot = self._slot(index)
            if index in waiting:
                try:
                    shown.append(decode(slot).text())
                except BadRequest as bad:
                    shown.append(f"bad: {bad}")
            else:
                ident, _, status = RESPONSE.unpack_from(slot)
                shown.append(f"answered {ident}: {'done' if status == BLKIF_RSP_OKAY else 'failed'}" if any(slot) else "")
        return tuple(shown)

    def save(self) -> RingState:
        return RingState(self.req_cons, self.rsp_prod, self.broken, tuple((tag, request) for tag, (request, _) in self._flying.items()))

    def load(self, state: RingState, *, replay: bool = False) -> list[Job]:
        """Back to `state`, the guest's memory and grants being what they were; what was in flight is to be done again, under new
        tags, or for a replay under those that the recorded answers have."""
        self.req_cons, self.rsp_prod, self.broken = state.req_cons, state.rsp_prod, state.broken
        self._told = state.rsp_prod
        self._flying.clear()
        self._held = 0
        jobs = []
        for tag, request in state.flying:
            try:
                jobs.append(self._start(request, tag if replay else 0))
            except BadRequest as bad:
                self.counters.refused = str(bad)
                self._respond(request.ident, request.operation, bad.status)
        return jobs
