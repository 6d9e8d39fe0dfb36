"""References that the leaves of page tables (L1 entries) hold on the frames they map: get_page_from_l1e and put_page_from_l1e.

A writable leaf holds a use of its frame as WRITABLE, a read-only one a use of no type.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from emulator.abi.errno import EBUSY, EINVAL, EPERM
from emulator.abi.xen import FRAME_MASK, GUEST_KERNEL, PCD, PSE, PWT, RW, USER
from emulator.hypervisor.memory.frames import GUEST, NONE, OWNER_NAMES, SHARED, WRITABLE, FrameTable
from emulator.hypervisor.refusal import Refusal

L1_DISALLOWED: Final = PWT | PCD | PSE
"""PSE is PAT in a leaf: cache attributes are for domains with devices (l1_disallow_mask)."""
_INVALID_MFN: Final = FRAME_MASK >> 12

_U64 = np.uint64
_N_FRAME, _N_RW, _N_KERNEL_USER = _U64(FRAME_MASK), _U64(RW), _U64(USER | GUEST_KERNEL)
_N_1, _N_2, _N_8, _N_12, _N_52 = (_U64(n) for n in (1, 2, 8, 12, 52))  # shifts: RW, USER, GLOBAL, frame, GUEST_KERNEL
_ONE = np.int32(1)


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
        if int(np.bitwise_or.reduce(entries)) & L1_DISALLOWED:
            return False
        targets, writes = self._split(entries)
        if targets.max() >= frames.frames:
            return False
        owners = frames.owners[targets]
        if not (owners == GUEST).all() and (owners.min() < GUEST or owners.max() > SHARED):
            return False
        untyped = frames.types[targets] != WRITABLE
        if untyped.any() and (untyped & (frames.counts[targets] > 0) & (writes != 0)).any():
            return False
        np.add.at(frames.counts, targets, writes)
        if writes.all():
            frames.types[targets] = WRITABLE
        else:
            frames.types[targets[writes != 0]] = WRITABLE
            np.add.at(frames.reads, targets, _ONE - writes)
        return True

    def drop_leaves(self, entries: NDArray[np.uint64]) -> None:
        """The references of present L1 entries go."""
        frames = self._frames
        targets, writes = self._split(entries)
        np.subtract.at(frames.counts, targets, writes)
        unused = frames.counts[targets] == 0
        if unused.any():
            frames.types[targets[unused]] = NONE
        if not writes.all():
            np.subtract.at(frames.reads, targets, _ONE - writes)
        if frames.leaving:
            for target in targets.tolist():
                self.gone(target)

    @staticmethod
    def _split(entries: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Frames, and 1 for each that is mapped writable (of the counts' own type: `add.at` is 20 times slower where it must convert)."""
        return ((entries & _N_FRAME) >> _N_12).view(np.int64), ((entries & _N_RW) >> _N_1).astype(np.int32)

    @staticmethod
    def adjust(entries: NDArray[np.uint64]) -> None:
        """adjust_guest_l1e on present entries."""
        if not int(np.bitwise_or.reduce(entries)) & USER:
            entries |= _N_KERNEL_USER
            return
        if not int(np.bitwise_and.reduce(entries)) & USER:
            without = ~entries >> _N_2 & _N_1
            entries |= without << _N_2 | without << _N_52
        if not int(np.bitwise_and.reduce(entries)) & GUEST_KERNEL:
            entries |= (~entries >> _N_52 & _N_1) << _N_8

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
