"""How many frames a domain owns, and which: the memory reservation (xen/common/memory.c, domain's tot_pages and max_pages)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from emulator.cpu.core import Core
from emulator.hypervisor.layout import INVALID_M2P, XenLayout
from emulator.hypervisor.memory.frames import FREE, GUEST, SHARED, FrameTable
from emulator.machine.memory import MachineMemory


class Reservation:
    """The domain's frames: `owned` now, at most `maximum`; the others of its address space are free. `e820_frames` is the size of
    the pseudo-physical map that the guest is shown. `p2m[pfn]` as the domain was built."""

    def __init__(self, memory: MachineMemory, frames: FrameTable, layout: XenLayout, core: Core, p2m: NDArray[np.uint64], present: int) -> None:
        self._memory, self._frames, self._layout, self._core = memory, frames, layout, core
        self.owned, self.maximum, self.e820_frames = present, len(p2m), len(p2m)
        first = layout.first_guest
        frames.owners[first : first + len(p2m)] = FREE
        mfns = p2m[:present].astype(np.int64)
        frames.owners[mfns] = GUEST
        layout.m2p[mfns] = np.arange(present, dtype=np.uint64)
        self.free = [int(mfn) for mfn in p2m[present:][::-1]]
        frames.owner[layout.shared_info_mfn] = SHARED

    def take(self) -> int | None:
        """A zeroed frame more for the domain, None at its maximum."""
        if not self.free:
            return None
        mfn = self.free.pop()
        self._memory.frame(mfn)[:] = bytes(4096)
        self._core.forget_frame(mfn)
        self._frames.owner[mfn] = GUEST
        self.owned += 1
        return mfn

    def give(self, mfn: int) -> None:
        """A frame that nobody uses goes back."""
        self._frames.owner[mfn] = FREE
        self._layout.set_m2p(mfn, INVALID_M2P)
        self.free.append(mfn)
        self.owned -= 1

    def release(self, mfn: int) -> bool:
        """XENMEM_decrease_reservation of one frame: False when it is not the guest's or still in use."""
        frames = self._frames
        if mfn >= frames.frames or frames.owner[mfn] != GUEST or frames.count[mfn]:
            return False
        self.give(mfn)
        return True

    def save(self) -> tuple[int, tuple[int, ...]]:
        return self.owned, tuple(self.free)

    def load(self, state: tuple[int, tuple[int, ...]]) -> None:
        self.owned, self.free = state[0], list(state[1])
