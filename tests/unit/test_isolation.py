"""Isolation, tried at random: whatever guests ask for, they map nothing writable that is a table, a descriptor page or not theirs.

Two or three domains of some hundred pages are driven through mmu_update, update_va_mapping, mmuext_op, memory_op, set_gdt and grants of
frames to themselves and each other, with operands that are nearly right. A tiny model of its own (isolation_model) says beforehand what
must be accepted, and with which number the rest is refused. After every step the page tables are walked as the processor walks them, rights
ANDed over the levels; all counts are found anew; reservations and the host's pool must balance. At the end everything is let go and all counts are
zero. XENCONSOLE_ISOLATION_SEQUENCES sets how many sequences are tried; `python -m tests.soak.isolation 10000` tries that many."""

from __future__ import annotations

import os
import struct

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from emulator.abi import grant_table as abi
from emulator.hypervisor.memory.frames import GUEST
from tests.unit.domains import DATA, FREE_SLOT, NX, PRESENT, PT_L1, PT_L2, PT_L3, PT_L4, RW, SPARE, USER, USER_L4, va
from tests.unit.granters import COPY, SELF
from tests.unit.isolation_model import EINVAL, Handle, agrees
from tests.unit.isolation_world import World

TABLES = (PT_L4, PT_L3, PT_L2, PT_L1, USER_L4)
PLAY = tuple(range(SPARE, SPARE + 8))  # PFNs that come and go as tables, data and descriptors
SLOTS = tuple(range(FREE_SLOT, FREE_SLOT + 6))
ALL = (1 << 64) - 1

who = st.integers(0, 2)
pfns = st.sampled_from(TABLES + PLAY + (DATA + 1,))
targets = st.one_of(pfns, st.sampled_from(("xen", "m2p", "shared", "grant", "window", "free", "end", "wild", "all ones")))
flags = st.sampled_from((0, PRESENT, PRESENT | USER, PRESENT | RW, PRESENT | RW | USER, PRESENT | RW | USER | NX, PRESENT | RW | USER | 0x80,
                         PRESENT | USER | 0x18, PRESENT | RW | 1 << 8, RW))  # fmt: skip
slots = st.one_of(st.sampled_from((0, 1, 2, 3, 255, 256, 260, 271, 272, 511)), st.sampled_from(SLOTS))
refs = st.integers(8, 11)
DESCRIPTORS = (0, 0x00CFFB000000FFFF, 0x00008B0000000067, 0x0000EC00E0080000, 0x0000EC0000100000)


