"""A hostile block frontend as a script, one action a line, so that what fuzzing finds can be kept, read and replayed.

    request OP IDENT SECTOR [GREF:FIRST-LAST …]    a request in the next slot, req_prod moved
    indirect OP IDENT SECTOR COUNT GREF [GREF:FIRST-LAST …]   its segments written to the granted frame first
    discard IDENT SECTOR SECTORS
    raw HEX                 any bytes in the next slot
    change INDEX HEX        a slot overwritten, whoever has read it
    set FIELD VALUE         req_prod, req_event, rsp_prod or rsp_event of the ring's page
    jump N                  req_prod moved by N, which may be negative; the slots are what they are
    scribble FRAME OFFSET HEX
    revoke GREF | readonly GREF | grant GREF
    take | now              the back end looks; `now` reads and writes at once what it can
    finish N [fails]        the disk is done with the N-th job
    save                    snapshot and restore

Numbers are decimal or 0x…; grants 100 to 139 give frames 0 to 39, and nothing gives the frames behind these.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from emulator.abi.blkif import BLKIF_OP_DISCARD, BLKIF_OP_READ, BLKIF_OP_WRITE, SLOT
from emulator.abi.ring import REQ_EVENT, REQ_PROD, RING_HEADER, RSP_EVENT, RSP_PROD
from emulator.dom0.backends.block.queue import PersistentGrants
from emulator.dom0.backends.block.ring import BlockRing, Job
from emulator.dom0.grants import GrantError
from tests.unit.block_frontend import Frontend
from tests.unit.plain_grants import PlainGrants

SECTORS = 64
GRANTED = 40
CANARY = b"canary!\n" * 512
_FIELDS = {"req_prod": REQ_PROD, "req_event": REQ_EVENT, "rsp_prod": RSP_PROD, "rsp_event": RSP_EVENT}


class FewGrants(PlainGrants):
    """Grants 100 to 139 alone."""

    def _frame(self, gref: int, write: bool) -> int:
        if gref >= 100 + GRANTED:
            raise GrantError(f"grant {gref} gives no access")
        return super()._frame(gref, write)


@dataclass
class Played:
    """What is left of a script."""

    broken: str
    taken: int
    answered: int
    refused: str
    jobs: list[Job] = field(default_factory=list)


class Player:
    def __init__(self, *, pages: int = 1, readonly: bool = False, persistent: bool = False) -> None:
        self.front = Frontend(SECTORS * 512, readonly, pages)
        self._readonly = readonly
        self.grants = self.front.grants = FewGrants()
        self.kept = PersistentGrants(self.grants, most=5) if persistent else None
        self._tags = iter(range(1, 1 << 30))
        self.front.ring = BlockRing(self.front.memory, self.front.frames, self.kept or self.grants, SECTORS * 512, readonly, self._tags)
        self.front.disk[:] = bytes(range(256)) * (SECTORS * 2)
        for frame in range(GRANTED, 64):
            self.front.memory[frame * 4096 : (frame + 1) * 4096] = CANARY
        self.jobs: list[Job] = []

    def play(self, script: str) -> Played:
        for line in script.splitlines():
            words = line.partition("#")[0].split()
            if words:
                self._guarded(words)
        ring, counters = self.front.ring, self.front.ring.counters
        played = Played(ring.broken, ring.req_cons, ring.rsp_prod, counters.refused, list(self.jobs))
        ring.abandon()
        assert not ring.in_flight
        if self.kept is not None:
            assert len(self.kept.kept) <= 5
            self.kept.release()
        assert not self.grants.held
        return played

    def _guarded(self, words: list[str]) -> None:
        """An action, and what must hold after it whatever it was."""
        front, ring = self.front, self.front.ring
        fixed = {gref - 100: bytes(front.data(gref)) for gref in self.grants.readonly if gref < 100 + GRANTED}
        was_broken, told = ring.broken, ring.rsp_prod
        self._act(words[0], words[1:])
        assert ring.in_flight == len(self.jobs) <= ring.size
        assert ring.req_cons - ring.rsp_prod & 0xFFFFFFFF <= ring.size
        if was_broken:
            assert ring.broken and (words[0] in ("finish", "save") or ring.rsp_prod == told)
        for job in self.jobs:
            assert job.offset >= 0 and job.offset + job.size <= SECTORS * 512
            assert not (self._readonly and job.kind in (BLKIF_OP_WRITE, BLKIF_OP_DISCARD)) and len(job.data) in (0, job.size)
        assert bytes(front.memory[GRANTED * 4096 :]) == CANARY * (64 - GRANTED), "a frame that was never granted"
        if words[0] in ("take", "now", "finish"):
            for frame, before in fixed.items():
                kept = self.kept is not None and frame + 100 in self.kept.kept
                assert kept or frame in front.frames or bytes(front.data(frame + 100)) == before, "a frame that was granted read-only"

    def _act(self, name: str, args: list[str]) -> None:
        front, ring = self.front, self.front.ring
        if name == "request":
            operation, ident, sector = (int(word, 0) for word in args[:3])
            front.request(operation, ident, sector, *(_segment(word) for word in args[3:14]))
        elif name == "indirect":
            operation, ident, sector, count, gref = (int(word, 0) for word in args[:5])
            front.indirect(operation, ident, sector, [_segment(word) for word in args[5:]], 100 + (gref - 100) % GRANTED)
            front._poke(RING_HEADER + (front.req_prod - 1) % ring.size * SLOT + 2, (count & 0xFFFF).to_bytes(2, "little"))
        elif name == "discard":
            front.discard(*(int(word, 0) for word in args))
        elif name == "raw":
            front.put(bytes.fromhex(args[0])[:SLOT])
        elif name == "change":
            front._poke(RING_HEADER + int(args[0], 0) % ring.size * SLOT, bytes.fromhex(args[1])[:SLOT])
        elif name == "set":
            front.set(_FIELDS[args[0]], int(args[1], 0))
            if args[0] == "req_prod":
                front.req_prod = int(args[1], 0) & 0xFFFFFFFF
        elif name == "jump":
            front.req_prod = front.req_prod + int(args[0], 0) & 0xFFFFFFFF
            front.set(REQ_PROD, front.req_prod)
        elif name == "scribble":
            at, data = int(args[0], 0) % GRANTED * 4096 + int(args[1], 0) % 4096, bytes.fromhex(args[2])
            data = data[: GRANTED * 4096 - at]
            front.memory[at : at + len(data)] = data
        elif name in ("revoke", "readonly", "grant"):
            self._grant(name, int(args[0], 0))
        elif name in ("take", "now"):
            self.jobs += ring.take(self._do_now if name == "now" else None)
            ring.push()
        elif name == "finish":
            if self.jobs:
                self._finish(self.jobs.pop(int(args[0], 0) % len(self.jobs)), len(args) > 1)
        elif name == "save":
            ring.slots()
            self.jobs = ring.load(ring.save())
            ring.push()
        else:
            raise ValueError(f"no action {name!r}")

    def _grant(self, name: str, gref: int) -> None:
        if name == "revoke":
            self.grants.revoked.add(gref)
        elif name == "readonly":
            self.grants.readonly.add(gref)
        else:
            self.grants.revoked.discard(gref)

    def _do_now(self, kind: int, offset: int, size: int, views: list[memoryview]) -> bool:
        assert sum(len(view) for view in views) == size and offset + size <= len(self.front.disk)
        assert kind == BLKIF_OP_READ or (kind == BLKIF_OP_WRITE and not self._readonly)
        at = offset
        for view in views:
            if kind == BLKIF_OP_READ:
                view[:] = self.front.disk[at : at + len(view)]
            else:
                self.front.disk[at : at + len(view)] = view
            at += len(view)
        return offset % 1024 == 0  # some are not in the host's memory

    def _finish(self, job: Job, fails: bool) -> None:
        if fails:
            self.front.ring.finish(job.tag, "the disk failed")
        else:
            self.front.do(job)
        assert not self.front.ring.finish(job.tag, "", b"a second answer")
        self.front.ring.push()


def _segment(word: str) -> tuple[int, int, int]:
    gref, _, sectors = word.partition(":")
    first, _, last = sectors.partition("-")
    return int(gref, 0) & 0xFFFFFFFF, int(first, 0) & 0xFF, int(last, 0) & 0xFF
