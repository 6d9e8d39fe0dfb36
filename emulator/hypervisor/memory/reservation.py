"""How many frames a domain owns, and which: the memory reservation (xen/common/memory.c, domain's tot_pages and max_pages).

The host's pool has set `maximum` frames aside for the domain, so that whether it gets another is decided by what it was told last,
and never by what other domains do meanwhile: a domain's run can be repeated. Lowering `maximum` below what the domain owns takes
nothing away; each frame that comes back is the pool's then.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from emulator.cpu.core import Core
from emulator.hypervisor.layout import INVALID_M2P, XenLayout
from emulator.hypervisor.memory.frames import FREE, GUEST, NONE, FrameTable
from emulator.machine.memory import MachineMemory

if TYPE_CHECKING:
    from emulator.hypervisor.domain import Domain

Saved = tuple[int, int, tuple[int, ...], bytes]


@dataclass(frozen=True, slots=True)
class SetMaximum:
    """XEN_DOMCTL_max_mem, as a message to the domain."""

    frames: int

    def apply(self, domain: Domain) -> None:
        domain.reservation.set_maximum(self.frames)


class Reservation:
    """The domain's frames: `owned` now, at most `maximum` (d->max_pages); the others of its address space are free. `e820_frames` is
    the size of the pseudo-physical map that the guest is shown. `p2m[pfn]` as the domain was built."""

    def __init__(self, memory: MachineMemory, frames: FrameTable, layout: XenLayout, core: Core, p2m: NDArray[np.uint64], present: int) -> None:
        self._memory, self._frames, self._layout, self._core = memory, frames, layout, core
        self.owned, self.maximum, self.e820_frames = present, present, len(p2m)
        self.e820 = b""  # a memory map that the guest has set itself
        self.on_claim: Callable[[], None] = lambda: None
        """`claim` has changed."""
        first = layout.first_guest
        frames.owners[first : first + len(p2m)] = FREE
        mfns = p2m[:present].astype(np.int64)
        frames.owners[mfns] = GUEST
        layout.m2p[mfns] = np.arange(present, dtype=np.uint64)
        self.free: dict[int, None] = dict.fromkeys(p2m[present:][::-1].tolist())  # the last is the next to go: a list that any frame leaves at once
        frames.share(layout.shared_info_mfn)

    @property
    def claim(self) -> int:
        """Frames that the host's pool must hold ready for the domain: those owned, and those it may still take."""
        return max(self.owned, self.maximum)

    def set_maximum(self, frames: int) -> None:
        """XEN_DOMCTL_max_mem. The caller has the host's pool grant a larger claim first."""
        self.maximum = min(frames, self.e820_frames)
        self.on_claim()

    def take(self) -> int | None:
        """A zeroed frame more for the domain, None at its maximum."""
        if not self.free or self.owned >= self.maximum:
            return None
        mfn = self.free.popitem()[0]
        self._core.forget_frame(mfn)
        self._frames.owner[mfn] = GUEST
        self.owned += 1
        return mfn

    def give(self, mfn: int) -> None:
        """A frame that nobody uses goes back: scrubbed, its memory the host's again."""
        self._frames.owner[mfn], self._frames.type[mfn], self._frames.executable[mfn] = FREE, NONE, 0
        self._layout.set_m2p(mfn, INVALID_M2P)
        self._memory.scrub(mfn)
        self._core.forget_frame(mfn)
        self.free[mfn] = None
        self.owned -= 1
        if self.owned >= self.maximum:
            self.on_claim()

    def release(self, mfn: int) -> bool:
        """guest_remove_page: the domain gives a frame back. False when it has no such frame. One that is still in use (mapped, a
        table, granted) stays the domain's until its last use is gone."""
        frames = self._frames
        if mfn >= frames.frames or frames.owner[mfn] != GUEST:
            return False
        if frames.count[mfn] or frames.readers[mfn]:
            frames.leaving.add(mfn)
        else:
            self.give(mfn)
        return True

    def part_with(self, mfn: int) -> bytes | None:
        """steal_page for another domain: what the frame held, the frame given back; None when it has another use, or is not the
        domain's."""
        if not self.steal(mfn):
            return None
        self.unsteal([mfn])
        contents = bytes(self._memory.frame(mfn))
        self.give(mfn)
        return contents

    def steal(self, mfn: int) -> bool:
        """steal_page: take a frame away that has no use but its allocation; it is nobody's then, and counted still."""
        frames = self._frames
        if mfn >= frames.frames or frames.owner[mfn] != GUEST or frames.count[mfn] or frames.readers[mfn] or mfn in frames.leaving:
            return False
        frames.owner[mfn] = FREE
        return True

    def unsteal(self, mfns: list[int]) -> None:
        for mfn in mfns:
            self._frames.owner[mfn] = GUEST

    def swap(self, stolen: list[int], extents: int, order: int) -> list[int] | None:
        """Frames that were stolen for as many fresh ones, in aligned extents; None (and nothing done) when there are no such. Those
        that come in are used again where no others are free: the address space holds no more than the domain's most."""
        incoming = dict.fromkeys(stolen)
        found: list[int] = []
        while len(found) < extents and (first := self._find(order, incoming)) is not None:
            found.append(first)
        if len(found) < extents:
            for first in reversed(found):
                for mfn in range(first, first + (1 << order)):
                    self._frames.owner[mfn] = FREE
                    self.free[mfn] = None
            for mfn in stolen:
                self.free.pop(mfn, None)
            return None
        for mfn in stolen:
            self._layout.set_m2p(mfn, INVALID_M2P)
            self._memory.scrub(mfn)
        self.free.update(incoming)
        return found

    def take_extent(self, order: int) -> int | None:
        """The first of 2**order frames, contiguous and aligned; None when there are none."""
        if self.owned + (1 << order) > self.maximum or (first := self._find(order, {})) is None:
            return None
        self.owned += 1 << order
        return first

    def _find(self, order: int, incoming: dict[int, None]) -> int | None:
        """Make an aligned extent of free frames the domain's: the lowest there is, those `incoming` counted in; a single one where it is
        quickest, and of those only when there is no other. A guest may ask for hundreds at once, out of hundreds of thousands."""
        if not order:
            kept = self.free or incoming
            if not kept:
                return None
            first = kept.popitem()[0]
        else:
            base = self._layout.first_guest >> order << order
            end = self._layout.first_guest + self.e820_frames >> order << order
            whole = self._frames.owners[base:end] == FREE
            for _halving in range(order):
                whole = whole[0::2] & whole[1::2]
            if not whole.any():
                return None
            first = base + (int(whole.argmax()) << order)
        for mfn in range(first, first + (1 << order)):
            self.free.pop(mfn, None)
            incoming.pop(mfn, None)
            self._core.forget_frame(mfn)
            self._frames.owner[mfn] = GUEST
        return first

    def check(self) -> None:
        """The invariant: what is owned and what is free is all there is, and the owners agree. Raises AssertionError."""
        first, frames = self._layout.first_guest, self._frames
        owners = frames.owners[first : first + self.e820_frames]
        owned, free = int((owners == GUEST).sum()), int((owners == FREE).sum())
        assert owned == self.owned and free == len(self.free) and owned + free == self.e820_frames, (owned, self.owned, free, len(self.free))
        assert all(frames.owner[mfn] == FREE and not frames.uses(mfn) for mfn in self.free)
        assert (frames.counts >= 0).all() and (frames.reads >= 0).all()

    def save(self) -> Saved:
        return self.owned, self.maximum, tuple(self.free), self.e820

    def load(self, state: Saved) -> None:
        self.owned, self.maximum, free, self.e820 = state
        self.free = dict.fromkeys(free)
        self.on_claim()