class Isolation(RuleBasedStateMachine):
    world: World

    @initialize(count=st.sampled_from((2, 2, 3)))
    def begin(self, count: int) -> None:
        self.world = World(count)

    def pick(self, number: int) -> int:
        """A domain that lives."""
        living = sorted(self.world.alive)
        return living[number % len(living)] - 1

    # --- page tables ------------------------------------------------------------------------------------------------------------

    @rule(d=who, table=targets, slot=slots, what=targets, flag=flags, command=st.sampled_from((0, 0, 0, 1, 2, 3, 5)))
    def mmu_update(self, d: int, table: int | str, slot: int, what: int | str, flag: int, command: int) -> None:
        if table == PT_L1 and slot <= DATA:  # what the test itself stands on
            return
        if (table, slot) in ((PT_L4, 0), (PT_L3, 0), (PT_L2, 2)):
            return
        d, world = self.pick(d), self.world
        mfn, value = world.frame(d, table), (world.frame(d, what) << 12 | flag) & ALL
        predicted = world.books[d].update(mfn, slot, value) if command == 0 else None
        at = world.guests[d].put(DATA, struct.pack("<QQ", (mfn << 12) + slot * 8 | command, value), 64)
        result = world.call(d, "mmu_update", at, 1, 0, SELF)
        assert result is None or not world.exact or agrees(predicted, result), (predicted, result)

    @rule(d=who, count=st.integers(24, 40), what=targets, flag=flags)
    def a_list(self, d: int, count: int, what: int | str, flag: int) -> None:
        """Many entries at once, some of them perhaps refused."""
        d, world = self.pick(d), self.world
        guest = world.guests[d]
        at = guest.entry_address(FREE_SLOT)
        pairs = ((at + 8 * n, world.frame(d, PLAY[n % len(PLAY)] if n != 20 else what) << 12 | flag) for n in range(count))
        guest.put(DATA, b"".join(struct.pack("<QQ", pointer, value & ALL) for pointer, value in pairs), 64)
        world.call(d, "mmu_update", va(DATA, 64), count, 0, SELF)

    @rule(d=who, slot=st.sampled_from(SLOTS), what=targets, flag=flags, how=st.sampled_from((0, 1, 2)))
    def update_va_mapping(self, d: int, slot: int, what: int | str, flag: int, how: int) -> None:
        d, world = self.pick(d), self.world
        books, value = world.books[d], (world.frame(d, what) << 12 | flag) & ALL
        at = books.slot(va(slot), 0)
        predicted = books.update(at >> 9, at & 511, value) if at is not None else EINVAL
        result = world.call(d, "update_va_mapping", va(slot), value, how)
        assert result is None or not world.exact or agrees(predicted, result), (predicted, result)

    @rule(d=who, command=st.sampled_from((0, 1, 2, 3, 4, 4, 15, 16, 17)), one=targets, two=targets)
    def mmuext_op(self, d: int, command: int, one: int | str, two: int | str) -> None:
        if command in (16, 17) and isinstance(one, int) and one not in PLAY:
            return
        if command == 4 and one == PT_L4:
            return
        self.extended(self.pick(d), command, one, two)

    def extended(self, d: int, command: int, one: int | str, two: int | str) -> None:
        world = self.world
        books, mfn = world.books[d], world.frame(d, one)
        predicted = books.pin(mfn, command + 1) if command < 4 else None
        if command == 4:
            pinned = mfn < books.frames and books.guest.domain.frames.pinned[mfn]
            predicted = 0 if pinned else EINVAL
        at = world.guests[d].put(DATA, struct.pack("<IxxxxQQ", command, mfn, world.frame(d, two)))
        result = world.call(d, "mmuext_op", at, 1, 0, SELF)
        assert result is None or not world.exact or agrees(predicted, result), (command, predicted, result)

    @rule(d=who, pfn=st.sampled_from(PLAY), level=st.sampled_from((1, 2, 3, 4)), inner=pfns, flag=flags, slot=slots)
    def prepare(self, d: int, pfn: int, level: int, inner: int, flag: int, slot: int) -> None:
        """Write a future table as plain memory, as far as that is possible, and pin it."""
        d, world = self.pick(d), self.world
        guest, mfn = world.guests[d], world.frame(d, pfn)
        for mapped in range(512):
            entry = guest.domain.memory.words[guest.mfn(PT_L1) << 9 | mapped]
            if entry & PRESENT and entry >> 12 & 0xFFFFFFFFFF == mfn:
                guest.update((guest.entry_address(mapped), 0))
        world.books[d].settle()
        if not guest.domain.frames.uses(mfn) and guest.domain.frames.owner[mfn] == GUEST:
            guest.domain.memory.words[mfn << 9 | slot] = guest.mfn(inner) << 12 | flag
        self.extended(d, level - 1, pfn, pfn)

    @rule(d=who, entries=st.sampled_from((0, 1, 512, 1024, 7169)), what=targets)
    def set_gdt(self, d: int, entries: int, what: int | str) -> None:
        d, world = self.pick(d), self.world
        at = world.guests[d].put(DATA, struct.pack("<2Q", world.frame(d, what), world.frame(d, PLAY[0])), 256)
        world.call(d, "set_gdt", at, entries)

    @rule(d=who, what=targets, slot=slots, descriptor=st.sampled_from(DESCRIPTORS))
    def update_descriptor(self, d: int, what: int | str, slot: int, descriptor: int) -> None:
        d, world = self.pick(d), self.world
        mfn = world.frame(d, what)
        if what not in TABLES and mfn != world.frame(d, DATA):
            world.call(d, "update_descriptor", (mfn << 12) + slot * 8, descriptor)

    # --- frames -----------------------------------------------------------------------------------------------------------------

    @rule(d=who, what=targets, order=st.sampled_from((0, 0, 0, 1, 9, 63)), operation=st.sampled_from((0, 1, 1, 6)))
    def memory_op(self, d: int, what: int | str, order: int, operation: int) -> None:
        """Increase (0), decrease (1), populate (6)."""
        if what in TABLES or what == DATA + 1:
            return
        d, world = self.pick(d), self.world
        guest, books, mfn = world.guests[d], world.books[d], world.frame(d, what)
        free = len(guest.domain.reservation.free)
        at = guest.put(DATA, struct.pack("<Q", mfn), 512)
        fields = struct.pack("<QQIIHxxxxxx", at, 1, order, 0, SELF)
        used = books.used(mfn)
        if operation == 1 and mfn in books.own and not used:
            guest.domain.memory.frame(mfn)[:8] = b"leftover"
        result = world.call(d, "memory_op", operation, guest.put(DATA, fields))
        if result is None or not world.exact:
            return
        asked = range(mfn, mfn + (1 << order))
        if operation == 1:
            if order == 0:
                assert result == (mfn in books.own)
                if result and not used:
                    books.own.discard(mfn)
                elif result:
                    books.leaving.add(mfn)
            else:
                for frame in asked if order < 10 else ():  # one after the other, up to the first that is not its own
                    if frame not in books.own:
                        break
                    (books.leaving.add if books.used(frame) else books.own.discard)(frame)
                else:
                    assert result == (order < 10)
            return
        if order == 0:
            assert result == (len(books.own) < books.maximum and free > 0), (result, len(books.own), books.maximum, free)
        if result:
            first = struct.unpack("<Q", guest.get(DATA, 8, 512))[0]
            fresh = set(range(first, first + (1 << order)))
            assert not fresh & books.own, "frames that it had already"
            for frame in fresh:
                assert not any(guest.domain.memory.frame(frame)), "what another use had left in it"
            books.own |= fresh

    @rule(d=who, what=targets, order=st.sampled_from((0, 0, 1, 2)))
    def exchange(self, d: int, what: int | str, order: int) -> None:
        if what in TABLES or what == DATA + 1:
            return
        d, world = self.pick(d), self.world
        guest, books, mfn = world.guests[d], world.books[d], world.frame(d, what)
        at = guest.put(DATA, struct.pack("<2Q", mfn, 5), 512)
        fields = struct.pack("<QQIIHxxxxxxQQIIHxxxxxxQ", at, 1 << order, 0, 0, SELF, at + 8, 1, order, 0, SELF, 0)
        able = order == 0 and mfn in books.own and mfn not in books.leaving and not books.used(mfn)
        result = world.call(d, "memory_op", 11, guest.put(DATA, fields))
        if result is None:
            return
        if order == 0:
            assert result == (0 if able else -EINVAL)
        if result == 0 and order == 0:
            books.own.discard(mfn)
            books.own.add(struct.unpack("<Q", guest.get(DATA, 8, 520))[0])

    # --- grants -----------------------------------------------------------------------------------------------------------------

    @rule(d=who, ref=refs, what=targets, kind=st.sampled_from((0, 1, 1, 2, 3, 5, 0x101)), user=st.sampled_from((1, 1, 2, 2, 3, 7)))
    def grant(self, d: int, ref: int, what: int | str, kind: int, user: int) -> None:
        d, world = self.pick(d), self.world
        domain, mfn = world.guests[d].domain, world.frame(d, what)
        table = domain.grants.shared[0] << 12
        if domain.grants.version == 1:
            struct.pack_into("<HHI", domain.memory.bytes, table + 8 * ref, kind, user, mfn & 0xFFFFFFFF)
        elif kind == 3:
            abi.TRANSITIVE_V2.pack_into(domain.memory.bytes, table + 16 * ref, kind, user, ref % 3 + 1, ref)
        else:
            struct.pack_into("<HHHHQ", domain.memory.bytes, table + 16 * ref, kind, user, 8, 64, mfn)

    @rule(d=who, granter=who, ref=refs, slot=st.sampled_from(SLOTS), flag=st.sampled_from((0, 1, 2, 2, 3, 6, 10, 18)), what=targets)
    def map_grant(self, d: int, granter: int, ref: int, slot: int, flag: int, what: int | str) -> None:
        if flag & abi.GNTMAP_contains_pte and what == PT_L1 and slot <= DATA:
            return
        d, granter, world = self.pick(d), self.pick(granter), self.world
        address = va(slot) if not flag & abi.GNTMAP_contains_pte else (world.frame(d, what) << 12) + slot * 8 & ALL
        own, theirs, write = world.books[d], world.books[granter], not flag & abi.GNTMAP_readonly
        host, device = bool(flag & abi.GNTMAP_host_map), bool(flag & abi.GNTMAP_device_map)
        expect, granted = (theirs.granted(ref, d + 1, write)) if host or device else (abi.GNTST_bad_gntref, 0)
        if not expect and host and own.slot(address, flag) is None:
            expect = abi.GNTST_general_error
        done = world.operate(d, abi.GNTTABOP_map_grant_ref, "<QIIHhIQ", address, flag, ref, granter + 1, 99, 0, 0)
        if done is None or not world.exact:
            return
        if not (host and own.slot(address, flag) is not None and own.slot(address, flag) >> 9 == granted and d == granter):  # type: ignore[operator]
            assert done[4] == expect, (done, expect)
        if not done[4]:
            own.handles[done[5]] = Handle(granter, ref, flag, done[6] >> 12, address)
            for _ in range(host + device):
                theirs.taken(ref, d + 1, granted, write)

    @rule(d=who, granter=who, ref=refs, pfn=st.sampled_from(PLAY), slot=st.sampled_from(SLOTS), flag=st.sampled_from((2, 2, 3, 6, 7, 18)),
          kind=st.sampled_from((1, 1, 5)))  # fmt: skip
    def share(self, d: int, granter: int, ref: int, pfn: int, slot: int, flag: int, kind: int) -> None:
        """A grant, and the map that it is for."""
        self.grant(granter, ref, pfn, kind, self.pick(d) + 1)
        self.map_grant(d, granter, ref, slot, flag, pfn)

    @rule(d=who, number=st.integers(0, 7), bus=st.booleans())
    def unshare(self, d: int, number: int, bus: bool) -> None:
        """The unmap of something mapped."""
        handles = self.world.books[self.pick(d)].handles
        if handles:
            handle = sorted(handles)[number % len(handles)]
            self.unmap(d, handle, handles[handle].address, 0, bus)

    @rule(d=who, pfn=st.sampled_from(PLAY), operation=st.sampled_from((0, 6)))
    def breathe(self, d: int, pfn: int, operation: int) -> None:
        """Give a page back and take another."""
        self.give(d, pfn)
        self.memory_op(d, pfn, 0, operation)

    def unmapped(self, d: int, pfn: int) -> None:
        d = self.pick(d)
        guest, mfn = self.world.guests[d], self.world.frame(d, pfn)
        for slot in (pfn, *SLOTS):
            if guest.entry(slot) & PRESENT and guest.entry(slot) >> 12 & 0xFFFFFFFFFF == mfn:
                self.world.call(d, "update_va_mapping", va(slot), 0, 0)

    def give(self, d: int, pfn: int) -> None:
        self.unmapped(d, pfn)
        self.memory_op(d, pfn, 0, 1)

    @rule(d=who, other=who, pfn=st.sampled_from(PLAY), ref=refs, taken=st.sampled_from(PLAY), kind=st.sampled_from((2, 2, 1)))
    def hand_over(self, d: int, other: int, pfn: int, ref: int, taken: int, kind: int) -> None:
        """A page to one that has room for it and, but for the last kind, waits for it."""
        self.unmapped(d, pfn)
        self.give(other, taken)
        self.grant(other, ref, "xen", kind, self.pick(d) + 1)
        self.transfer(d, other, pfn, ref)

    @rule(d=who, handle=st.integers(0, 4), slot=st.sampled_from(SLOTS), new=st.sampled_from((0, 0, 0, *SLOTS)), bus=st.booleans())
    def unmap_grant(self, d: int, handle: int, slot: int, new: int, bus: bool) -> None:
        self.unmap(d, handle, va(slot), new, bus)

    def unmap(self, d: int, handle: int, address: int, new: int, bus: bool) -> None:
        d, world = self.pick(d), self.world
        books, domain = world.books[d], world.guests[d].domain
        known = books.handles.get(handle)
        device = known.mfn << 12 if known is not None and bus and not new else 0
        expect, left = abi.GNTST_bad_handle, 0
        if known is not None:
            at = books.slot(address, known.flags)
            entry = domain.memory.words[at] if at is not None else 0
            right = entry >> 12 & 0xFFFFFFFFFF == known.mfn and entry & 3 == (1 if known.flags & abi.GNTMAP_readonly else 3)
            expect = 0 if right or not known.flags & abi.GNTMAP_host_map else abi.GNTST_general_error
            left = known.flags
        if new:
            done = world.operate(d, abi.GNTTABOP_unmap_and_replace, "<QQIhxx", address, va(new), handle, 9)
        else:
            done = world.operate(d, abi.GNTTABOP_unmap_grant_ref, "<QQIhxx", address, device, handle, 9)
        if done is None or not world.exact:
            return
        if not new:
            assert done[3] == expect, (done, expect)
        if done[3] or known is None:
            return
        ended = left & abi.GNTMAP_host_map | (left & abi.GNTMAP_device_map if device else 0)
        for bit in (abi.GNTMAP_host_map, abi.GNTMAP_device_map):
            if ended & bit:
                world.books[known.granter].given(known.ref, not left & abi.GNTMAP_readonly)
        known.flags &= ~ended
        if not known.flags & 3:
            del books.handles[handle]

    @rule(d=who, other=who, source=targets, dest=targets, flag=st.sampled_from((0, 1, 2, 3)), length=st.sampled_from((8, 4096, 4097)), ref=refs)
    def copy_grant(self, d: int, other: int, source: int | str, dest: int | str, flag: int, length: int, ref: int) -> None:
        d, other, world = self.pick(d), self.pick(other), self.world
        one, two = (9, world.frame(d, dest)) if flag & 1 else (world.frame(d, source), world.frame(d, dest))
        two = ref if flag & 2 else two
        own, theirs = world.books[d], world.books[other]
        plain = all(books.guest.domain.grants.version == 1 for books in (own, theirs))
        expect = theirs.granted(9, d + 1, False, mapping=False)[0] if flag & 1 else 0 if one in own.own | own.shared else abi.GNTST_bad_page
        if not expect:
            if flag & 2:
                expect = theirs.granted(ref, d + 1, True, mapping=False)[0]
            elif two not in own.own | own.shared:
                expect = abi.GNTST_bad_page
            elif own.guest.recount()[0].get(two, 6) != 6:
                expect = abi.GNTST_general_error
        expect = expect or (abi.GNTST_bad_copy_arg if length > 4096 else 0)
        domids = (other + 1 if flag & 1 else SELF, other + 1 if flag & 2 else SELF)
        done = world.operate(d, abi.GNTTABOP_copy, COPY, one, domids[0], 0, two, domids[1], 0, length, flag, 9)
        if done is not None and plain and not (flag & 3 == 3 and ref == 9) and two != world.frame(d, DATA) and world.exact:
            assert done[8] == expect, (done, expect)

    @rule(d=who, other=who, what=targets, ref=refs)
    def transfer(self, d: int, other: int, what: int | str, ref: int) -> None:
        if what in TABLES or what in (DATA, DATA + 1):
            return
        d, other, world = self.pick(d), self.pick(other), self.world
        guest, giver, taker, mfn = world.guests[d], world.books[d], world.books[other], world.frame(d, what)
        able = mfn in giver.own and mfn not in giver.leaving and not giver.used(mfn)
        expect = taker.takes(ref, d + 1, able and giver is taker) if able else abi.GNTST_bad_page
        done = world.operate(d, abi.GNTTABOP_transfer, "<QHxxIhxxxxxx", mfn, other + 1, ref, 99)
        if done is None or not world.exact:
            return
        assert done[3] == expect, (done, expect)
        if able:
            giver.own.discard(mfn)
        if done[3] == 0:
            domain = taker.guest.domain
            size, form = (8, "<HHI") if domain.grants.version == 1 else (16, "<HHxxxxQ")
            entry = struct.unpack_from(form, domain.memory.bytes, (domain.grants.shared[0] << 12) + size * ref)
            assert entry[0] == 2 | 4 | 8 and entry[1] == guest.domain.domid and entry[2] not in taker.own
            taker.own.add(entry[2])

    @rule(d=who, version=st.sampled_from((1, 1, 2, 3)))
    def grant_version(self, d: int, version: int) -> None:
        d = self.pick(d)
        at = self.world.guests[d].put(DATA, struct.pack("<I", version))
        self.world.call(d, "grant_table_op", abi.GNTTABOP_set_version, at, 1)

    @precondition(lambda self: len(self.world.alive) > 1)
    @rule(d=who, certain=st.integers(0, 9))
    def destroy(self, d: int, certain: int) -> None:
        if not certain:
            self.world.destroy(self.pick(d))

    # --- what must hold ---------------------------------------------------------------------------------------------------------

    @invariant()
    def nothing_is_reached_counted_or_owned_that_may_not_be(self) -> None:
        if hasattr(self, "world"):
            self.world.check()

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.end()


class Interrupted(Isolation):
    """The same where every hypercall is cut into the smallest pieces, and the guest does not always go on with what it began."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr("emulator.hypervisor.traps.ALLOWANCE", 1)

    @rule(d=who, patience=st.sampled_from((1, 2, 3, 100_000)))
    def loses_patience(self, d: int, patience: int) -> None:
        self.world.guests[self.pick(d)].patience = patience

    def teardown(self) -> None:
        self.patch.undo()
        super().teardown()


_SEQUENCES = int(os.environ.get("XENCONSOLE_ISOLATION_SEQUENCES", "40"))
TestIsolation, TestInterrupted = Isolation.TestCase, Interrupted.TestCase
TestIsolation.settings = TestInterrupted.settings = settings(
    max_examples=_SEQUENCES, stateful_step_count=30, deadline=None, derandomize=_SEQUENCES == 40, suppress_health_check=list(HealthCheck))
