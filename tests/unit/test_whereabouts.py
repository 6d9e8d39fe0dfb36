"""Who names a frame, on tables made by hand: mappings, tables above, several ways, entries nobody leads to, and the bounds."""

from __future__ import annotations

import numpy as np

from emulator.hypervisor.memory.frames import L1, L2, L3, L4, WRITABLE, FrameTable
from emulator.hypervisor.memory.whereabouts import MOST_ENTRIES, find

PRESENT, RW = 1, 3


def tables() -> tuple[np.ndarray, FrameTable]:
    """L4 8 → L3 7 → L2 6 → L1 5 → frame 20, at 0xffff8880_40203000."""
    words, frames = np.zeros((32, 512), dtype=np.uint64), FrameTable(32)
    for mfn, kind in ((5, L1), (6, L2), (7, L3), (8, L4), (20, WRITABLE)):
        frames.type[mfn], frames.count[mfn] = kind, 1
    words[8, 0x111] = 7 << 12 | RW
    words[7, 1] = 6 << 12 | RW
    words[6, 1] = 5 << 12 | RW
    words[5, 3] = 20 << 12 | RW | 1 << 63
    return words, frames


def test_a_mapping_is_found_with_its_address() -> None:
    words, frames = tables()
    found = find(words.reshape(-1), frames, 20)
    assert [(e.level, e.table, e.slot, e.address) for e in found.entries] == [(1, 5, 3, 0xFFFF888040203000)]
    assert found.entries[0].value == 20 << 12 | RW | 1 << 63 and found.whole and found.total == 1


def test_a_table_is_named_by_the_level_above_and_mapped_read_only() -> None:
    words, frames = tables()
    words[5, 4] = 6 << 12 | PRESENT
    found = find(words.reshape(-1), frames, 6)
    assert [(e.level, e.table, e.slot, e.address) for e in found.entries] == [(1, 5, 4, 0xFFFF888040204000), (3, 7, 1, 0xFFFF888040000000)]


def test_a_table_that_nothing_leads_to_has_no_address_and_absent_entries_do_not_count() -> None:
    words, frames = tables()
    words[8, 0x111] = 0
    words[5, 9] = 20 << 12
    found = find(words.reshape(-1), frames, 20)
    assert [e.address for e in found.entries] == [-1]


def test_many_mappings_are_counted_and_the_first_are_kept() -> None:
    words, frames = tables()
    words[5, :] = 20 << 12 | PRESENT
    found = find(words.reshape(-1), frames, 20)
    assert found.total == 512 and len(found.entries) == MOST_ENTRIES
