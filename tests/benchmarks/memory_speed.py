"""What page tables cost: validating a full L1, lists of updates into one table, entries one by one. CPU time, in this process."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable

from emulator.hypervisor.memory.frames import L1
from emulator.hypervisor.memory.leaves import bits
from tests.benchmarks.table import Row
from tests.unit.domains import DATA, NX, PRESENT, PT_L1, RW, USER, Tiny, va
from tests.unit.widetree import LEAVES, Wide

GOAL_VALIDATE_US, GOAL_ENTRIES, GOAL_PIECE_MS = 15.0, 500_000, 5.0
PIN_L4, UNPIN = 3, 4
FRAMES = 2048
TABLE = 64  # PFN of the table that is filled
BATCH = 256


def _best(act: Callable[[], None], rounds: int, tries: int = 7) -> float:
    """Seconds for one `act`."""
    found = []
    for _ in range(tries):
        began = time.thread_time()
        for _round in range(rounds):
            act()
        found.append((time.thread_time() - began) / rounds)
    return min(found)


def pieces() -> Row:
    """How long one piece of a pin and an unpin of a wide tree holds its CPU: their mean, all pieces but the last being alike."""
    wide = Wide()
    began = time.thread_time()
    assert wide.extended(PIN_L4, wide.l4) == 0 and wide.extended(UNPIN, wide.l4) == 0
    spent = (time.thread_time() - began) / wide.pieces * 1e3
    found = wide.pieces
    wide.close()
    return Row("memory", f"a piece of pinning {LEAVES:,} L1 tables ({found} pieces)", f"{spent:.1f} ms", f"goal {GOAL_PIECE_MS:.0f} ms",
               spent / GOAL_PIECE_MS, "≤ 1")  # fmt: skip


def run() -> list[Row]:
    guest = Tiny(frames=400, max_frames=FRAMES)
    domain = guest.domain
    table = guest.mfn(TABLE)
    assert guest.update((guest.entry_address(TABLE), 0)) == (0, 1)  # no longer mapped writable
    words = domain.memory.words
    for index in range(512):
        flags = PRESENT | USER | NX | (RW if index % 8 else 0)
        words[table << 9 | index] = guest.mfn(100 + index % 256) << 12 | flags

    def there() -> None:
        domain.tables.get_type(table, L1)
        domain.tables.put_type(table)

    def release() -> None:
        domain.tables.drop_leaves(entries)
        domain.tables.take_leaves(entries, *bits(entries))

    domain.tables.get_type(table, L1)
    entries = domain.memory.quads[table << 9 : (table + 1) << 9].copy()
    away = _best(release, 300) / 2
    domain.tables.put_type(table)
    both = _best(there, 300)
    domain.tables.get_type(table, L1)

    at = table << 12
    first = b"".join(struct.pack("<QQ", at + 8 * n, guest.mfn(100 + n) << 12 | PRESENT | RW | USER | NX) for n in range(BATCH))
    second = b"".join(struct.pack("<QQ", at + 8 * n, guest.mfn(99 + n) << 12 | PRESENT | RW | USER | NX) for n in range(BATCH))
    lists = guest.put(DATA, first), guest.put(DATA + 1, second)

    def batch() -> None:
        for where in lists:
            assert guest.call("mmu_update", where, BATCH, 0, 0x7FF0) == 0

    def one() -> None:
        for where in lists:
            assert guest.call("mmu_update", where, 1, 0, 0x7FF0) == 0

    rate = 2 * BATCH / _best(batch, 30)
    single = _best(one, 300) / 2
    slot = guest.entry(200)

    def va_mapping() -> None:
        guest.call("update_va_mapping", va(200), 0, 0)
        guest.call("update_va_mapping", va(200), slot, 0)

    mapping = _best(va_mapping, 300) / 2
    domain.tables.put_type(table)
    assert guest.mfn(PT_L1) != table
    guest.check_counts()
    guest.close()
    validate = (both - away) * 1e6
    return [
        Row("memory", "validate a full L1 table", f"{validate:.1f} µs", f"goal {GOAL_VALIDATE_US:.0f} µs", validate / GOAL_VALIDATE_US, "≤ 1"),
        Row("memory", "devalidate it", f"{away * 1e6:.1f} µs", ""),
        Row("memory", f"mmu_update, lists of {BATCH}", f"{rate:,.0f} entries/s", f"goal {GOAL_ENTRIES:,}", rate / GOAL_ENTRIES, "≥ 1"),
        Row("memory", "mmu_update, one entry", f"{single * 1e6:.1f} µs", ""),
        pieces(),
        Row("memory", "update_va_mapping", f"{mapping * 1e6:.1f} µs", ""),
    ]


if __name__ == "__main__":
    for row in run():
        print(row)
