"""Block requests: decoded from a private copy of their slot, checked before anything else looks at them."""

from __future__ import annotations

from typing import Final, NamedTuple

from emulator.abi.blkif import (
    BLKIF_MAX_SEGMENTS_PER_REQUEST,
    BLKIF_OP_DISCARD,
    BLKIF_OP_FLUSH_DISKCACHE,
    BLKIF_OP_INDIRECT,
    BLKIF_OP_NAMES,
    BLKIF_OP_READ,
    BLKIF_OP_WRITE,
    BLKIF_RSP_EOPNOTSUPP,
    BLKIF_RSP_ERROR,
    DISCARD,
    INDIRECT,
    REQUEST,
    SECTOR,
    SECTORS_PER_FRAME,
    SEGMENT,
    SEGMENTS_PER_INDIRECT_PAGE,
)
from emulator.dom0.backends.ring import FRAME

MAX_INDIRECT: Final = 256
"""Segments of an indirect request, xen-blkback's MAX_INDIRECT_SEGMENTS: 1 MiB. Linux's frontend asks for 32 unless told otherwise."""
_WHOLE: Final = SECTORS_PER_FRAME - 1 << 8  # a segment's second word when it is a whole frame: sectors 0 to 7

READ: Final = BLKIF_OP_READ
WRITE: Final = BLKIF_OP_WRITE
FLUSH: Final = BLKIF_OP_FLUSH_DISKCACHE
DISCARD_OP: Final = BLKIF_OP_DISCARD


class BadRequest(Exception):
    """A request that is answered with an error at once; the device goes on."""

    def __init__(self, why: str, status: int = BLKIF_RSP_ERROR) -> None:
        super().__init__(why)
        self.status = status


class Request(NamedTuple):
    """What is to be done. `operation`: as it came, for the response; `kind`: READ, WRITE, FLUSH or DISCARD_OP. Bytes, not sectors.

    `grefs`: a grant for each segment; `spans`: its first byte in the frame and its bytes, None when all are whole frames."""

    ident: int
    operation: int
    kind: int
    offset: int
    size: int
    grefs: tuple[int, ...] = ()
    spans: tuple[tuple[int, int], ...] | None = None
    indirect: tuple[int, ...] = ()  # grefs of pages of segments, not yet read
    indirect_count: int = 0

    def text(self) -> str:
        """For people: `write 8 sectors at 2048`."""
        name = BLKIF_OP_NAMES[self.kind]
        if self.indirect_count:
            return f"{name} {self.indirect_count} indirect segments at {self.offset // SECTOR}"
        return f"{name} {self.size // SECTOR} sectors at {self.offset // SECTOR}" if self.size or self.kind != FLUSH else name


def ident_of(slot: bytes) -> tuple[int, int]:
    """(id, operation) as the response repeats them; for an indirect request the inner operation, as Linux's frontend wants it."""
    return int.from_bytes(slot[8:16], "little"), slot[1] if slot[0] == BLKIF_OP_INDIRECT else slot[0]


def decode(slot: bytes) -> Request:
    """A request from the copy of its slot; segments of an indirect one are still to be read. Raises BadRequest."""
    operation = slot[0]
    if operation in (BLKIF_OP_READ, BLKIF_OP_WRITE, BLKIF_OP_FLUSH_DISKCACHE):
        _, count, _, ident, sector, table = REQUEST.unpack_from(slot)
        if count > BLKIF_MAX_SEGMENTS_PER_REQUEST or (not count and operation != BLKIF_OP_FLUSH_DISKCACHE):
            raise BadRequest(f"{BLKIF_OP_NAMES[operation]} of {count} segments")
        grefs, spans, size = _segments(table, count)
        # The sector of an empty flush means nothing.
        return Request(ident, operation, operation, sector * SECTOR if count else 0, size, grefs, spans)
    if operation == BLKIF_OP_DISCARD:
        _, _, _, ident, sector, sectors = DISCARD.unpack_from(slot)
        return Request(ident, operation, DISCARD_OP, sector * SECTOR, sectors * SECTOR)
    if operation == BLKIF_OP_INDIRECT:
        _, inner, count, ident, sector, _, *pages = INDIRECT.unpack_from(slot)
        if inner not in (BLKIF_OP_READ, BLKIF_OP_WRITE):
            raise BadRequest(f"an indirect {BLKIF_OP_NAMES[inner] if inner < len(BLKIF_OP_NAMES) else inner}")
        if not 0 < count <= MAX_INDIRECT:
            raise BadRequest(f"{count} indirect segments")
        used = -(-count // SEGMENTS_PER_INDIRECT_PAGE)
        return Request(ident, inner, inner, sector * SECTOR, 0, indirect=tuple(pages[:used]), indirect_count=count)
    name = BLKIF_OP_NAMES[operation] if operation < len(BLKIF_OP_NAMES) else f"operation {operation}"
    raise BadRequest(f"{name} is not offered", BLKIF_RSP_EOPNOTSUPP)


def with_segments(request: Request, table: bytes) -> Request:
    """An indirect request with its segments, from a copy of the pages that hold them. Raises BadRequest."""
    grefs, spans, size = _segments(table, request.indirect_count)
    return Request(request.ident, request.operation, request.kind, request.offset, size, grefs, spans)


def _segments(table: bytes, count: int) -> tuple[tuple[int, ...], tuple[tuple[int, int], ...] | None, int]:
    """`grefs`, `spans` and bytes of the first `count` segments of a table."""
    words = memoryview(table)[: count * SEGMENT.size].cast("I").tolist()
    grefs, sectors = tuple(words[::2]), words[1::2]
    if sectors.count(_WHOLE) == count:
        return grefs, None, count * FRAME
    spans = []
    for word in sectors:
        first, last = word & 0xFF, word >> 8 & 0xFF
        if first > last or last >= SECTORS_PER_FRAME:
            raise BadRequest(f"a segment from sector {first} to {last} of a frame")
        spans.append((first * SECTOR, (last - first + 1) * SECTOR))
    return grefs, tuple(spans), sum([size for _, size in spans])


def check_range(request: Request, capacity: int, readonly: bool) -> None:
    """Raises BadRequest when the request reaches beyond the disk or writes to a read-only one."""
    if readonly and request.kind in (WRITE, DISCARD_OP):
        raise BadRequest(f"{BLKIF_OP_NAMES[request.kind]} to a read-only disk")
    if readonly and request.kind == FLUSH and request.size:
        raise BadRequest("a flush with data to a read-only disk")
    if request.kind == FLUSH and not request.size:
        return
    # Python's integers don't wrap: a sector number near 2**64 is simply too large.
    if request.offset + request.size > capacity:
        raise BadRequest(f"{request.text()}, the disk has {capacity // SECTOR}")
