"""Page tables under direct paging: a guest writes none of its tables itself; Xen checks every entry and writes it.

Follows xen/arch/x86/mm.c (get_page_type, alloc_l1_table … alloc_l4_table, mod_l1_entry …). A table is validated as a whole when
it is first used as one, entry by entry afterwards; each entry holds a type reference on the frame it names. Entries are
adjusted on their way in, as Xen does:

    USER           added everywhere: the guest kernel runs in ring 3 (with GUEST_KERNEL on leaves that had none)
    slots 256–271  of an L4 table are the hypervisor's own

and as Xen does not, once, in the tables that the domain is built with (`defer_execution`):

    NX + LAZY_NX   on leaves that map no text of the kernel: such a page is executable from its first execution on (`executed`).
                   Stores to pages mapped executable are 4–10 times slower on this core, and the tables a guest begins with
                   have no NX anywhere. Entries that the guest writes are left as it wrote them.

`stale` is set whenever a translation that the processor may have cached has changed; the caller flushes before the guest runs on.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from emulator.abi.errno import EBUSY, EINVAL, EPERM
from emulator.abi.xen import (
    ACCESSED,
    DIRTY,
    FRAME_MASK,
    GUEST_KERNEL,
    NX,
    PRESENT,
    PSE,
    RW,
    USER,
    XEN_L4_FIRST,
    XEN_L4_LAST,
)
from emulator.hypervisor.memory.frames import GUEST, L1, L2, L4, NONE, SEG_DESC, SHARED, TYPE_NAMES, WRITABLE, FrameTable
from emulator.hypervisor.refusal import Refusal
from emulator.machine.memory import MachineMemory

LAZY_NX = 1 << 53
"""A software-available bit: this NX is ours and goes at the first execution."""

_U64 = np.uint64


class PageTables:
    """The tables of one domain. `xen_slots`: the 16 L4 entries of the hypervisor's range, written into every L4."""

    def __init__(self, memory: MachineMemory, frames: FrameTable, xen_slots: tuple[int, ...]) -> None:
        self._words, self._quads = memory.words, memory.quads
        self._frames = frames
        self._xen_slots = xen_slots
        self.stale = False
        self.descriptor_check: Callable[[int], None] = lambda mfn: None

    # --- types ---------------------------------------------------------------------------------------------------------------

    def get_type(self, mfn: int, kind: int) -> None:
        """One more use of frame `mfn` as `kind`; the first validates. Raises Refusal."""
        frames = self._frames
        if mfn >= frames.frames or (frames.owner[mfn] != GUEST and not (kind == WRITABLE and frames.owner[mfn] == SHARED)):
            raise Refusal(EINVAL, f"frame {mfn:#x} is not the domain's own")
        current = frames.type[mfn]
        if frames.count[mfn] and current != kind:
            raise Refusal(EBUSY if kind == WRITABLE else EINVAL,
                          f"frame {mfn:#x} is a {TYPE_NAMES[current]} (used {frames.count[mfn]} times), not to be a {TYPE_NAMES[kind]}")  # fmt: skip
        if not frames.count[mfn] and kind != WRITABLE:
            # A writable translation of this frame may still be cached from its last use.
            self.stale = True
            frames.type[mfn], frames.count[mfn] = kind, 1  # before its entries: a table may name itself
            try:
                self._validate(mfn, kind)
            except Refusal:
                frames.type[mfn], frames.count[mfn] = NONE, 0
                raise
            return
        frames.type[mfn] = kind
        frames.count[mfn] += 1

    def put_type(self, mfn: int) -> None:
        """One use less; a table that nobody uses any more gives up what its entries hold."""
        frames = self._frames
        frames.count[mfn] -= 1
        if not frames.count[mfn]:
            kind = frames.type[mfn]
            frames.type[mfn] = NONE
            if L1 <= kind <= L4:
                self.stale = True
                self._release(mfn, kind)

    def _validate(self, mfn: int, kind: int) -> None:
        if kind == L1:
            self._validate_l1(mfn)
        elif kind == SEG_DESC:
            self.descriptor_check(mfn)
        else:
            self._validate_upper(mfn, kind)

    def _validate_l1(self, mfn: int) -> None:
        frames = self._frames
        table = self._quads[mfn << 9 : (mfn + 1) << 9]
        present = np.flatnonzero(table & _U64(PRESENT))
        if not len(present):
            return
        entries = table[present]
        targets = ((entries & _U64(FRAME_MASK)) >> _U64(12)).astype(np.int64)
        if targets.max() >= frames.frames:
            raise Refusal(EINVAL, f"L1 table {mfn:#x} names frame {int(targets.max()):#x}, beyond the machine's end")
        owners = frames.owners[targets]
        foreign = np.flatnonzero((owners != GUEST) & (owners != SHARED))
        if len(foreign):
            raise Refusal(EPERM, f"L1 table {mfn:#x} names frame {int(targets[foreign[0]]):#x}, not the domain's own")
        writable = targets[(entries & _U64(RW)) != 0]
        busy = np.flatnonzero((frames.types[writable] != WRITABLE) & (frames.counts[writable] > 0))
        if len(busy):
            which = int(writable[busy[0]])
            raise Refusal(EBUSY, f"L1 table {mfn:#x} maps frame {which:#x} writable, a {TYPE_NAMES[frames.type[which]]}")
        frames.types[writable] = WRITABLE
        np.add.at(frames.counts, writable, 1)
        kernel = (entries & _U64(USER)) == 0
        entries[kernel] |= _U64(USER | GUEST_KERNEL)
        table[present] = entries

    def _validate_upper(self, mfn: int, kind: int) -> None:
        words, base = self._words, mfn << 9
        table = self._quads[base : base + 512]
        done: list[int] = []
        try:
            for index in np.flatnonzero(table & _U64(PRESENT)).tolist():
                if kind == L4 and XEN_L4_FIRST <= index <= XEN_L4_LAST:
                    continue
                entry = words[base + index]
                target = self._get_upper(entry, kind, mfn)
                done.append(target)
                words[base + index] = entry | USER
        except Refusal:
            for target in done:
                self._put_upper(target, kind, mfn)
            raise
        if kind == L4:
            for offset, entry in enumerate(self._xen_slots):
                words[base + XEN_L4_FIRST + offset] = entry

    def _get_upper(self, entry: int, kind: int, mfn: int) -> int:
        """A reference for an entry of an L2–L4 table; returns the frame it names."""
        if entry & PSE:
            raise Refusal(EINVAL, f"entry {entry:#x} of a {TYPE_NAMES[kind]} asks for a superpage")
        target = (entry & FRAME_MASK) >> 12
        if kind == L4 and target < self._frames.frames and self._frames.type[target] == L4 and self._frames.count[target]:
            # A linear (self) map: allowed read-only, and then it counts no type (get_linear_pagetable).
            if entry & RW:
                raise Refusal(EINVAL, f"L4 entry {entry:#x} maps an L4 table writable")
            return target
        self.get_type(target, kind - 1)
        return target

    def _put_upper(self, target: int, kind: int, mfn: int) -> None:
        if kind == L4 and self._frames.type[target] == L4:
            return
        self.put_type(target)

    def _release(self, mfn: int, kind: int) -> None:
        frames, base = self._frames, mfn << 9
        table = self._quads[base : base + 512]
        if kind == L1:
            writable = table[(table & _U64(PRESENT | RW)) == _U64(PRESENT | RW)]
            targets = ((writable & _U64(FRAME_MASK)) >> _U64(12)).astype(np.int64)
            np.subtract.at(frames.counts, targets, 1)
            freed = targets[frames.counts[targets] == 0]
            frames.types[freed] = NONE
            return
        for index in np.flatnonzero(table & _U64(PRESENT)).tolist():
            if kind == L4 and XEN_L4_FIRST <= index <= XEN_L4_LAST:
                continue
            self._put_upper((self._words[base + index] & FRAME_MASK) >> 12, kind, mfn)

    # --- single entries --------------------------------------------------------------------------------------------------

    def write_entry(self, mfn: int, index: int, value: int, preserve_ad: bool = False) -> None:
        """Replace entry `index` of table `mfn` (whatever level it is typed as). Raises Refusal and changes nothing then."""
        kind = self._frames.type[mfn]
        if kind == L1:
            self.write_l1(mfn << 9 | index, value, preserve_ad)
        elif L2 <= kind <= L4:
            self._write_upper(mfn, kind, index, value)
        else:
            raise Refusal(EINVAL, f"frame {mfn:#x} is no page table but a {TYPE_NAMES[kind]}")

    def write_l1(self, at: int, value: int, preserve_ad: bool = False) -> None:
        """Replace the L1 entry at 64-bit word `at` of the machine memory."""
        words, frames = self._words, self._frames
        old = words[at]
        if value & PRESENT:
            target = (value & FRAME_MASK) >> 12
            if not value & USER:
                value |= USER | GUEST_KERNEL
            if old & PRESENT and (old ^ value) & (FRAME_MASK | RW) == 0:
                pass  # same frame, same right to write: the reference stays
            else:
                if target >= frames.frames or frames.owner[target] not in (GUEST, SHARED):
                    raise Refusal(EPERM if target < frames.frames else EINVAL, f"L1 entry {value:#x} names frame {target:#x}, not the domain's own")
                if value & RW:
                    if frames.count[target] and frames.type[target] != WRITABLE:
                        raise Refusal(EBUSY, f"L1 entry {value:#x} maps frame {target:#x} writable, a {TYPE_NAMES[frames.type[target]]}")
                    frames.type[target] = WRITABLE
                    frames.count[target] += 1
                if old & (PRESENT | RW) == PRESENT | RW:
                    self._put_writable((old & FRAME_MASK) >> 12)
            if preserve_ad:
                value |= old & (ACCESSED | DIRTY)
        elif old & (PRESENT | RW) == PRESENT | RW:
            self._put_writable((old & FRAME_MASK) >> 12)
        words[at] = value
        if old & (PRESENT | ACCESSED) == PRESENT | ACCESSED:
            self.stale = True

    def _put_writable(self, mfn: int) -> None:
        frames = self._frames
        frames.count[mfn] -= 1
        if not frames.count[mfn]:
            frames.type[mfn] = NONE

    def _write_upper(self, mfn: int, kind: int, index: int, value: int) -> None:
        if kind == L4 and XEN_L4_FIRST <= index <= XEN_L4_LAST:
            raise Refusal(EINVAL, f"L4 slot {index} is the hypervisor's")
        at = mfn << 9 | index
        old = self._words[at]
        if value & PRESENT:
            if old & PRESENT and (old ^ value) & (FRAME_MASK | PRESENT | PSE | RW) == 0:
                self._words[at] = value | USER
            else:
                self._get_upper(value, kind, mfn)
                self._words[at] = value | USER
                if old & PRESENT:
                    self._put_upper((old & FRAME_MASK) >> 12, kind, mfn)
        else:
            self._words[at] = value
            if old & PRESENT:
                self._put_upper((old & FRAME_MASK) >> 12, kind, mfn)
        if old & PRESENT:
            self.stale = True

    def defer_execution(self, text: NDArray[np.bool_]) -> None:
        """Make every leaf without NX that maps no text (`text[mfn]`) executable only from its first execution on."""
        for mfn in np.flatnonzero(self._frames.types == L1).tolist():
            table = self._quads[mfn << 9 : (mfn + 1) << 9]
            here = np.flatnonzero((table & _U64(PRESENT | NX)) == _U64(PRESENT))
            targets = ((table[here] & _U64(FRAME_MASK)) >> _U64(12)).astype(np.int64)
            table[here[~text[targets]]] |= _U64(NX | LAZY_NX)

    def executed(self, at: int) -> bool:
        """An execution fault on the L1 entry at word `at`: True when the NX was ours and is gone now."""
        entry = self._words[at]
        if entry & (PRESENT | LAZY_NX) != PRESENT | LAZY_NX:
            return False
        self._words[at] = entry & ~(NX | LAZY_NX)
        return True

    # --- pins --------------------------------------------------------------------------------------------------------------

    def pin(self, mfn: int, kind: int) -> None:
        self.get_type(mfn, kind)
        if self._frames.pinned[mfn]:
            self.put_type(mfn)
            raise Refusal(EINVAL, f"frame {mfn:#x} is pinned already")
        self._frames.pinned[mfn] = 1

    def unpin(self, mfn: int) -> None:
        if mfn >= self._frames.frames or not self._frames.pinned[mfn]:
            raise Refusal(EINVAL, f"frame {mfn:#x} is not pinned")
        self._frames.pinned[mfn] = 0
        self.put_type(mfn)
