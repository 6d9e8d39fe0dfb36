"""Who names a frame: the page-table entries that map it or use it as a table, and where the guest sees it.

A question for people, asked of one frame at a time; nothing of the guest's work waits on it. Tables are read whole with NumPy,
a bounded number of them at once, so that a domain with thousands of tables costs some milliseconds and no memory to speak of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emulator.hypervisor.memory.frames import L1, L4, FrameTable

_PRESENT = 1
_FRAME = np.uint64(0x000FFFFFFFFFF000)
_CHUNK = 128  # tables read at once: 512 KiB
MOST_TABLES = 8192  # of one level: 16 GiB mapped by 4 KiB pages
MOST_ENTRIES = 64
_UNKNOWN = -1


@dataclass(frozen=True)
class Entry:
    """One page-table entry that names the frame. `level` is that of its table; `address` the first the entry reaches (one way down
    to it, -1 when no L4 leads there); `value` the entry itself."""

    level: int
    table: int
    slot: int
    address: int
    value: int


@dataclass(frozen=True)
class Whereabouts:
    """`entries`: the first MOST_ENTRIES of `total`; `whole` says whether every table was read."""

    entries: tuple[Entry, ...]
    total: int
    whole: bool


def find(words: NDArray[np.uint64], frames: FrameTable, mfn: int) -> Whereabouts:
    """The entries naming `mfn`: mappings in L1 tables, and where it is a table itself those of the level above.

    `words` is the domain's memory. Call it as a question of the domain (Domain.ask)."""
    tables = words.reshape(-1, 512)
    levels = [L1]
    kind = frames.type[mfn]
    if L1 <= kind < L4:
        levels.append(kind + 1)
    found: list[Entry] = []
    total, whole = 0, True
    for level in levels:
        hits, complete = _naming(tables, frames, level, np.array([mfn], dtype=np.uint64))
        whole &= complete
        total += len(hits)
        kept = hits[: MOST_ENTRIES - len(found)]
        ways = _ways(tables, frames, level, {table for table, _, _ in kept})
        for table, slot, value in kept:
            base = ways.get(table, _UNKNOWN)
            found.append(Entry(level, table, slot, _canonical(base + (slot << 12 + 9 * (level - 1))) if base >= 0 else _UNKNOWN, value))
    return Whereabouts(tuple(found), total, whole)


def _naming(tables: NDArray[np.uint64], frames: FrameTable, level: int, wanted: NDArray[np.uint64]) -> tuple[list[tuple[int, int, int]], bool]:
    """(table, slot, value) of every present entry of the level's tables that names one of the `wanted` frames."""
    mfns = np.flatnonzero((frames.types == level) & (frames.counts > 0))
    names = np.sort(wanted) << np.uint64(12)
    out: list[tuple[int, int, int]] = []
    for start in range(0, min(len(mfns), MOST_TABLES), _CHUNK):
        part = mfns[start : start + _CHUNK]
        entries = tables[part]
        masked = entries & _FRAME
        match = masked == names[0] if len(names) == 1 else np.isin(masked, names)
        rows, slots = np.nonzero(match & (entries & np.uint64(_PRESENT) != 0))
        out += [(int(part[row]), int(slot), int(entries[row, slot])) for row, slot in zip(rows, slots, strict=True)]
    return out, len(mfns) <= MOST_TABLES


def _ways(tables: NDArray[np.uint64], frames: FrameTable, level: int, wanted: set[int]) -> dict[int, int]:
    """For tables of a level, the first address that each covers, by one way down from an L4; those that none leads to are left out."""
    if level == L4 or not wanted:
        return dict.fromkeys(wanted, 0)
    parents, _ = _naming(tables, frames, level + 1, np.array(sorted(wanted), dtype=np.uint64))
    above = _ways(tables, frames, level + 1, {table for table, _, _ in parents})
    ways: dict[int, int] = {}
    for table, slot, value in parents:
        child = (value & int(_FRAME)) >> 12
        if table in above:
            ways.setdefault(child, above[table] + (slot << 12 + 9 * level))
    return ways


def _canonical(address: int) -> int:
    """Sign-extended from bit 47, as an unsigned 64-bit address."""
    return address | 0xFFFF000000000000 if address >> 47 & 1 else address
