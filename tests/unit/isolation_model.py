"""A tiny model of what Xen answers, for the isolation machine: who owns which frame, who maps whose grants, and what an entry asks for.

It keeps its own books of owners, grants in use and handles, from what the hypercalls answered; what a frame is used for it finds by
walking the page tables anew (Tiny.recount). A prediction is a number, REFUSED where only that is known, or None where the model knows
nothing (tables that name tables of their own level)."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from emulator.abi import grant_table as abi
from emulator.hypervisor.memory.frames import L1, L4, WRITABLE
from tests.unit.granters import Granter

EPERM, EBUSY, EINVAL = 1, 16, 22
REFUSED = "refused"
PRESENT, RW, USER, GLOBAL, KERNEL = 1, 2, 4, 0x100, 1 << 52
FRAME = 0x000FFFFFFFFFF000
CACHE, SUPER = 0x98, 0x198  # PWT PCD PSE(PAT); with GLOBAL for upper tables
Prediction = int | str | None


@dataclass
class Pin:
    """A grant in use: by whom, of which frame, read and write uses."""

    domid: int
    mfn: int
    reads: int = 0
    writes: int = 0


@dataclass
class Handle:
    granter: int
    ref: int
    flags: int
    mfn: int
    address: int


@dataclass
class Books:
    """What the model knows of one domain."""

    guest: Granter
    own: set[int]
    leaving: set[int] = field(default_factory=set)
    pins: dict[int, Pin] = field(default_factory=dict)
    handles: dict[int, Handle] = field(default_factory=dict)

    def __post_init__(self) -> None:
        domain = self.guest.domain
        self.frames, self.maximum = domain.memory.frames, domain.reservation.maximum

    @property
    def shared(self) -> set[int]:
        domain = self.guest.domain
        return {domain.layout.shared_info_mfn, *domain.grants.shared, *domain.grants.status}

    def word(self, mfn: int, index: int) -> int:
        return self.guest.domain.memory.words[mfn << 9 | index]

    # --- page tables --------------------------------------------------------------------------------------------------------------

    def leaf(self, value: int, kinds: dict[int, int]) -> int:
        """get_page_from_l1e: 0 or an errno."""
        mfn = (value & FRAME) >> 12
        if value & CACHE:
            return EINVAL
        if mfn >= self.frames:
            return EINVAL if mfn == FRAME >> 12 else EPERM
        if mfn not in self.own and mfn not in self.shared:
            return EBUSY
        return EBUSY if value & RW and kinds.get(mfn, WRITABLE) != WRITABLE else 0

    def validate(self, mfn: int, kind: int, kinds: dict[int, int]) -> Prediction:
        """Whether a frame may be used as a table; `kinds` learns what it and its entries then are."""
        if mfn not in self.own:
            return EINVAL
        if mfn in kinds:
            return 0 if kinds[mfn] == kind else EINVAL
        kinds[mfn] = kind
        for index in range(512):
            entry = self.word(mfn, index)
            if not entry & PRESENT or (kind == L4 and 256 <= index <= 271):
                continue
            answer = self.entry(entry, kind, mfn, kinds)
            if answer != 0:
                return None if answer is None else REFUSED
        return 0

    def entry(self, value: int, kind: int, table: int, kinds: dict[int, int]) -> Prediction:
        """A present entry of a table."""
        mfn = (value & FRAME) >> 12
        if kind == L1:
            refused = self.leaf(value, kinds)
            if not refused and value & RW:
                kinds[mfn] = WRITABLE
            return refused
        if value & SUPER:
            return EINVAL
        return None if kinds.get(mfn) == kind else self.validate(mfn, kind - 1, kinds)

    def update(self, table: int, slot: int, value: int) -> Prediction:
        """MMU_NORMAL_PT_UPDATE."""
        kinds, _uses, _readers = self.guest.recount()
        kind = kinds.get(table, WRITABLE)
        if table not in self.own and table not in self.shared:
            return EINVAL
        if not L1 <= kind <= L4:
            return 0 if kind == WRITABLE else EINVAL
        if kind == L4 and 256 <= slot <= 271:
            return EINVAL
        if not value & PRESENT:
            return 0
        old = self.word(table, slot)
        if kind == L1:
            value |= (USER | KERNEL) if not value & USER else 0 if value & KERNEL else GLOBAL
        what = FRAME | PRESENT | RW | (CACHE if kind == L1 else SUPER & ~GLOBAL)
        if old & PRESENT and not (old ^ value) & what and (kind == L1 or not value & SUPER):
            return 0
        return self.entry(value, kind, table, kinds)

    def pin(self, mfn: int, kind: int) -> Prediction:
        kinds, _uses, _readers = self.guest.recount()
        if mfn < self.frames and self.guest.domain.frames.pinned[mfn]:
            return EINVAL
        return self.validate(mfn, kind, kinds)

    # --- frames -------------------------------------------------------------------------------------------------------------------

    def used(self, mfn: int) -> bool:
        _kinds, uses, readers = self.guest.recount()
        return mfn in uses or mfn in readers

    def settle(self) -> None:
        """Frames on their way out are gone with their last use."""
        if self.leaving:
            _kinds, uses, readers = self.guest.recount()
            gone = {mfn for mfn in self.leaving if mfn not in uses and mfn not in readers}
            self.leaving -= gone
            self.own -= gone

    # --- grants -------------------------------------------------------------------------------------------------------------------

    def slot(self, address: int, flags: int) -> int | None:
        """The L1 entry (its word) that a host address means."""
        kinds, _uses, _readers = self.guest.recount()
        if flags & abi.GNTMAP_contains_pte:
            at = address >> 3
            return at if not address & 7 and at >> 9 in self.own and kinds.get(at >> 9) == L1 else None
        table = self.guest.domain.core.cr3 >> 12
        for level in (4, 3, 2):
            entry = self.word(table, address >> (3 + 9 * level) & 511)
            if not entry & PRESENT:
                return None
            table = (entry & FRAME) >> 12
        return table << 9 | address >> 12 & 511 if table in self.own and kinds.get(table) == L1 else None

    def granted(self, ref: int, domid: int, write: bool, mapping: bool = True) -> tuple[int, int]:
        """Status of one more use of an entry, and the frame. A mapping wants a whole page; a copy is predicted for version 1 only."""
        grants = self.guest.domain.grants
        size = 8 if grants.version == 1 else 16
        if ref >= len(grants.shared) * 4096 // size:
            return abi.GNTST_bad_gntref, 0
        at = (grants.shared[0] << 12) + ref * size
        layout = "<HHI" if size == 8 else "<HHxxxxQ"
        kind, user, frame = struct.unpack_from(layout, self.guest.domain.memory.bytes, at)
        pin = self.pins.get(ref)
        if pin is not None and pin.domid != domid:
            return abi.GNTST_general_error, 0
        if pin is None and (kind & abi.GTF_type_mask != abi.GTF_permit_access or (mapping and kind & abi.GTF_sub_page) or user != domid):
            return abi.GNTST_general_error, 0
        if write and kind & abi.GTF_readonly and (pin is None or not pin.writes):
            return abi.GNTST_general_error, 0
        mfn = frame if pin is None else pin.mfn
        if mfn not in self.own and mfn not in self.shared:
            return abi.GNTST_bad_page, 0
        if write and self.guest.recount()[0].get(mfn, WRITABLE) != WRITABLE:
            return abi.GNTST_general_error, 0
        return 0, mfn

    def takes(self, ref: int, domid: int, gave: bool) -> int:
        """Status of a page that `domid` hands over. `gave`: it is this domain itself, which has one less by then."""
        grants, kept = self.guest.domain.grants, self.guest.domain.reservation
        size = 8 if grants.version == 1 else 16
        flags, user = struct.unpack_from("<HH", self.guest.domain.memory.bytes, (grants.shared[0] << 12) + ref * size)
        room = len(self.own) - gave < self.maximum and len(kept.free) + gave > 0
        return 0 if room and (flags, user) == (abi.GTF_accept_transfer, domid) else abi.GNTST_general_error

    def taken(self, ref: int, domid: int, mfn: int, write: bool) -> None:
        pin = self.pins.setdefault(ref, Pin(domid, mfn))
        pin.reads, pin.writes = pin.reads + (not write), pin.writes + write

    def given(self, ref: int, write: bool) -> None:
        pin = self.pins[ref]
        pin.reads, pin.writes = pin.reads - (not write), pin.writes - write
        if not pin.reads and not pin.writes:
            del self.pins[ref]


def agrees(predicted: Prediction, result: int) -> bool:
    """Whether a result (negative errno, 0) is what was predicted."""
    if predicted is None:
        return True
    return result < 0 if predicted == REFUSED else result == -int(predicted)


