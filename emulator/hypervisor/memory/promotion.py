"""Uses of frames by type: the first use as a table or descriptor page validates it, the last lets go of what its entries hold
(get_page_type, put_page_type, promote_l1_table … promote_l4_table, demote_l1_table … demote_l4_table of xen/arch/x86/mm.c).

A tree of tables may be as large as its domain, and a hypercall must not hold a physical CPU for that long. So trees are validated and let
go in pieces: each hypercall begins with an `allowance` of work, in units of about a microsecond, and where it is spent `Restart`
is raised. What is done by then stays done, in `FrameTable.partial`, and the same call again goes on there. An L1 table is the smallest
piece, as in Xen; the work is counted and not timed, so that a guest's time stays a function of what it executes.

What fails half-way, or is let go half-way, is `FrameTable.unfinished`: whoever begins something new first calls `finish`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from emulator.abi.errno import EINVAL
from emulator.abi.xen import ACCESSED, FRAME_MASK, GLOBAL, M2P_L4_SLOT, PCD, PRESENT, PSE, PWT, RW, USER, XEN_L4_FIRST, XEN_L4_LAST
from emulator.hypervisor.memory.frames import GUEST, L1, L4, NONE, SEG_DESC, SHARED, TYPE_NAMES, WRITABLE, FrameTable
from emulator.hypervisor.memory.leaves import Leaves, bits
from emulator.hypervisor.refusal import Refusal, Restart
from emulator.machine.memory import MachineMemory

UPPER_DISALLOWED: Final = PWT | PCD | PSE | GLOBAL
ALLOWANCE: Final = 2000
"""Units of work that one hypercall may do at once."""
ENTRY_WORK, TABLE_WORK, DESCRIPTORS_WORK = 2, 20, 200
"""What an entry of an L2–L4 table, a whole L1 table, and a page full of descriptors come to."""
_UNLIMITED: Final = 1 << 62
_ENTRIES: Final = 512
_N_PRESENT = np.uint64(PRESENT)
_N_SEGMENT_PRESENT = np.uint64(1 << 47)
_N_SEGMENT, _N_RING3 = np.uint64(1 << 47 | 1 << 44), np.uint64(3 << 45)
"""A present code or data segment, of which check_descriptor asks nothing but ring 3."""


class Promotion(Leaves):
    """The types of one domain's frames. `xen_slots`: the 16 L4 entries of the hypervisor's range, written into every L4; but the M2P's is there
    from the start only with `m2p_strict` (the assist of that name), else once the L4 has served a kernel (init_xen_l4_slots, fill_ro_mpt)."""

    def __init__(self, memory: MachineMemory, frames: FrameTable, xen_slots: tuple[int, ...]) -> None:
        super().__init__(frames)
        self._words, self._quads = memory.words, memory.quads
        self._xen_slots = xen_slots
        self.m2p_strict = False
        self.allowance = _UNLIMITED
        self.descriptor_check: Callable[[int], int] = lambda descriptor: descriptor
        """The descriptor as the guest may have it, or Refusal (check_descriptor)."""

    # --- one use more, one use less ------------------------------------------------------------------------------------------

    def get_type(self, mfn: int, kind: int) -> None:
        """One more use of frame `mfn` as `kind`; the first validates. Raises Refusal, or Restart for tables above L1."""
        frames = self._frames
        if mfn >= frames.frames or (frames.owner[mfn] != GUEST and not (kind == WRITABLE and frames.owner[mfn] == SHARED)):
            raise Refusal(EINVAL, f"frame {mfn:#x} is not the domain's own")
        start, inside = 0, False
        if frames.count[mfn]:
            if frames.type[mfn] != kind:
                raise Refusal(EINVAL, f"frame {mfn:#x} is {frames.describe(mfn)}, not to be used as {TYPE_NAMES[kind]}")
            if mfn not in frames.partial:
                frames.count[mfn] += 1
                return
            start, inside = frames.partial.pop(mfn)
        elif kind == WRITABLE:
            frames.type[mfn], frames.count[mfn] = WRITABLE, 1
            return
        else:
            # A writable translation of this frame may still be cached from its last use.
            self.stale = True
            frames.type[mfn], frames.count[mfn] = kind, 1  # before its entries: a table may name itself
            frames.linear[mfn] = 0
        try:
            if kind == L1:
                self._promote_l1(mfn)
            elif kind == SEG_DESC:
                self._validate_descriptors(mfn)
            else:
                self._promote_upper(mfn, kind, start, inside)
        except Refusal:
            if mfn not in frames.partial:
                frames.type[mfn], frames.count[mfn] = NONE, 0
                if frames.leaving:
                    self.gone(mfn)
            raise

    def put_type(self, mfn: int) -> None:
        """One use less; a table that nobody uses any more gives up what its entries hold. Raises Restart for tables above L1: the
        use is gone then, and the rest is `finish`'s."""
        frames = self._frames
        if frames.count[mfn] == 1 and L1 <= frames.type[mfn] <= L4:
            self._demote(mfn, _ENTRIES, False)
            return
        frames.count[mfn] -= 1
        if not frames.count[mfn]:
            frames.type[mfn] = NONE
            if frames.leaving:
                self.gone(mfn)

    def drop(self, mfn: int) -> bool:
        """`put_type`, the rest of it left to `finish`; whether there is such a rest."""
        try:
            self.put_type(mfn)
        except Restart:
            self._frames.unfinished.append(mfn)
            return True
        return False

    def finish(self) -> None:
        """put_old_guest_table: go on with what was left undone. Raises Restart while it is not."""
        unfinished = self._frames.unfinished
        while unfinished:
            self._put_partial(unfinished[-1])
            unfinished.pop()

    def _put_partial(self, mfn: int) -> None:
        """_put_page_type with PTF_partial_set: what others have made whole meanwhile is theirs."""
        part = self._frames.partial.pop(mfn, None)
        if part is not None:
            self._demote(mfn, *part)

    # --- leaves and descriptors ----------------------------------------------------------------------------------------------

    def _promote_l1(self, mfn: int) -> None:
        self.allowance -= TABLE_WORK
        table = self._quads[mfn << 9 : (mfn + 1) << 9]
        some, every = bits(table)
        if every & PRESENT:
            present, entries = None, table
        elif some & PRESENT:
            present = np.flatnonzero(table & _N_PRESENT)
            entries = table[present]
            some, every = bits(entries)
        else:
            return
        if not self.take_leaves(entries, some, every):
            # One by one, for the reason and the order: nothing was taken by the failed attempt.
            for index in range(_ENTRIES) if present is None else present.tolist():
                self.check_leaf(self._words[mfn << 9 | index], f"L1 table {mfn:#x} entry {index}")
            raise Refusal(EINVAL, f"L1 table {mfn:#x} cannot be validated")
        self.mark_code(entries, every)
        self.adjust(entries, some, every)
        if present is not None:
            table[present] = entries

    def _demote_l1(self, mfn: int) -> None:
        self.allowance -= TABLE_WORK
        table = self._quads[mfn << 9 : (mfn + 1) << 9]
        entries = table if int(np.bitwise_and.reduce(table)) & PRESENT else table[(table & _N_PRESENT) != 0]
        if entries.size:
            self.drop_leaves(entries)

    def _validate_descriptors(self, mfn: int) -> None:
        """validate_segdesc_page: each is fixed up where it stands, those before a bad one too."""
        self.allowance -= DESCRIPTORS_WORK
        page = self._quads[mfn << 9 : (mfn + 1) << 9]
        segments = (page & _N_SEGMENT) == _N_SEGMENT
        odd = np.flatnonzero((page & _N_SEGMENT_PRESENT != 0) & ~segments).tolist()
        end, fixed, bad = _ENTRIES, {}, None
        for index in odd:
            try:
                fixed[index] = self.descriptor_check(int(page[index]))
            except Refusal as refusal:
                end, bad = index, refusal
                break
        np.bitwise_or(page[:end], _N_RING3, out=page[:end], where=segments[:end])
        for index, descriptor in fixed.items():
            page[index] = descriptor
        if bad is not None:
            raise bad

    # --- tables of tables ----------------------------------------------------------------------------------------------------

    def _slots(self, mfn: int, kind: int, first: int, end: int) -> list[int]:
        """The present entries of `first` to `end` that are the guest's."""
        found: list[int] = (np.flatnonzero(self._quads[(mfn << 9) + first : (mfn << 9) + end] & _N_PRESENT) + first).tolist()
        return [slot for slot in found if not XEN_L4_FIRST <= slot <= XEN_L4_LAST] if kind == L4 else found

    def _promote_upper(self, mfn: int, kind: int, start: int, inside: bool) -> None:
        """References for the entries from `start` on; `inside` as in FrameTable.partial."""
        frames, words, base = self._frames, self._words, mfn << 9
        add = USER | ACCESSED if kind == L4 else USER
        for index in self._slots(mfn, kind, start, _ENTRIES):
            if index > start and self.allowance <= 0:
                frames.partial[mfn] = index, False
                raise Restart
            entry = words[base + index]
            try:
                self.get_upper(entry, kind, mfn)
            except Restart:
                frames.partial[mfn] = index, True
                raise
            except Refusal:
                if index:
                    self._give_up(mfn, index, inside and index == start)
                raise
            words[base + index] = entry | add
        if kind == L4:
            for offset, entry in enumerate(self._xen_slots):
                words[base + XEN_L4_FIRST + offset] = entry
            if not self.m2p_strict:
                words[base + M2P_L4_SLOT] = 0

    def becomes_kernels(self, mfn: int) -> None:
        """An L4 is a kernel's from here on (new_guest_cr3)."""
        if not self.m2p_strict:
            self._words[mfn << 9 | M2P_L4_SLOT] = self._xen_slots[M2P_L4_SLOT - XEN_L4_FIRST]

    def becomes_users(self, mfn: int) -> None:
        """An L4 is a user's from here on (zap_ro_mpt)."""
        if self.m2p_strict:
            self._words[mfn << 9 | M2P_L4_SLOT] = 0
            self.stale = True

    def _give_up(self, mfn: int, done: int, inside: bool) -> None:
        """A table that failed at entry `done` lets go of those before it, and of what that entry's own table has left undone."""
        frames = self._frames
        if frames.unfinished and frames.unfinished[-1] == (self._words[mfn << 9 | done] & FRAME_MASK) >> 12:
            frames.unfinished.pop()
            inside = True
        frames.partial[mfn] = done, inside
        frames.unfinished.append(mfn)
        try:
            self.finish()
        except Restart:
            return  # whoever begins something new calls `finish` first

    def _demote(self, mfn: int, done: int, inside: bool) -> None:
        """References of the first `done` entries go, from the last to the first, then the type; `inside` as in FrameTable.partial."""
        frames, kind = self._frames, self._frames.type[mfn]
        self.stale = True
        if kind == L1:
            self._demote_l1(mfn)
        else:
            self._demote_upper(mfn, kind, done, inside)
        frames.type[mfn], frames.count[mfn] = NONE, 0
        if frames.leaving:
            self.gone(mfn)

    def _demote_upper(self, mfn: int, kind: int, done: int, inside: bool) -> None:
        frames = self._frames
        slots = self._slots(mfn, kind, 0, done + 1 if inside else done)
        while slots:
            index = slots.pop()
            target = (self._words[mfn << 9 | index] & FRAME_MASK) >> 12
            try:
                if inside and index == done:
                    self._put_partial(target)
                else:
                    self.put_upper(target, kind, mfn)
            except Restart:
                frames.partial[mfn] = index, True
                raise
            if slots and self.allowance <= 0:
                frames.partial[mfn] = index, False
                raise Restart

    def get_upper(self, entry: int, kind: int, mfn: int) -> None:
        """A reference for an entry of table `mfn` of level 2 to 4."""
        self.allowance -= ENTRY_WORK
        if entry & UPPER_DISALLOWED:
            what = "a superpage" if entry & PSE else "bits that are the hypervisor's"
            raise Refusal(EINVAL, f"entry {entry:#x} of {TYPE_NAMES[kind]} {mfn:#x} asks for {what}")
        target = (entry & FRAME_MASK) >> 12
        frames = self._frames
        if target < frames.frames and frames.count[target] and frames.type[target] == kind:
            self._get_linear(entry, target, kind, mfn)
        else:
            self.get_type(target, kind - 1)

    def put_upper(self, target: int, kind: int, mfn: int) -> None:
        """The reference of such an entry goes. Raises Restart as `put_type`."""
        self.allowance -= ENTRY_WORK
        if target == mfn:
            return
        frames = self._frames
        if frames.type[target] == kind:
            frames.linear[mfn] -= 1
            frames.linear[target] += 1
        self.put_type(target)

    def _get_linear(self, entry: int, target: int, kind: int, mfn: int) -> None:
        """A table named by one of its own level, or by itself: read-only, whole, and never two deep (get_l4_linear_pagetable)."""
        frames = self._frames
        if entry & RW:
            raise Refusal(EINVAL, f"entry {entry:#x} of {TYPE_NAMES[kind]} {mfn:#x} maps a {TYPE_NAMES[kind]} writable")
        if target == mfn:
            return
        if target in frames.partial:
            raise Refusal(EINVAL, f"entry {entry:#x} of {TYPE_NAMES[kind]} {mfn:#x} names {frames.describe(target)}")
        if frames.owner[target] != GUEST or not 0 <= frames.linear[mfn] < 32767 or not -32768 < frames.linear[target] <= 0:
            raise Refusal(EINVAL, f"entry {entry:#x} of {TYPE_NAMES[kind]} {mfn:#x}: linear tables would name linear tables")
        frames.linear[mfn] += 1
        frames.linear[target] -= 1
        frames.count[target] += 1
