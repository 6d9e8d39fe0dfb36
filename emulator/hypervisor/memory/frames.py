"""What each machine frame of a domain is used for, and how often: Xen's page_info, reduced to type and type count.

A frame is at any moment of one type with a count of its uses as that type (asm-x86/mm.h, PGT_*):

    NONE       nobody uses it in a typed way; the next use decides
    L1 … L4    a validated page table; its count is the entries of higher tables (and the pin, and CR3) that name it
    SEG_DESC   a validated descriptor-table page
    WRITABLE   mapped writable that many times

Types exclude each other while the count is above zero: a page table is never mapped writable. That one rule keeps a guest out of
its own page tables. Frames owned by Xen (`owner` 0) cannot be typed by a guest at all, but for those shared with it on purpose.
"""

from __future__ import annotations

from array import array

import numpy as np
from numpy.typing import NDArray

NONE, L1, L2, L3, L4, SEG_DESC, WRITABLE = range(7)
TYPE_NAMES = ("none", "L1 table", "L2 table", "L3 table", "L4 table", "descriptor page", "writable")
XEN, GUEST, SHARED, FREE = range(4)
"""Owners: the hypervisor itself; the guest; Xen's but shared with the guest; nobody (ballooned out, not yet populated)."""


class FrameTable:
    """Types, counts, pins and owners of `frames` machine frames: plain arrays for single entries, NumPy views of the same bytes for whole tables."""

    def __init__(self, frames: int) -> None:
        self.frames = frames
        self.type = bytearray(frames)
        self.count = array("i", bytes(4 * frames))
        self.pinned = bytearray(frames)
        self.owner = bytearray(frames)
        self.types: NDArray[np.uint8] = np.frombuffer(self.type, dtype=np.uint8)
        self.counts: NDArray[np.int32] = np.frombuffer(self.count, dtype=np.int32)
        self.owners: NDArray[np.uint8] = np.frombuffer(self.owner, dtype=np.uint8)

    def owned(self, mfn: int) -> bool:
        """Whether the guest may name this frame in a mapping."""
        return mfn < self.frames and self.owner[mfn] in (GUEST, SHARED)

    def save(self) -> tuple[bytes, bytes, bytes, bytes]:
        return bytes(self.type), self.count.tobytes(), bytes(self.pinned), bytes(self.owner)

    def load(self, state: tuple[bytes, bytes, bytes, bytes]) -> None:
        kinds, counts, pins, owners = state
        self.type[:] = kinds
        self.counts[:] = np.frombuffer(counts, dtype=np.int32)
        self.pinned[:] = pins
        self.owner[:] = owners
