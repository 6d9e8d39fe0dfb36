"""What each machine frame of a domain is used for, and how often: Xen's page_info, reduced to owner, type and two counts.

A frame is at any moment of one type with a count of its uses as that type (asm-x86/mm.h, PGT_*):

    NONE       nobody uses it in a typed way; the next use decides
    L1 … L4    a validated page table; its count is the entries of higher tables (and the pin, and CR3) that name it
    SEG_DESC   a validated descriptor-table page
    WRITABLE   mapped writable that many times

Types exclude each other while the count is above zero: a page table is never mapped writable. That one rule keeps a guest out of
its own page tables. `readers` counts the uses that ask for no type: read-only mappings, and the grants of it that others use. Xen's
general count (PGC_count_mask) is the sum of both and 1 for the allocation. A frame that its domain gives back while it is in use is
`leaving`: still the domain's, and gone with its last use (PGC_allocated clear). Both counts of a frame lie side by side in `tally`, so
that an entry's index there (`2 * mfn + RW`) says which of them it holds: all leaves of a table are counted in one pass.

A table of level 2 to 4 may be validated in part only, between two pieces of a long hypercall (PGT_partial): `partial[mfn]` is then
how many of its entries hold their references (nr_validated_ptes), and whether the next one names a table that is itself partial
(PTF_partial_set). Its count is 1, which is its own: nobody uses it until it is whole, nobody may use it as anything else.
`unfinished` are partial tables that nobody wants any more: they are to be let go before anything else is begun (old_guest_table;
Xen has one a vCPU, which comes to the same where vCPUs take turns).

`executable` marks the frames that some L1 entry has let be executed since they were the domain's: what is written into one of them may
be code that the core has translated, whatever mapping it is written through.

`linear` is Xen's linear_pt_count: above zero, so many entries of this table name tables of its own level; below, it is named so.
"""

from __future__ import annotations

from array import array

import numpy as np
from numpy.typing import NDArray

NONE, L1, L2, L3, L4, SEG_DESC, WRITABLE = range(7)
TYPE_NAMES = ("none", "L1 table", "L2 table", "L3 table", "L4 table", "descriptor page", "writable")
XEN, GUEST, SHARED, FREE, FOREIGN = range(5)
"""Owners: the hypervisor itself; the guest; Xen's but shared with the guest; nobody (ballooned out, not yet populated); another
domain, whose granted frame is seen through this one."""
OWNER_NAMES = ("Xen", "the domain", "Xen, shared", "nobody", "another domain")

Saved = tuple[bytes, bytes, bytes, bytes, bytes, tuple[int, ...], tuple[tuple[int, tuple[int, bool]], ...], tuple[int, ...], bytes]


class FrameTable:
    """Types, counts, pins and owners of `frames` machine frames: plain arrays for single entries, NumPy views of the same bytes for whole tables."""

    def __init__(self, frames: int) -> None:
        self.frames = frames
        self.type = bytearray(frames)
        pairs = memoryview(array("i", bytes(8 * frames)))
        self.readers, self.count = pairs[0::2], pairs[1::2]
        self.linear = array("h", bytes(2 * frames))
        self.pinned = bytearray(frames)
        self.owner = bytearray(frames)
        self.executable = bytearray(frames)
        self.leaving: set[int] = set()
        self.partial: dict[int, tuple[int, bool]] = {}
        self.unfinished: list[int] = []
        self.types: NDArray[np.uint8] = np.frombuffer(self.type, dtype=np.uint8)
        self.code: NDArray[np.uint8] = np.frombuffer(self.executable, dtype=np.uint8)
        self.tally: NDArray[np.int32] = np.frombuffer(pairs, dtype=np.int32)
        self.reads, self.counts = self.tally[0::2], self.tally[1::2]
        self.owners: NDArray[np.uint8] = np.frombuffer(self.owner, dtype=np.uint8)

    def owned(self, mfn: int) -> bool:
        """Whether the guest may name this frame in a mapping."""
        return mfn < self.frames and self.owner[mfn] in (GUEST, SHARED)

    def uses(self, mfn: int) -> int:
        """Xen's general count without the allocation."""
        return self.count[mfn] + self.readers[mfn]

    def share(self, mfn: int) -> None:
        """share_xen_page_with_guest, SHARE_rw: a frame of Xen's that the guest may map writable, and use as nothing else."""
        self.owner[mfn], self.type[mfn], self.count[mfn] = SHARED, WRITABLE, 1

    def describe(self, mfn: int) -> str:
        """What stands in the way of another use, for people."""
        kind, count = TYPE_NAMES[self.type[mfn]], self.count[mfn]
        if mfn in self.partial:
            return f"a {kind} validated in part"
        return f"{'mapped' if self.type[mfn] == WRITABLE else 'a'} {kind} (used {count} time{'s' if count != 1 else ''})"

    def save(self) -> Saved:
        return (bytes(self.type), self.tally.tobytes(), bytes(self.pinned), bytes(self.owner), self.linear.tobytes(),
                tuple(sorted(self.leaving)), tuple(sorted(self.partial.items())), tuple(self.unfinished),
                bytes(self.executable))  # fmt: skip

    def load(self, state: Saved) -> None:
        kinds, tally, pins, owners, linear, leaving, partial, unfinished, self.executable[:] = state
        self.type[:] = kinds
        self.tally[:] = np.frombuffer(tally, dtype=np.int32)
        self.linear[:] = array("h", linear)
        self.pinned[:] = pins
        self.owner[:] = owners
        self.leaving, self.partial, self.unfinished = set(leaving), dict(partial), list(unfinished)
