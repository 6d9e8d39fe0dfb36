"""References that the leaves of page tables (L1 entries) hold on the frames they map: get_page_from_l1e and put_page_from_l1e.

A writable leaf holds a use of its frame as WRITABLE, a read-only one a use of no type.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from emulator.abi.errno import EBUSY, EINVAL, EPERM
from emulator.abi.xen import FRAME_MASK, GLOBAL, GUEST_KERNEL, PCD, PSE, PWT, RW, USER
from emulator.hypervisor.memory.frames import GUEST, NONE, OWNER_NAMES, SHARED, WRITABLE, FrameTable
from emulator.hypervisor.refusal import Refusal

L1_DISALLOWED: Final = PWT | PCD | PSE
"""PSE is PAT in a leaf: cache attributes are for domains with devices (l1_disallow_mask)."""
_INVALID_MFN: Final = FRAME_MASK >> 12

_U64 = np.uint64
_N_FRAME, _N_RW, _N_USER, _N_KERNEL = _U64(FRAME_MASK), _U64(RW), _U64(USER), _U64(GUEST_KERNEL)
_N_DISALLOWED, _N_GLOBAL, _N_12 = _U64(L1_DISALLOWED), _U64(GLOBAL), _U64(12)


class Leaves:
    """Counting for one domain; `stale` as in pagetables."""

    def __init__(self, frames: FrameTable) -> None:
        self._frames = frames
        self.stale = False
        self.freed: Callable[[int], None] = lambda mfn: None
        """A frame that was leaving has lost its last use."""

    def get(self, mfn: int) -> None:
        """One more use of a frame that asks for no type. Raises Refusal."""
        if not self._frames.owned(mfn):
            raise Refusal(EINVAL, f"frame {mfn:#x} is not the domain's own")
        self._frames.readers[mfn] += 1

    def put(self, mfn: int) -> None:
        self._frames.readers[mfn] -= 1
        if self._frames.leaving:
            self.gone(mfn)

    def gone(self, mfn: int) -> None:
        """A leaving frame without a use is no longer the domain's."""
        frames = self._frames
        if mfn in frames.leaving and not frames.count[mfn] and not frames.readers[mfn]:
            frames.leaving.discard(mfn)
            self.stale = True
            self.freed(mfn)

    def take_leaves(self, entries: NDArray[np.uint64]) -> bool:
        """References for present L1 entries, all or none."""
        frames = self._frames
        if np.bitwise_or.reduce(entries) & _N_DISALLOWED:
            return False
        targets = ((entries & _N_FRAME) >> _N_12).astype(np.int64)
        if targets.max() >= frames.frames:
            return False
        owners = frames.owners[targets]
        if ((owners - np.uint8(GUEST)) > np.uint8(SHARED - GUEST)).any():
            return False
        writes = (entries & _N_RW) != 0
        writable = targets[writes]
        if ((frames.types[writable] != WRITABLE) & (frames.counts[writable] > 0)).any():
            return False
        frames.types[writable] = WRITABLE
        np.add.at(frames.counts, writable, 1)
        if writable.size != targets.size:
            np.add.at(frames.reads, targets[~writes], 1)
        return True

    def drop_leaves(self, entries: NDArray[np.uint64]) -> None:
        """The references of present L1 entries go."""
        frames = self._frames
        targets = ((entries & _N_FRAME) >> _N_12).astype(np.int64)
        writes = (entries & _N_RW) != 0
        writable = targets[writes]
        np.subtract.at(frames.counts, writable, 1)
        frames.types[writable[frames.counts[writable] == 0]] = NONE
        if writable.size != targets.size:
            np.subtract.at(frames.reads, targets[~writes], 1)
        if frames.leaving:
            for target in targets.tolist():
                self.gone(target)

    @staticmethod
    def adjust(entries: NDArray[np.uint64]) -> None:
        """adjust_guest_l1e on present entries."""
        kernel = (entries & _N_USER) == 0
        entries[kernel] |= _U64(USER | GUEST_KERNEL)
        entries[(entries & _N_KERNEL) == 0] |= _N_GLOBAL

    def check_leaf(self, entry: int, where: str) -> None:
        """get_page_from_l1e's refusals, without taking a reference."""
        frames = self._frames
        if entry & L1_DISALLOWED:
            raise Refusal(EINVAL, f"{where}: {entry:#x} asks for cache attributes, which are for domains with devices")
        target = (entry & FRAME_MASK) >> 12
        if target >= frames.frames:
            raise Refusal(EINVAL if target == _INVALID_MFN else EPERM, f"{where}: {entry:#x} names frame {target:#x}, beyond the machine's memory")
        if frames.owner[target] not in (GUEST, SHARED):
            raise Refusal(EBUSY, f"{where}: {entry:#x} names frame {target:#x} of {OWNER_NAMES[frames.owner[target]]}")
        if entry & RW and frames.count[target] and frames.type[target] != WRITABLE:
            raise Refusal(EBUSY, f"{where}: {entry:#x} maps frame {target:#x} writable, {frames.describe(target)}")

    def put_leaf(self, entry: int) -> None:
        frames = self._frames
        mfn = (entry & FRAME_MASK) >> 12
        if entry & RW:
            frames.count[mfn] -= 1
            if not frames.count[mfn]:
                frames.type[mfn] = NONE
        else:
            frames.readers[mfn] -= 1
        if frames.leaving:
            self.gone(mfn)
