"""A domain that grants its frames to itself: entries written, mapped and unmapped by hypercalls of a Tiny."""

from __future__ import annotations

import struct

from emulator.abi import grant_table as abi
from tests.unit.domains import DATA, Tiny


def entry_flags(guest: Tiny, ref: int) -> int:
    """The flags of a version 1 entry, with what Xen has marked there."""
    (flags,) = struct.unpack_from("<H", guest.domain.memory.bytes, (guest.domain.grants.shared[0] << 12) + 8 * ref)
    return int(flags)


def grant(guest: Tiny, ref: int, pfn: int, flags: int = abi.GTF_permit_access) -> None:
    table = guest.domain.grants.shared[0] << 12
    struct.pack_into("<HHI", guest.domain.memory.bytes, table + 8 * ref, flags, 1, guest.mfn(pfn))


def map_grant(guest: Tiny, address: int, ref: int, flags: int = abi.GNTMAP_host_map) -> tuple[int, int]:
    """(status, handle)."""
    at = guest.put(DATA, struct.pack("<QIIHhIQ", address, flags, ref, 1, 99, 0xABCD, 0))
    assert guest.call("grant_table_op", abi.GNTTABOP_map_grant_ref, at, 1) == 0
    status, handle = struct.unpack("<hI", guest.get(DATA, 6, 18))
    return int(status), int(handle)


def unmap_grant(guest: Tiny, address: int, handle: int, device: int = 0) -> int:
    """The status."""
    at = guest.put(DATA, struct.pack("<QQIhxx", address, device, handle, 99))
    assert guest.call("grant_table_op", abi.GNTTABOP_unmap_grant_ref, at, 1) == 0
    return int(struct.unpack("<h", guest.get(DATA, 2, 20))[0])
