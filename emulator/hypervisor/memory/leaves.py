"""References that the leaves of page tables (L1 entries) hold on the frames they map: get_page_from_l1e and put_page_from_l1e.

A writable leaf holds a use of its frame as WRITABLE, a read-only one a use of no type.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from emulator.abi.errno import EBUSY, EINVAL, EPERM
from emulator.abi.xen import FRAME_MASK, GLOBAL, GUEST_KERNEL, NX, PCD, PSE, PWT, RW, USER
from emulator.hypervisor.memory.frames import GUEST, NONE, OWNER_NAMES, SHARED, WRITABLE, FrameTable
from emulator.hypervisor.refusal import Refusal

L1_DISALLOWED: Final = PWT | PCD | PSE
"""PSE is PAT in a leaf: cache attributes are for domains with devices (l1_disallow_mask)."""
_INVALID_MFN: Final = FRAME_MASK >> 12

_U64 = np.uint64
_N_GLOBAL, _N_NX, _N_KERNEL_USER = _U64(GLOBAL), _U64(NX), _U64(USER | GUEST_KERNEL)
_N_FRAME_RW, _N_CARRY, _N_11 = _U64(FRAME_MASK | RW), _U64(0x800 - RW), _U64(11)  # of the low bits only RW is left, and carried into bit 11
_N_1, _N_2, _N_8, _N_52 = (_U64(n) for n in (1, 2, 8, 52))  # shifts: RW, USER, GLOBAL, GUEST_KERNEL
_ONE, _ONES = np.int64(1), np.ones(512, dtype=np.int32)
_ONES.flags.writeable = False
_ALL_GUEST, _ALL_WRITABLE = bytes([GUEST]) * 512, bytes([WRITABLE]) * 512  # bytes are compared and counted faster than arrays


def bits(entries: NDArray[np.uint64]) -> tuple[int, int]:
    """The OR and the AND of all."""
    return int(np.bitwise_or.reduce(entries)), int(np.bitwise_and.reduce(entries))


class Leaves:
    """Counting for one domain; `stale` as in pagetables."""

    def __init__(self, frames: FrameTable) -> None:
        self._frames = frames
        self._names, self._numbers = np.empty(512, dtype=np.uint64), np.empty(512, dtype=np.int64)  # room for the work on one table
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

    def take_leaves(self, entries: NDArray[np.uint64], some: int, every: int) -> bool:
        """References for present L1 entries, all or none; `some` and `every` are the OR and the AND of them (`bits`)."""
        frames = self._frames
        if some & L1_DISALLOWED:
            return False
        slots, targets = self._uses(entries)
        count = len(targets)
        try:
            owners = frames.owners.take(targets).tobytes()
        except IndexError:  # a frame beyond the machine's memory
            return False
        if owners != _ALL_GUEST[:count] and owners.count(GUEST) + owners.count(SHARED) != count:
            return False
        if some & RW:
            kinds = frames.types.take(targets)
            plain = kinds.tobytes()
            if plain != _ALL_WRITABLE[:count]:
                writes = (slots & _ONE).view(np.bool_)[::8]
                if plain.count(WRITABLE) + plain.count(NONE) != count and ((kinds != WRITABLE) & (kinds != NONE) & writes).any():
                    return False
                frames.types[targets[writes]] = WRITABLE
        np.add.at(frames.tally, slots, _ONES[:count])
        return True

    def mark_code(self, entries: NDArray[np.uint64], every: int) -> None:
        """What present L1 entries without NX map may become code; `every` is the AND of them."""
        if not every & NX:
            self._frames.code[self._uses(entries[(entries & _N_NX) == 0])[1]] = 1

    def drop_leaves(self, entries: NDArray[np.uint64]) -> None:
        """The references of present L1 entries go."""
        frames = self._frames
        slots, targets = self._uses(entries)
        count = len(targets)
        np.subtract.at(frames.tally, slots, _ONES[:count])
        used = frames.counts[targets] != 0
        if used.tobytes().count(1) != count:
            frames.types[targets[~used]] = NONE
        if frames.leaving:
            for target in targets.tolist():
                self.gone(target)

    def _uses(self, entries: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Of at most 512 entries: where the use that each holds is counted (FrameTable.tally), and the frame that it names."""
        count = len(entries)
        found = np.bitwise_and(entries, _N_FRAME_RW, out=self._names[:count])
        np.add(found, _N_CARRY, out=found)
        slots = np.right_shift(found, _N_11, out=found).view(np.int64)
        return slots, np.right_shift(slots, _ONE, out=self._numbers[:count])

    @staticmethod
    def adjust(entries: NDArray[np.uint64], some: int, every: int) -> None:
        """adjust_guest_l1e on present entries; `some` and `every` as in `take_leaves`."""
        if not some & USER:
            entries |= _N_KERNEL_USER
        elif every & USER and not some & GUEST_KERNEL:
            if not every & GLOBAL:
                entries |= _N_GLOBAL
        else:
            without = ~entries >> _N_2 & _N_1
            entries |= without << _N_2 | without << _N_52
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
