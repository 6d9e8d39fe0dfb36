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
_N_FRAME, _N_GLOBAL, _N_NX, _N_KERNEL_USER, _WRITE = _U64(FRAME_MASK), _U64(GLOBAL), _U64(NX), _U64(USER | GUEST_KERNEL), np.int32(RW)
_N_1, _N_2, _N_8, _N_12, _N_52 = (_U64(n) for n in (1, 2, 8, 12, 52))  # shifts: RW, USER, GLOBAL, frame, GUEST_KERNEL
_ONE, _ONES = np.int32(1), np.ones(512, dtype=np.int32)
_ONES.flags.writeable = False


def bits(entries: NDArray[np.uint64]) -> tuple[int, int]:
    """The OR and the AND of all."""
    return int(np.bitwise_or.reduce(entries)), int(np.bitwise_and.reduce(entries))


class Leaves:
    """Counting for one domain; `stale` as in pagetables."""

    def __init__(self, frames: FrameTable) -> None:
        self._frames = frames
        self._names = np.empty(512, dtype=np.uint64)  # room for the work on one table: fresh arrays cost more than what is done with them
        self._writable, self._readable = np.empty(512, dtype=np.int32), np.empty(512, dtype=np.int32)
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
        targets = self._targets(entries)
        if int(np.maximum.reduce(targets)) >= frames.frames:
            return False
        count = len(targets)
        owners = frames.owners.take(targets).tobytes()  # counting in bytes is four times as fast as comparing arrays
        if owners.count(GUEST) != count and owners.count(GUEST) + owners.count(SHARED) != count:
            return False
        kinds = frames.types.take(targets)
        plain = kinds.tobytes()
        writable = plain.count(WRITABLE)
        clean = writable == count or writable + plain.count(NONE) == count
        if every & RW:
            if not clean:
                return False
            np.add.at(frames.counts, targets, _ONES[:count])
            if writable != count:
                frames.types[targets] = WRITABLE
        elif not some & RW:
            np.add.at(frames.reads, targets, _ONES[:count])
        else:
            writes, reads = self._rights(entries)
            if not clean and ((kinds != WRITABLE) & (kinds != NONE) & (writes != 0)).any():
                return False
            np.add.at(frames.counts, targets, writes)
            np.add.at(frames.reads, targets, reads)
            if writable != count:
                frames.types[targets[writes != 0]] = WRITABLE
        return True

    def mark_code(self, entries: NDArray[np.uint64], every: int) -> None:
        """What present L1 entries without NX map may become code; `every` is the AND of them."""
        if not every & NX:
            self._frames.code[self._targets(entries[(entries & _N_NX) == 0])] = 1

    def drop_leaves(self, entries: NDArray[np.uint64]) -> None:
        """The references of present L1 entries go."""
        frames = self._frames
        some, every = bits(entries)
        targets = self._targets(entries)
        count = len(targets)
        if not some & RW:
            np.subtract.at(frames.reads, targets, _ONES[:count])
        else:
            if every & RW:
                np.subtract.at(frames.counts, targets, _ONES[:count])
            else:
                writes, reads = self._rights(entries)
                np.subtract.at(frames.counts, targets, writes)
                np.subtract.at(frames.reads, targets, reads)
            used = frames.counts.take(targets) != 0
            if used.tobytes().count(1) != count:
                frames.types[targets[~used]] = NONE
        if frames.leaving:
            for target in targets.tolist():
                self.gone(target)

    def _targets(self, entries: NDArray[np.uint64]) -> NDArray[np.int64]:
        """The frames that at most 512 entries name."""
        found = np.bitwise_and(entries, _N_FRAME, out=self._names[: len(entries)])
        return np.right_shift(found, _N_12, out=found).view(np.int64)

    def _rights(self, entries: NDArray[np.uint64]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """1 for each writable entry, and 1 for each other (of the counts' own type: `add.at` is 20 times slower where it must convert)."""
        count = len(entries)
        writes = np.bitwise_and(entries.view(np.int32)[::2], _WRITE, out=self._writable[:count])
        np.right_shift(writes, _ONE, out=writes)
        return writes, np.subtract(_ONE, writes, out=self._readable[:count])

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
