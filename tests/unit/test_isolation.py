"""Isolation, tried at random: whatever a guest asks for, it maps nothing writable that is a table, a descriptor page or not its own.

A domain of a megabyte is driven through mmu_update, update_va_mapping, mmuext_op, memory_op, set_gdt and grant operations with
operands that are nearly right. After every step the page tables are walked as the processor walks them, rights ANDed over the
levels; all counts are found anew; the reservation must balance. At the end everything is let go and all counts are zero.
XENCONSOLE_ISOLATION_SEQUENCES sets how many sequences are tried."""

from __future__ import annotations

import os
import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from emulator.abi import grant_table as abi
from emulator.abi.xen import XEN_L4_FIRST, XEN_L4_LAST
from emulator.hypervisor.memory.frames import FOREIGN, GUEST, L1, L4, SEG_DESC, SHARED
from tests.unit.domains import DATA, FREE_SLOT, NX, PRESENT, PT_L1, PT_L2, PT_L3, PT_L4, RW, SPARE, USER, USER_L4, Tiny, va

FRAMES, MOST = 96, 112
SELF = 0x7FF0
TABLES = (PT_L4, PT_L3, PT_L2, PT_L1, USER_L4)
PLAY = tuple(range(SPARE, SPARE + 8))  # PFNs that come and go as tables, data and descriptors
SLOTS = tuple(range(FREE_SLOT, FREE_SLOT + 6))

pfns = st.sampled_from(TABLES + PLAY + (DATA + 1,))
targets = st.one_of(pfns, st.sampled_from(("xen", "m2p", "shared", "grant", "window", "free", "end", "wild", "all ones")))
flags = st.sampled_from((0, PRESENT, PRESENT | USER, PRESENT | RW, PRESENT | RW | USER, PRESENT | RW | USER | NX, PRESENT | RW | USER | 0x80,
                         PRESENT | USER | 0x18, PRESENT | RW | 1 << 8, RW))  # fmt: skip
slots = st.one_of(st.sampled_from((0, 1, 2, 3, 255, 256, 260, 271, 272, 511)), st.sampled_from(SLOTS))


