"""What a disk's contents are made of: runs of zeros, of a base's bytes, of the image's own."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

ZERO: Final = 0
BASE: Final = 1
OWN: Final = 2
KINDS: Final = ("zero", "base", "own")
_MAX_EXTENTS: Final = 1 << 16


@dataclass(frozen=True)
class Layout:
    """Runs in order: `starts` in bytes, the first 0, `kinds` one of the above each; a run ends where the next begins, the last at `size`."""

    starts: NDArray[np.int64]
    kinds: NDArray[np.uint8]
    size: int

    def at(self, offsets: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The kinds of these bytes."""
        return self.kinds[np.searchsorted(self.starts, offsets, side="right") - 1]

    def bytes_of(self, kind: int, block: int) -> NDArray[np.int64]:
        """How many bytes of a kind each block of `block` bytes has; the last block may be short."""
        lengths = np.diff(self.starts, append=self.size)
        before = np.concatenate(([0], np.cumsum(np.where(self.kinds == kind, lengths, 0))))
        bounds = np.append(np.arange(0, self.size, block), self.size)
        # Between two starts the count grows evenly or not at all; a double holds every byte of the largest disk exactly.
        grown = np.interp(bounds, np.append(self.starts, self.size), before)
        counts: NDArray[np.int64] = np.diff(np.rint(grown).astype(np.int64))
        return counts


def over(own: Layout, base: Layout | None) -> Layout:
    """An overlay's layout with what its base has for the runs that are the base's; beyond the base's end lie zeros."""
    if base is None:
        return Layout(own.starts, np.where(own.kinds == BASE, ZERO, own.kinds).astype(np.uint8), own.size)
    starts = np.union1d(own.starts, np.append(base.starts, base.size))
    starts = starts[starts < own.size]
    below = np.where((base.at(starts) == ZERO) | (starts >= base.size), ZERO, BASE)
    above = own.at(starts)
    kinds = np.where(above == BASE, below, above).astype(np.uint8)
    kept = np.flatnonzero(np.diff(kinds, prepend=kinds[0] + 1))
    return Layout(starts[kept], kinds[kept], own.size)


def file_layout(descriptor: int, size: int) -> Layout:
    """Of a raw file: its holes are zeros. What lies beyond 65,536 extents, or cannot tell, counts as its own."""
    starts, kinds, at = [0], [ZERO], 0
    try:
        while at < size and len(starts) < _MAX_EXTENTS:
            data = os.lseek(descriptor, at, os.SEEK_DATA)
            if data >= size:
                break
            hole = min(size, os.lseek(descriptor, data, os.SEEK_HOLE))
            starts += [data, hole]
            kinds += [OWN, ZERO]
            at = hole
        else:
            kinds[-1] = OWN if at < size else ZERO
    except OSError as bad:
        if bad.errno == errno.EINVAL:  # a device, or a file system that knows no holes
            starts, kinds = [0], [OWN]
        elif bad.errno != errno.ENXIO:  # no data from here on
            raise
    first = np.array(starts, dtype=np.int64)
    lasts = np.append(first[1:], size) > first  # no empty runs
    return Layout(first[lasts], np.array(kinds, dtype=np.uint8)[lasts], size)
