"""Two or three domains that share a pool, driven by hypercalls, and what must hold of them after every one."""

from __future__ import annotations

import struct

import numpy as np

from emulator.abi.xen import M2P_L4_SLOT, XEN_L4_FIRST, XEN_L4_LAST
from emulator.hypervisor.domain import Domain
from emulator.hypervisor.memory.frames import FOREIGN, FREE, GUEST, L1, L4, SEG_DESC, SHARED
from emulator.machine.pool import MemoryPool
from tests.unit.domains import PRESENT, RW, USER
from tests.unit.granters import Granter, settle
from tests.unit.isolation_model import Books, Pin

FRAMES, MOST = 96, 112
POOL = 4 * MOST


class World:
    """`exact`: no hypercall was left half done, so that the books hold."""

    def __init__(self, count: int) -> None:
        self.pool = MemoryPool(POOL)
        self.guests = [Granter(frames=FRAMES, max_frames=MOST, domid=number + 1) for number in range(count)]
        self.alive: dict[int, Domain] = {guest.domain.domid: guest.domain for guest in self.guests}
        self.books = [Books(guest, set(np.flatnonzero(guest.domain.frames.owners == GUEST).tolist())) for guest in self.guests]
        self.exact = True
        for guest in self.guests:
            domain = guest.domain
            domain.peer = self.alive.get
            domain.domid_exists = lambda domid: domid == 0 or domid in self.alive
            domain.reservation.on_claim = lambda domain=domain: self._claim(domain)  # type: ignore[misc]
            self._claim(domain)

    def _claim(self, domain: Domain) -> None:
        self.pool.resize(domain.domid, domain.reservation.claim)

    def frame(self, who: int, what: int | str) -> int:
        """A machine frame by what it is: a PFN of the guest's, or one of the others' and nobody's."""
        guest = self.guests[who]
        if isinstance(what, int):
            return guest.mfn(what)
        domain = guest.domain
        return {"xen": 2, "m2p": 12, "shared": domain.layout.shared_info_mfn, "grant": domain.grants.shared[0], "window": domain.layout.window[-1],
                "free": next(reversed(domain.reservation.free), 0), "end": domain.memory.frames, "wild": 1 << 30,
                "all ones": (1 << 40) - 1}[what]  # fmt: skip

    def call(self, who: int, name: str, *arguments: int) -> int | None:
        """A hypercall, other domains serving what it asks; None when the guest has lost patience with it."""
        guest = self.guests[who]
        rip = guest.domain.core.rip
        result = guest.call(name, *arguments)
        while guest.domain.current.waiting:
            settle(*self._living())
            result = guest.again()
        settle(*self._living())
        if guest.domain.core.rip == rip:
            self.exact = False
            return None
        for number, books in enumerate(self.books):
            if number + 1 in self.alive:
                books.settle()
        return result

    def operate(self, who: int, command: int, form: str, *values: int) -> tuple[int, ...] | None:
        """A grant operation; its structure afterwards."""
        at = self.guests[who].put(20, struct.pack(form, *values))
        result = self.call(who, "grant_table_op", command, at, 1)
        return struct.unpack(form, self.guests[who].get(20, struct.calcsize(form))) if result == 0 else None

    def _living(self) -> list[Granter]:
        return [guest for guest in self.guests if guest.domain.domid in self.alive]

    def destroy(self, who: int) -> None:
        """What others map of it is its claim on the pool until they unmap it; what it mapped of others is theirs alone again."""
        domain = self.guests[who].domain
        del self.alive[domain.domid]
        for number, books in enumerate(self.books):
            for handle in self.books[who].handles.values():
                if handle.granter == number and number != who:
                    for write, kind in ((not handle.flags & 4, 1), (not handle.flags & 4, 2)):
                        if handle.flags & kind:
                            books.given(handle.ref, write)
        domain.close()
        domain.remnants.watch(lambda frames: self.pool.resize(domain.domid, frames))
        settle(*self._living())
        for guest in self._living():
            self.books[guest.domain.domid - 1].settle()  # frames that were only its mapping's any more are free

    # --- what must hold ---------------------------------------------------------------------------------------------------------

    def check(self) -> None:
        for number, guest in enumerate(self.guests):
            if guest.domain.domid in self.alive:
                self._reach(guest)
                guest.check_counts()
                guest.domain.reservation.check()
                assert self.pool.claimed(guest.domain.domid) == guest.domain.reservation.claim
                if self.exact:
                    self._agree(guest, self.books[number])
        left = sum(self.pool.claimed(guest.domain.domid) for guest in self.guests)
        assert self.pool.free + left == POOL

    def _agree(self, guest: Granter, books: Books) -> None:
        """The books are what the hypervisor has."""
        domain = guest.domain
        assert set(np.flatnonzero(domain.frames.owners == GUEST).tolist()) == books.own
        found = {ref: Pin(active.domid, active.mfn, active.pins[0] + active.pins[2], active.pins[1] + active.pins[3])
                 for ref, active in domain.grants.active.items()}  # fmt: skip
        assert found == books.pins
        assert set(domain.mappings.handles) == set(books.handles)

    def _reach(self, guest: Granter) -> None:
        """Nothing writable is reached that is a table, a descriptor page, nobody's or Xen's, by walking as the processor does, for ring 3."""
        domain = guest.domain
        frames, words, quads = domain.frames, domain.memory.words, domain.memory.quads
        seen: set[tuple[int, int, bool, bool]] = set()
        wanted = np.uint64(PRESENT | USER)

        def walk(mfn: int, level: int, write: bool, linear: bool) -> None:
            if (mfn, level, write, linear) in seen:
                return
            seen.add((mfn, level, write, linear))
            table = quads[mfn << 9 : (mfn + 1) << 9]
            if level == 1 and not linear and leaves(table, write):
                return
            for index in np.flatnonzero(table & wanted == wanted).tolist():
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

        def leaves(table: np.ndarray[tuple[int, ...], np.dtype[np.uint64]], write: bool) -> bool:
            """A whole L1 at once; False when one of its entries wants to be told apart."""
            entries = table[table & wanted == wanted]
            targets = ((entries & np.uint64(0x000FFFFFFFFFF000)) >> np.uint64(12)).astype(np.int64)
            if (entries & np.uint64(0x98)).any() or (targets >= frames.frames).any():
                return False
            owners = frames.owners[targets]
            if not ((owners >= GUEST) & (owners <= FOREIGN) & (owners != FREE)).all():
                return False
            reached = targets[(entries & np.uint64(RW)) != 0] if write else targets[:0]
            return not ((frames.types[reached] >= L1) & (frames.types[reached] <= SEG_DESC) & (frames.counts[reached] > 0)).any()

        for mfn in np.flatnonzero((frames.types == L4) & (frames.counts > 0)).tolist():
            if mfn in frames.partial:
                continue  # no processor walks it yet
            for offset, entry in enumerate(domain.tables._xen_slots):
                if XEN_L4_FIRST + offset != M2P_L4_SLOT or words[mfn << 9 | M2P_L4_SLOT]:  # a user's L4 has none
                    assert words[mfn << 9 | XEN_L4_FIRST + offset] == entry
            walk(mfn, 4, True, False)

    def end(self) -> None:
        """Every use goes, every domain goes, and the pool is whole."""
        for guest in self._living():
            guest.let_go()
        for guest in self._living():
            del self.alive[guest.domain.domid]
            guest.domain.close()
            guest.domain.remnants.watch(lambda frames, domid=guest.domain.domid: self.pool.resize(domid, frames))  # type: ignore[misc]
        assert self.pool.free == POOL
