"""Block I/O rings (public/io/blkif.h, ring.h) and xenbus states (io/xenbus.h), for the x86_64 protocol: numbers and layouts.

    ring page   req_prod u32, req_event u32, rsp_prod u32, rsp_event u32, 48 bytes of padding, then slots of 112 bytes; a slot
                holds a request until its response overwrites it
"""

from __future__ import annotations

import struct
from typing import Final

from emulator.abi.ring import RING_HEADER

BLKIF_OP_READ: Final = 0
BLKIF_OP_WRITE: Final = 1
BLKIF_OP_WRITE_BARRIER: Final = 2
BLKIF_OP_FLUSH_DISKCACHE: Final = 3
BLKIF_OP_RESERVED_1: Final = 4
BLKIF_OP_DISCARD: Final = 5
BLKIF_OP_INDIRECT: Final = 6
BLKIF_OP_NAMES: Final = ("read", "write", "barrier", "flush", "reserved", "discard", "indirect")

BLKIF_RSP_OKAY: Final = 0
BLKIF_RSP_ERROR: Final = -1
BLKIF_RSP_EOPNOTSUPP: Final = -2

BLKIF_MAX_SEGMENTS_PER_REQUEST: Final = 11
BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST: Final = 8
SEGMENTS_PER_INDIRECT_PAGE: Final = 512

VDISK_CDROM: Final = 1
VDISK_REMOVABLE: Final = 2
VDISK_READONLY: Final = 4

SECTOR: Final = 512
"""Bytes of the protocol's sectors, whatever sector-size says."""
SECTORS_PER_FRAME: Final = 8

SLOT: Final = 112

REQUEST: Final = struct.Struct("<BBH4xQQ88s")
"""operation, nr_segments, handle, id, sector_number, segments."""
INDIRECT: Final = struct.Struct("<BBH4xQQH2x8I")
"""operation, indirect_op, nr_segments, id, sector_number, handle, indirect_grefs."""
DISCARD: Final = struct.Struct("<BBH4xQQQ")
"""operation, flag, handle, id, sector_number, nr_sectors."""
SEGMENT: Final = struct.Struct("<IBB2x")
"""gref, first_sect, last_sect."""
RESPONSE: Final = struct.Struct("<QBxh")
"""id, operation, status; four bytes of padding follow."""


def ring_slots(pages: int) -> int:
    """__RING_SIZE: the largest power of two of slots that fit."""
    return 1 << ((pages * 4096 - RING_HEADER) // SLOT).bit_length() - 1
