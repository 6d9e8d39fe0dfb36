"""Page tables under direct paging: a guest writes none of its tables itself; Xen checks every entry and writes it.

Follows xen/arch/x86/mm.c (get_page_type, promote_l1_table … promote_l4_table, mod_l1_entry …). A table is validated as a whole
when it is first used as one, entry by entry afterwards; each entry holds a reference on the frame it names. Entries are adjusted
on their way in, as Xen does (adjust_guest_l1e … l4e):

    USER           added everywhere: the guest kernel runs in ring 3 (with GUEST_KERNEL on leaves that had none, GLOBAL on the others)
    ACCESSED       added in L4 tables
    slots 256–271  of an L4 table are the hypervisor's own

and as Xen does not, once, in the tables that the domain is built with (`defer_execution`):

    NX + LAZY_NX   on leaves that map no text of the kernel: such a page is executable from its first execution on (`executed`).
                   Stores to pages mapped executable are 4–10 times slower on this core, and the tables a guest begins with
                   have no NX anywhere. Entries that the guest writes are left as it wrote them.

`stale` is set whenever a translation that the processor may have cached has changed; the caller flushes before the guest runs on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from emulator.abi.errno import EINVAL
from emulator.abi.xen import (
    ACCESSED,
    DIRTY,
    FRAME_MASK,
    GLOBAL,
    GUEST_KERNEL,
    NX,
    PCD,
    PRESENT,
    PSE,
    PWT,
    RW,
    USER,
    XEN_L4_FIRST,
    XEN_L4_LAST,
)
from emulator.hypervisor.memory.frames import GUEST, L1, L2, L4, NONE, SEG_DESC, SHARED, TYPE_NAMES, WRITABLE, FrameTable
from emulator.hypervisor.memory.leaves import L1_DISALLOWED, Leaves
from emulator.hypervisor.refusal import Refusal
from emulator.machine.memory import MachineMemory

LAZY_NX: Final = 1 << 53
"""A software-available bit: this NX is ours and goes at the first execution."""
UPPER_DISALLOWED: Final = PWT | PCD | PSE | GLOBAL
L1_SAME: Final = FRAME_MASK | PRESENT | RW | L1_DISALLOWED  # what a new entry may not change without a new check (FASTPATH_FLAG_WHITELIST)
UPPER_SAME: Final = FRAME_MASK | PRESENT | RW | UPPER_DISALLOWED & ~GLOBAL
_KERNEL: Final = USER | GUEST_KERNEL

_U64 = np.uint64
_N_PRESENT = _U64(PRESENT)
_CACHED = PRESENT | ACCESSED
"""The processor caches no entry without both."""
_RIGHTS = PRESENT | RW | USER | ACCESSED | DIRTY


class PageTables(Leaves):
    """The tables of one domain. `xen_slots`: the 16 L4 entries of the hypervisor's range, written into every L4."""

    def __init__(self, memory: MachineMemory, frames: FrameTable, xen_slots: tuple[int, ...]) -> None:
        super().__init__(frames)
        self._words, self._quads = memory.words, memory.quads
        self._xen_slots = xen_slots
        self.descriptor_check: Callable[[int], int] = lambda descriptor: descriptor
        """The descriptor as the guest may have it, or Refusal (check_descriptor)."""

    # --- types ---------------------------------------------------------------------------------------------------------------

    def get_type(self, mfn: int, kind: int) -> None:
        """One more use of frame `mfn` as `kind`; the first validates. Raises Refusal."""
        frames = self._frames
        if mfn >= frames.frames or (frames.owner[mfn] != GUEST and not (kind == WRITABLE and frames.owner[mfn] == SHARED)):
            raise Refusal(EINVAL, f"frame {mfn:#x} is not the domain's own")
        current = frames.type[mfn]
        if frames.count[mfn]:
            if current != kind:
                raise Refusal(EINVAL, f"frame {mfn:#x} is {frames.describe(mfn)}, not to be used as {TYPE_NAMES[kind]}")
        elif kind != WRITABLE:
            # A writable translation of this frame may still be cached from its last use.
            self.stale = True
            frames.type[mfn], frames.count[mfn] = kind, 1  # before its entries: a table may name itself
            frames.linear[mfn] = 0
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
            if frames.leaving:
                self.gone(mfn)

    def _validate(self, mfn: int, kind: int) -> None:
        if kind == L1:
            self._validate_l1(mfn)
        elif kind == SEG_DESC:
            self._validate_descriptors(mfn)
        else:
            self._validate_upper(mfn, kind)

    def _validate_descriptors(self, mfn: int) -> None:
        """validate_segdesc_page: each is fixed up where it stands."""
        words, base = self._words, mfn << 9
        for index in np.flatnonzero(self._quads[base : base + 512]).tolist():
            words[base + index] = self.descriptor_check(words[base + index])

    def _validate_l1(self, mfn: int) -> None:
        table = self._quads[mfn << 9 : (mfn + 1) << 9]
        if int(np.bitwise_and.reduce(table)) & PRESENT:
            present, entries = None, table.copy()
        else:
            present = np.flatnonzero(table & _N_PRESENT)
            if not present.size:
                return
            entries = table[present]
        if not self.take_leaves(entries):
            # One by one, for the reason and the order: nothing was taken by the failed attempt.
            for index in range(512) if present is None else present.tolist():
                self.check_leaf(self._words[mfn << 9 | index], f"L1 table {mfn:#x} entry {index}")
            raise Refusal(EINVAL, f"L1 table {mfn:#x} cannot be validated")
        self.adjust(entries)
        if present is None:
            table[:] = entries
        else:
            table[present] = entries

    def _validate_upper(self, mfn: int, kind: int) -> None:
        words, base = self._words, mfn << 9
        table = self._quads[base : base + 512]
        done: list[int] = []
        add = USER | ACCESSED if kind == L4 else USER
        try:
            for index in np.flatnonzero(table & _N_PRESENT).tolist():
                if kind == L4 and XEN_L4_FIRST <= index <= XEN_L4_LAST:
                    continue
                entry = words[base + index]
                done.append(self._get_upper(entry, kind, mfn))
                words[base + index] = entry | add
        except Refusal:
            for target in done:
                self._put_upper(target, kind, mfn)
            raise
        if kind == L4:
            for offset, entry in enumerate(self._xen_slots):
                words[base + XEN_L4_FIRST + offset] = entry

    def _get_upper(self, entry: int, kind: int, mfn: int) -> int:
        """A reference for an entry of an L2–L4 table; returns the frame it names."""
        if entry & UPPER_DISALLOWED:
            what = "a superpage" if entry & PSE else "bits that are the hypervisor's"
            raise Refusal(EINVAL, f"entry {entry:#x} of {TYPE_NAMES[kind]} {mfn:#x} asks for {what}")
        target = (entry & FRAME_MASK) >> 12
        frames = self._frames
        if target < frames.frames and frames.count[target] and frames.type[target] == kind:
            self._get_linear(entry, target, kind, mfn)
        else:
            self.get_type(target, kind - 1)
        return target

    def _get_linear(self, entry: int, target: int, kind: int, mfn: int) -> None:
        """A table named by one of its own level, or by itself: read-only, and never two deep (get_l4_linear_pagetable)."""
        frames = self._frames
        if entry & RW:
            raise Refusal(EINVAL, f"entry {entry:#x} of {TYPE_NAMES[kind]} {mfn:#x} maps a {TYPE_NAMES[kind]} writable")
        if target == mfn:
            return
        if frames.owner[target] != GUEST or not 0 <= frames.linear[mfn] < 32767 or not -32768 < frames.linear[target] <= 0:
            raise Refusal(EINVAL, f"entry {entry:#x} of {TYPE_NAMES[kind]} {mfn:#x}: linear tables would name linear tables")
        frames.linear[mfn] += 1
        frames.linear[target] -= 1
        frames.count[target] += 1

    def _put_upper(self, target: int, kind: int, mfn: int) -> None:
        if target == mfn:
            return
        frames = self._frames
        if frames.type[target] == kind:
            frames.linear[mfn] -= 1
            frames.linear[target] += 1
        self.put_type(target)

    def _release(self, mfn: int, kind: int) -> None:
        base = mfn << 9
        table = self._quads[base : base + 512]
        if kind == L1:
            entries = table if int(np.bitwise_and.reduce(table)) & PRESENT else table[(table & _N_PRESENT) != 0]
            if entries.size:
                self.drop_leaves(entries)
            return
        for index in np.flatnonzero(table & _N_PRESENT).tolist():
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
            self._write_upper(mfn, kind, index, value, preserve_ad)
        else:
            raise Refusal(EINVAL, f"frame {mfn:#x} is no page table but {TYPE_NAMES[kind]}")

    def write_l1(self, at: int, value: int, preserve_ad: bool = False) -> None:
        """Replace the L1 entry at 64-bit word `at` of the machine memory."""
        words = self._words
        old = words[at]
        if value & PRESENT:
            if not value & USER:
                value |= _KERNEL
            elif not value & GUEST_KERNEL:
                value |= GLOBAL
            changed = (old ^ value) & L1_SAME
            if changed:
                frames = self._frames
                target = (value & FRAME_MASK) >> 12
                if value & L1_DISALLOWED or target >= frames.frames or frames.owner[target] not in (GUEST, SHARED):
                    self.check_leaf(value, "L1 entry")
                if value & RW:
                    if frames.count[target] and frames.type[target] != WRITABLE:
                        self.check_leaf(value, "L1 entry")
                    frames.type[target] = WRITABLE
                    frames.count[target] += 1
                else:
                    frames.readers[target] += 1
                if old & PRESENT:
                    self.put_leaf(old)
            if preserve_ad:
                value |= old & (ACCESSED | DIRTY)
        elif old & PRESENT:
            self.put_leaf(old)
        words[at] = value
        if old & _CACHED == _CACHED and ((old ^ value) & FRAME_MASK or old & ~value & _RIGHTS or value & ~old & NX):
            # A cached translation that allows less than the entry does no harm: the processor walks again before it faults.
            self.stale = True

    def write_leaves(self, at: NDArray[np.int64], values: NDArray[np.uint64], preserve_ad: bool) -> bool:
        """Replace many L1 entries (at different words) at once; False when one of them wants a closer look: nothing has happened then.

        That all succeed does not depend on their order: an L1 entry takes and gives no type but WRITABLE."""
        frames, quads = self._frames, self._quads
        if frames.leaving:
            return False
        old, new = quads[at], values.copy()
        was, now = (old & _N_PRESENT) != 0, (new & _N_PRESENT) != 0
        if now.all():
            self.adjust(new)
        elif now.any():
            adjusted = new[now]
            self.adjust(adjusted)
            new[now] = adjusted
        changed = ((old ^ new) & _U64(L1_SAME)) != 0
        fresh = new[now & changed]
        if fresh.size and not self.take_leaves(fresh):
            return False
        gone = old[was & (changed | ~now)]
        if gone.size:
            self.drop_leaves(gone)
        if preserve_ad:
            new[now] |= old[now] & _U64(ACCESSED | DIRTY)
        quads[at] = new
        if ((old & _U64(PRESENT | ACCESSED)) == _U64(PRESENT | ACCESSED)).any():
            self.stale = True
        return True

    def _write_upper(self, mfn: int, kind: int, index: int, value: int, preserve_ad: bool) -> None:
        if kind == L4 and XEN_L4_FIRST <= index <= XEN_L4_LAST:
            raise Refusal(EINVAL, f"L4 slot {index} is the hypervisor's")
        at = mfn << 9 | index
        old = self._words[at]
        if value & PRESENT:
            if value & UPPER_DISALLOWED:
                self._get_upper(value, kind, mfn)  # which refuses it
            value |= USER | ACCESSED if kind == L4 else USER
            same = not (old ^ value) & UPPER_SAME
            if not same:
                self._get_upper(value, kind, mfn)
            self._words[at] = value | (old & (ACCESSED | DIRTY) if preserve_ad else 0)
            if old & PRESENT and not same:
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
