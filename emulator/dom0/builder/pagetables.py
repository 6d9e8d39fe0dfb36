"""The bootstrap page tables: how many there are, where they lie, and what stands in them.

Follows tools/libs/guest/xg_dom_x86.c (count_pgtables, setup_pgtables_pv) to the table, since guests compute with it.
A mapping's tables lie one after another in PFNs, L4 first (in the first mapping only), then L3, L2, L1:

    pfn      first        +1          +1+n3          +1+n3+n2
             | L4 | L3 … | L2 … | L1 … |

A table that an earlier mapping has already is shared with it, so a second mapping brings only what is missing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from emulator.errors import UserError

PAGE_SHIFT: Final = 12
LEVELS: Final = 4
_VADDR_MASK: Final = (1 << 48) - 1

_PAGE_PRESENT: Final = 0x001
_PAGE_RW: Final = 0x002
_PAGE_USER: Final = 0x004
_PAGE_ACCESSED: Final = 0x020
_PAGE_DIRTY: Final = 0x040
L1_PROT: Final = _PAGE_PRESENT | _PAGE_RW | _PAGE_ACCESSED
L2_PROT: Final = L1_PROT | _PAGE_DIRTY | _PAGE_USER
"""Also that of L3 and L4."""


@dataclass(frozen=True, slots=True)
class Level:
    """One level's tables of a mapping: the addresses they span (`to` inclusive; both 0 when shared), first PFN, count."""

    start: int = 0
    to: int = 0
    pfn: int = 0
    tables: int = 0


@dataclass(frozen=True, slots=True)
class Mapping:
    """`to` - `start` + 1 bytes of virtual addresses (48 bits of them) mapped to the frames from `pfn` on; levels[0] is L1."""

    start: int
    to: int
    pfn: int
    levels: tuple[Level, Level, Level, Level]

    @property
    def tables(self) -> int:
        return sum(level.tables for level in self.levels)

    @property
    def table_pfns(self) -> range:
        first = self.levels[LEVELS - 1].pfn
        return range(first, first + self.tables)


def count_tables(earlier: tuple[Mapping, ...], start: int, to: int, pfn: int, tables_pfn: int, source: str) -> Mapping:
    """Plan a mapping of [start, to] to the frames from `pfn` on, its tables from `tables_pfn` on."""
    if any(start & _VADDR_MASK < other.to and to & _VADDR_MASK > other.start for other in earlier):
        raise UserError("ELF note INIT_P2M: overlaps the kernel's own mapping", where=source, why=f"{start:#x} to {to:#x}")
    start &= _VADDR_MASK
    to &= _VADDR_MASK
    levels: list[Level] = []
    used = 0
    for index in reversed(range(LEVELS)):
        if index == LEVELS - 1:
            level = Level(0, _VADDR_MASK, tables_pfn, 1) if not earlier else Level(pfn=tables_pfn)
        else:
            level = _missing(earlier, index, start, to, tables_pfn + used, source)
        used += level.tables
        levels.append(level)
    l4, l3, l2, l1 = levels
    return Mapping(start, to, pfn, (l1, l2, l3, l4))


def _missing(earlier: tuple[Mapping, ...], index: int, start: int, to: int, pfn: int, source: str) -> Level:
    bits = PAGE_SHIFT + (index + 1) * 9
    mask = (1 << bits) - 1
    low, high = start & ~mask, to | mask
    for other in (mapping.levels[index] for mapping in earlier):
        if other.start == other.to:
            continue
        if low >= other.start and high <= other.to:
            return Level(pfn=pfn)
        if low < other.start and high > other.to:
            raise UserError("ELF note INIT_P2M: lies around the kernel's own mapping", where=source)
        if other.start <= low <= other.to:
            low = other.to + 1
        if other.start <= high <= other.to:
            high = other.start - 1
    return Level(low, high, pfn, (high - low >> bits) + 1 if low < high else 0)


def build_tables(mappings: tuple[Mapping, ...], p2m: NDArray[np.uint64]) -> Iterator[tuple[int, NDArray[np.uint64]]]:
    """(first PFN, entries of that table and those after it) for every run of tables; entries hold machine addresses.

    Frames that are page tables themselves are mapped read-only, or Xen would refuse to pin the whole.
    """
    for index in reversed(range(LEVELS)):
        shift = PAGE_SHIFT + index * 9
        for mapping in mappings:
            level = mapping.levels[index]
            if not level.tables:
                continue
            entries = np.zeros(level.tables * 512, dtype=np.uint64)
            for target in mappings:
                lower = target.levels[index - 1] if index else Level(target.start, target.to, target.pfn, 1)
                if not lower.tables or lower.start >= level.to or lower.to <= level.start:
                    continue
                first = max(level.start, lower.start) - level.start >> shift
                last = min(level.to, lower.to) - level.start >> shift
                pfn = (max(level.start, lower.start) - lower.start >> shift) + lower.pfn
                entries[first : last + 1] = _entries(mappings, p2m, pfn, last + 1 - first, index)
            yield level.pfn, entries


def _entries(mappings: tuple[Mapping, ...], p2m: NDArray[np.uint64], pfn: int, count: int, index: int) -> NDArray[np.uint64]:
    entries = p2m[pfn : pfn + count] << np.uint64(PAGE_SHIFT) | np.uint64(L2_PROT if index else L1_PROT)
    if index == 0:
        for mapping in mappings:
            tables = mapping.table_pfns
            low, high = max(tables.start - pfn, 0), max(tables.stop - pfn, 0)
            entries[low:high] &= np.uint64(~_PAGE_RW & (1 << 64) - 1)
    return entries
