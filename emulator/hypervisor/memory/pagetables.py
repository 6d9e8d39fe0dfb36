"""Page tables under direct paging: a guest writes none of its tables itself; Xen checks every entry and writes it.

Follows xen/arch/x86/mm.c (mod_l1_entry … mod_l4_entry). A table is validated as a whole when it is first used as one (`promotion`),
entry by entry afterwards; each entry holds a reference on the frame it names. Entries are adjusted
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
    PRESENT,
    RW,
    USER,
    XEN_L4_FIRST,
    XEN_L4_LAST,
)
from emulator.hypervisor.memory.frames import GUEST, L1, L2, L4, SHARED, TYPE_NAMES, WRITABLE
from emulator.hypervisor.memory.leaves import L1_DISALLOWED, bits
from emulator.hypervisor.memory.promotion import UPPER_DISALLOWED, Promotion
from emulator.hypervisor.refusal import Refusal, Restart

LAZY_NX: Final = 1 << 53
"""A software-available bit: this NX is ours and goes at the first execution."""
L1_SAME: Final = FRAME_MASK | PRESENT | RW | L1_DISALLOWED  # what a new entry may not change without a new check (FASTPATH_FLAG_WHITELIST)
UPPER_SAME: Final = FRAME_MASK | PRESENT | RW | UPPER_DISALLOWED & ~GLOBAL
_KERNEL: Final = USER | GUEST_KERNEL

_U64 = np.uint64
_N_PRESENT = _U64(PRESENT)
_CACHED = PRESENT | ACCESSED
"""The processor caches no entry without both."""
_RIGHTS = PRESENT | RW | USER | ACCESSED | DIRTY


class PageTables(Promotion):
    """The tables of one domain."""

    # --- single entries --------------------------------------------------------------------------------------------------

    def write_entry(self, mfn: int, index: int, value: int, preserve_ad: bool = False) -> None:
        """Replace entry `index` of table `mfn` (whatever level it is typed as). Raises Refusal and changes nothing then, and Restart when
        the entry is to be written again; what the old one named may be left to `finish`."""
        kind = self._frames.type[mfn]
        if mfn in self._frames.partial:
            raise Refusal(EINVAL, f"frame {mfn:#x} is {self._frames.describe(mfn)}")
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
        elif old & PRESENT:
            self.put_leaf(old)
        if preserve_ad:
            value |= old & (ACCESSED | DIRTY)
        if value & (PRESENT | NX) == PRESENT:
            self._frames.executable[(value & FRAME_MASK) >> 12] = 1
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
            self.adjust(new, *bits(new))
        elif now.any():
            adjusted = new[now]
            self.adjust(adjusted, *bits(adjusted))
            new[now] = adjusted
        changed = ((old ^ new) & _U64(L1_SAME)) != 0
        fresh = new[now & changed]
        if fresh.size and not self.take_leaves(fresh, *bits(fresh)):
            return False
        if now.any():
            self.mark_code(new[now], 0)
        gone = old[was & (changed | ~now)]
        if gone.size:
            self.drop_leaves(gone)
        if preserve_ad:
            new |= old & _U64(ACCESSED | DIRTY)
        quads[at] = new
        if ((old & _U64(PRESENT | ACCESSED)) == _U64(PRESENT | ACCESSED)).any():
            self.stale = True
        return True

    def _write_upper(self, mfn: int, kind: int, index: int, value: int, preserve_ad: bool) -> None:
        if kind == L4 and XEN_L4_FIRST <= index <= XEN_L4_LAST:
            raise Refusal(EINVAL, f"L4 slot {index} is the hypervisor's")
        at = mfn << 9 | index
        old = self._words[at]
        same = False
        if value & PRESENT:
            adjusted = value | (USER | ACCESSED if kind == L4 else USER)
            same = not (value & UPPER_DISALLOWED or (old ^ adjusted) & UPPER_SAME)
            if not same:
                self.get_upper(value, kind, mfn)
            value = adjusted
        if preserve_ad:
            value |= old & (ACCESSED | DIRTY)
        self._words[at] = value
        if old & PRESENT:
            self.stale = True
            if not same:
                self._drop_upper((old & FRAME_MASK) >> 12, kind, mfn)

    def _drop_upper(self, target: int, kind: int, mfn: int) -> None:
        try:
            self.put_upper(target, kind, mfn)
        except Restart:
            self._frames.unfinished.append(target)

    def defer_execution(self, text: NDArray[np.bool_]) -> None:
        """Make every leaf without NX that maps no text (`text[mfn]`) executable only from its first execution on."""
        for mfn in np.flatnonzero(self._frames.types == L1).tolist():
            table = self._quads[mfn << 9 : (mfn + 1) << 9]
            here = np.flatnonzero((table & _U64(PRESENT | NX)) == _U64(PRESENT))
            targets = ((table[here] & _U64(FRAME_MASK)) >> _U64(12)).astype(np.int64)
            table[here[~text[targets]]] |= _U64(NX | LAZY_NX)
        self._frames.code[:] = text

    def executed(self, at: int) -> bool:
        """An execution fault on the L1 entry at word `at`: True when the NX was ours and is gone now."""
        entry = self._words[at]
        if entry & (PRESENT | LAZY_NX) != PRESENT | LAZY_NX:
            return False
        self._words[at] = entry & ~(NX | LAZY_NX)
        self._frames.executable[(entry & FRAME_MASK) >> 12] = 1
        return True

    # --- pins --------------------------------------------------------------------------------------------------------------

    def pin(self, mfn: int, kind: int) -> None:
        """Raises Restart as `get_type`."""
        self.get_type(mfn, kind)
        if self._frames.pinned[mfn]:
            self.put_type(mfn)
            raise Refusal(EINVAL, f"frame {mfn:#x} is pinned already")
        self._frames.pinned[mfn] = 1

    def unpin(self, mfn: int) -> None:
        if mfn >= self._frames.frames or not self._frames.pinned[mfn]:
            raise Refusal(EINVAL, f"frame {mfn:#x} is not pinned")
        self._frames.pinned[mfn] = 0
        self.drop(mfn)