class Isolation(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.guest = Tiny(frames=FRAMES, max_frames=MOST)
        self.domain = self.guest.domain
        self.lost: list[int] = []

    def frame(self, what: int | str) -> int:
        domain = self.domain
        if isinstance(what, int):
            return self.guest.mfn(what)
        return {"xen": 2, "m2p": 12, "shared": domain.layout.shared_info_mfn, "grant": domain.grants.shared[0], "window": domain.layout.window.start,
                "free": domain.reservation.free[-1] if domain.reservation.free else 0, "end": domain.memory.frames, "wild": 1 << 30,
                "all ones": (1 << 40) - 1}[what]  # fmt: skip

    @rule(table=targets, slot=slots, what=targets, flag=flags, command=st.sampled_from((0, 0, 0, 1, 2, 3, 5)))
    def mmu_update(self, table: int | str, slot: int, what: int | str, flag: int, command: int) -> None:
        if table == PT_L1 and slot <= DATA:  # what the test itself stands on
            return
        if (table, slot) in ((PT_L4, 0), (PT_L3, 0), (PT_L2, 2)):
            return
        self.guest.update(((self.frame(table) << 12) + slot * 8 | command, (self.frame(what) << 12 | flag) & (1 << 64) - 1))

    @rule(count=st.integers(24, 40), what=targets, flag=flags)
    def a_list(self, count: int, what: int | str, flag: int) -> None:
        """Many entries at once, some of them perhaps refused."""
        at = self.guest.entry_address(FREE_SLOT)
        self.guest.update(*((at + 8 * n, self.frame(PLAY[n % len(PLAY)] if n != 20 else what) << 12 | flag) for n in range(count)))

    @rule(slot=st.sampled_from(SLOTS), what=targets, flag=flags, how=st.sampled_from((0, 1, 2)))
    def update_va_mapping(self, slot: int, what: int | str, flag: int, how: int) -> None:
        self.guest.call("update_va_mapping", va(slot), (self.frame(what) << 12 | flag) & (1 << 64) - 1, how)

    @rule(command=st.sampled_from((0, 1, 2, 3, 4, 4, 15, 16, 17)), one=targets, two=targets)
    def mmuext_op(self, command: int, one: int | str, two: int | str) -> None:
        if command == 16 and isinstance(one, int) and one not in PLAY:
            return
        if command == 17 and isinstance(one, int) and one not in PLAY:
            return
        if command == 4 and one == PT_L4:
            return
        self.guest.extended(command, self.frame(one), self.frame(two))

    @rule(pfn=st.sampled_from(PLAY), level=st.sampled_from((1, 2, 3, 4)), inner=pfns, flag=flags, slot=slots)
    def prepare(self, pfn: int, level: int, inner: int, flag: int, slot: int) -> None:
        """Write a future table as plain memory, as far as that is possible, and pin it."""
        mfn = self.guest.mfn(pfn)
        for mapped in range(512):
            entry = self.domain.memory.words[self.guest.mfn(PT_L1) << 9 | mapped]
            if entry & PRESENT and entry >> 12 & 0xFFFFFFFFFF == mfn:
                self.guest.update((self.guest.entry_address(mapped), 0))
        if not self.domain.frames.uses(mfn) and self.domain.frames.owner[mfn] == GUEST:
            self.domain.memory.words[mfn << 9 | slot] = self.guest.mfn(inner) << 12 | flag
        self.guest.extended(level - 1, mfn)

    @rule(entries=st.sampled_from((0, 1, 512, 1024, 7169)), what=targets)
    def set_gdt(self, entries: int, what: int | str) -> None:
        self.guest.call("set_gdt", self.guest.put(DATA, struct.pack("<2Q", self.frame(what), self.frame(PLAY[0])), 256), entries)

    @rule(what=targets, slot=slots, descriptor=st.sampled_from((0, 0x00CFFB000000FFFF, 0x00008B0000000067, 0x0000EC00E0080000, 0x0000EC0000100000)))
    def update_descriptor(self, what: int | str, slot: int, descriptor: int) -> None:
        mfn = self.frame(what)
        if what in TABLES or (mfn < self.domain.frames.frames and mfn == self.guest.mfn(DATA)):
            return
        self.guest.call("update_descriptor", (mfn << 12) + slot * 8, descriptor)

    @rule(what=targets, order=st.sampled_from((0, 0, 1, 9, 63)), operation=st.sampled_from((0, 1, 1, 6)))
    def memory_op(self, what: int | str, order: int, operation: int) -> None:
        if what in TABLES or what == DATA + 1:
            return
        at = self.guest.put(DATA, struct.pack("<Q", self.frame(what)), 512)
        self.guest.call_with("memory_op", operation, "QQIIHxxxxxx", at, 1, order, 0, SELF)

    @rule(what=targets, order=st.sampled_from((0, 0, 1, 2)))
    def exchange(self, what: int | str, order: int) -> None:
        if what in TABLES or what == DATA + 1:
            return
        at = self.guest.put(DATA, struct.pack("<2Q", self.frame(what), 5), 512)
        fields = struct.pack("<QQIIHxxxxxxQQIIHxxxxxxQ", at, 1 << order, 0, 0, SELF, at + 8, 1, order, 0, SELF, 0)
        self.guest.call("memory_op", 11, self.guest.put(DATA, fields))

    @rule(ref=st.integers(8, 10), what=targets, kind=st.sampled_from((0, 1, 5, 0x101)), domid=st.sampled_from((1, 1, 1, 3)))
    def grant(self, ref: int, what: int | str, kind: int, domid: int) -> None:
        table = self.domain.grants.shared[0] << 12
        struct.pack_into("<HHI", self.domain.memory.bytes, table + 8 * ref, kind, domid, self.frame(what) & 0xFFFFFFFF)

    @rule(ref=st.integers(8, 10), slot=st.sampled_from(SLOTS), flag=st.sampled_from((0, 1, 2, 3, 6, 10, 18)), what=targets)
    def map_grant(self, ref: int, slot: int, flag: int, what: int | str) -> None:
        address = va(slot) if not flag & 16 else (self.frame(what) << 12) + slot * 8
        if flag & 16 and what == PT_L1 and slot <= DATA:
            return
        self.guest.call("grant_table_op", 0, self.guest.put(DATA, struct.pack("<QIIHhIQ", address & (1 << 64) - 1, flag, ref, 1, 9, 0, 0)), 1)

    @rule(handle=st.integers(0, 3), slot=st.sampled_from(SLOTS), new=st.sampled_from((0, *SLOTS)))
    def unmap_grant(self, handle: int, slot: int, new: int) -> None:
        if new:
            self.guest.call("grant_table_op", 7, self.guest.put(DATA, struct.pack("<QQIhxx", va(slot), va(new), handle, 9)), 1)
        else:
            self.guest.call("grant_table_op", 1, self.guest.put(DATA, struct.pack("<QQIhxx", va(slot), 0, handle, 9)), 1)

    @rule(source=targets, dest=targets, flag=st.sampled_from((0, 1, 2, 3)), length=st.sampled_from((8, 4096, 4097)))
    def copy_grant(self, source: int | str, dest: int | str, flag: int, length: int) -> None:
        if not flag & 2 and (dest in TABLES or dest == DATA):
            pass  # tables must refuse it themselves
        one = 9 if flag & 1 else self.frame(source)
        two = 10 if flag & 2 else self.frame(dest)
        fields = struct.pack("<QHHxxxxQHHxxxxHHhxx", one, SELF, 0, two, SELF, 0, length, flag, 9)
        self.guest.call("grant_table_op", abi.GNTTABOP_copy, self.guest.put(DATA, fields), 1)

    @rule(version=st.sampled_from((1, 2, 3)))
    def grant_version(self, version: int) -> None:
        self.guest.call("grant_table_op", abi.GNTTABOP_set_version, self.guest.put(DATA, struct.pack("<I", version)), 1)

    # --- what must hold ---------------------------------------------------------------------------------------------------------

    @invariant()
    def nothing_is_reached_that_may_not_be(self) -> None:
        frames, words, quads = self.domain.frames, self.domain.memory.words, self.domain.memory.quads
        seen: set[tuple[int, int, bool, bool]] = set()

        def walk(mfn: int, level: int, write: bool, linear: bool) -> None:
            """As the processor does, for ring 3: a page is written when every level allows it."""
            if (mfn, level, write, linear) in seen:
                return
            seen.add((mfn, level, write, linear))
            for index in np.flatnonzero(quads[mfn << 9 : (mfn + 1) << 9] & np.uint64(PRESENT | USER) == np.uint64(PRESENT | USER)).tolist():
                if level == 4 and XEN_L4_FIRST <= index <= XEN_L4_LAST:
                    continue
                entry = words[mfn << 9 | index]
                target, may_write = (entry & 0x000FFFFFFFFFF000) >> 12, write and bool(entry & RW)
                assert target < frames.frames
                assert not entry & 0x98, "a superpage, or cache attributes"
                if level > 1:
                    walk(target, level - 1, may_write, linear or frames.type[target] == level)
                    continue
                if linear and not may_write and frames.owner[target] == 0:
                    continue  # the M2P's tables are read through a linear map, as on Xen
                assert frames.owner[target] in (GUEST, SHARED, FOREIGN), f"frame {target:#x} is nobody's or Xen's"
                if may_write:
                    assert not (L1 <= frames.type[target] <= SEG_DESC and frames.count[target]), f"writable: {frames.describe(target)}"

        for mfn in np.flatnonzero((frames.types == L4) & (frames.counts > 0)).tolist():
            if mfn in frames.partial:
                continue  # no processor walks it yet
            for offset, entry in enumerate(self.domain.tables._xen_slots):
                assert words[mfn << 9 | XEN_L4_FIRST + offset] == entry
            walk(mfn, 4, True, False)

    @invariant()
    def counts_are_what_is_there(self) -> None:
        self.guest.check_counts()
        self.domain.reservation.check()

    def teardown(self) -> None:
        self.guest.let_go()
        self.guest.close()


class Interrupted(Isolation):
    """The same where every hypercall is cut into the smallest pieces, and the guest does not always go on with what it began."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr("emulator.hypervisor.traps.ALLOWANCE", 1)

    @rule(patience=st.sampled_from((1, 2, 3, 100_000)))
    def loses_patience(self, patience: int) -> None:
        self.guest.patience = patience

    def teardown(self) -> None:
        self.patch.undo()
        super().teardown()


_SEQUENCES = int(os.environ.get("XENCONSOLE_ISOLATION_SEQUENCES", "40"))
TestIsolation, TestInterrupted = Isolation.TestCase, Interrupted.TestCase
TestIsolation.settings = TestInterrupted.settings = settings(
    max_examples=_SEQUENCES, stateful_step_count=30, deadline=None, derandomize=_SEQUENCES == 40, suppress_health_check=list(HealthCheck))
