"""The hypervisor's own frames in a domain's machine address space, and what they map.

    MFN 0            never used: a null entry names nothing
    1                shared_info
    2                Xen's page of every GDT: the flat ring-3 segments
    3                a page of zeros: vacant GDT slots
    4 …              page tables of the hypervisor's range
    …                the M2P: u64 pfn by mfn
    …                a reserve for frames shared with the guest on demand (grant tables and the like)
    first_guest …    the domain's own frames, a permutation of its PFNs
    …                a window for other domains' granted frames

The hypervisor's range of every L4 (slots 256–271, init_xen_l4_slots) points to the tables here:

    slot 256   0xffff800000000000   the M2P, readable by the guest
    slot 260   0xffff820000000000   per domain, the hypervisor's only: each vCPU's GDT and LDT, 128 KiB apart
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from emulator.abi.xen import (
    ACCESSED,
    DIRTY,
    GDT_PAGES,
    M2P_L4_SLOT,
    NX,
    PERDOMAIN_L4_SLOT,
    PERDOMAIN_VIRT_START,
    PRESENT,
    RESERVED_GDT_PAGE,
    RW,
    USER,
    XEN_L4_FIRST,
)
from emulator.machine.memory import MachineMemory

INVALID_M2P = (1 << 64) - 1
RESERVE_FRAMES = 128
WINDOW_FRAMES = 1024
_FLAT_SEGMENTS = {0x20 >> 3: 0x00CFFB000000FFFF, 0x28 >> 3: 0x00CFF3000000FFFF, 0x30 >> 3: 0x00AFFB000000FFFF}
_SUPERVISOR = PRESENT | RW | ACCESSED | DIRTY | NX
_TABLE = PRESENT | RW | USER | ACCESSED
_VCPU_PAGES = 32  # 16 of GDT, 16 of LDT
_PERDOMAIN_L1S = 8  # 16 vCPUs each


def hypervisor_frames(guest_frames: int) -> int:
    """Frames needed beside `guest_frames` (the domain's maximum)."""
    total = guest_frames + RESERVE_FRAMES + WINDOW_FRAMES + 64
    m2p = -(-total * 8 // 4096) + 1
    return 4 + 1 + 1 + -(-m2p // 512) + 2 + _PERDOMAIN_L1S + m2p + RESERVE_FRAMES + WINDOW_FRAMES


def permutation(count: int, base: int) -> NDArray[np.uint64]:
    """p2m of a new domain: PFN → MFN, never the same number twice and hardly ever in order.

    Blocks of 16 frames run backwards and are dealt out by a stride prime to their number."""
    pfns = np.arange(count, dtype=np.uint64)
    blocks = max(1, count // 16)
    stride = next(s for s in range(blocks * 5 // 8 | 1, 4 * blocks + 3, 2) if np.gcd(s, blocks) == 1)
    whole = blocks * 16
    block, inside = pfns // np.uint64(16), pfns % np.uint64(16)
    scattered = (block * np.uint64(stride) + np.uint64(blocks // 3)) % np.uint64(blocks) * np.uint64(16) + np.uint64(15) - inside
    return np.where(pfns < whole, scattered, pfns) + np.uint64(base)


class XenLayout:
    """Lays out a fresh machine memory. `m2p` is live: the guest reads the same words."""

    def __init__(self, memory: MachineMemory, guest_frames: int) -> None:
        self._memory = memory
        words = memory.words
        self.shared_info_mfn, self.gdt_mfn, self.zero_mfn = 1, 2, 3
        for index, descriptor in _FLAT_SEGMENTS.items():
            words[(self.gdt_mfn << 9) + index] = descriptor
        m2p_l3, m2p_l2 = 4, 5
        m2p_frames = -(-memory.frames * 8 // 4096)
        l1_count = -(-m2p_frames // 512)
        first_l1 = 6
        self._perdomain_l1 = first_l1 + l1_count + 2
        perdomain_l3, perdomain_l2 = first_l1 + l1_count, first_l1 + l1_count + 1
        first_m2p = self._perdomain_l1 + _PERDOMAIN_L1S
        self.m2p: NDArray[np.uint64] = memory.quads[first_m2p << 9 : (first_m2p << 9) + memory.frames]
        self.m2p[:] = np.uint64(INVALID_M2P)
        self._m2p_words = memory.words[first_m2p << 9 : (first_m2p << 9) + memory.frames]
        words[m2p_l3 << 9] = m2p_l2 << 12 | _TABLE
        for number in range(l1_count):
            words[(m2p_l2 << 9) + number] = first_l1 + number << 12 | _TABLE
        for number in range(m2p_frames):
            words[(first_l1 << 9) + number] = first_m2p + number << 12 | PRESENT | USER | ACCESSED | NX
        words[perdomain_l3 << 9] = perdomain_l2 << 12 | _TABLE & ~USER
        for number in range(_PERDOMAIN_L1S):
            words[(perdomain_l2 << 9) + number] = self._perdomain_l1 + number << 12 | _TABLE & ~USER
        self.reserve = list(range(first_m2p + m2p_frames, first_m2p + m2p_frames + RESERVE_FRAMES))
        self.first_guest = first_m2p + m2p_frames + RESERVE_FRAMES
        self.window = range(memory.frames - WINDOW_FRAMES, memory.frames)
        if self.first_guest + guest_frames > self.window.start:
            raise ValueError(f"{memory.frames} frames do not hold {guest_frames} of a guest")
        slots = [0] * 16
        slots[M2P_L4_SLOT - XEN_L4_FIRST] = m2p_l3 << 12 | _TABLE & ~RW
        slots[PERDOMAIN_L4_SLOT - XEN_L4_FIRST] = perdomain_l3 << 12 | _TABLE & ~USER
        self.xen_slots = tuple(slots)

    def set_m2p(self, mfn: int, pfn: int) -> None:
        self._m2p_words[mfn] = pfn

    def pfn_of(self, mfn: int) -> int:
        return self._m2p_words[mfn]

    def gdt_address(self, vcpu: int) -> int:
        """Linear address of a vCPU's GDT; its LDT follows 64 KiB later."""
        return PERDOMAIN_VIRT_START + vcpu * _VCPU_PAGES * 4096

    def map_gdt(self, vcpu: int, frames: tuple[int, ...]) -> None:
        """The guest's descriptor frames, zeros where it has none, Xen's own page last."""
        words, base = self._memory.words, (self._perdomain_l1 << 9) + vcpu * _VCPU_PAGES
        for page in range(RESERVED_GDT_PAGE):
            mfn = frames[page] if page < len(frames) else self.zero_mfn
            words[base + page] = mfn << 12 | _SUPERVISOR
        words[base + RESERVED_GDT_PAGE] = self.gdt_mfn << 12 | _SUPERVISOR

    def map_ldt(self, vcpu: int, page: int, mfn: int) -> None:
        """One page of the LDT (mfn 0: not present, so that the first use faults)."""
        at = (self._perdomain_l1 << 9) + vcpu * _VCPU_PAGES + GDT_PAGES + page
        self._memory.words[at] = mfn << 12 | _SUPERVISOR if mfn else 0

    def ldt_page(self, address: int) -> tuple[int, int] | None:
        """(vCPU, LDT page) when a linear address lies in the per-domain area's LDT part."""
        number = (address - PERDOMAIN_VIRT_START) >> 12
        if not 0 <= number < 512 * _PERDOMAIN_L1S or number % _VCPU_PAGES < GDT_PAGES:
            return None
        return number // _VCPU_PAGES, number % _VCPU_PAGES - GDT_PAGES
