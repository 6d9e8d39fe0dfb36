"""What page tables cost: validating a full L1, lists of updates into one table, entries one by one. CPU time, in this process."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable

from emulator.hypervisor.memory.frames import L1
from tests.benchmarks.table import Row
from tests.unit.domains import DATA, NX, PRESENT, PT_L1, RW, USER, Tiny, va
from tests.unit.widetree import LEAVES, Wide

GOAL_VALIDATE_US, GOAL_ENTRIES, GOAL_PIECE_MS = 15.0, 500_000, 5.0
PIN_L4, UNPIN = 3, 4
FRAMES = 2048
TABLE, TABLES = 40, 32  # PFNs of the tables that are filled
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


def _pair(do: Callable[[], None], undo: Callable[[], None], tries: int = 200) -> tuple[float, float]:
    """Seconds for each of two that undo each other."""
    there, back = [], []
    for _ in range(tries):
        began = time.thread_time()
        do()
        between = time.thread_time()
        undo()
        there.append(between - began)
        back.append(time.thread_time() - between)
    return min(there), min(back)


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
    tables = [guest.mfn(TABLE + n) for n in range(TABLES)]
    assert guest.update(*((guest.entry_address(TABLE + n), 0) for n in range(TABLES))) == (0, TABLES)  # no longer mapped writable
    words = domain.memory.words
    for mfn in tables:
        for index in range(512):
            words[mfn << 9 | index] = guest.mfn(100 + index % 256) << 12 | PRESENT | USER | NX | (RW if index % 8 else 0)

    def validate() -> None:
        for mfn in tables:
            domain.tables.get_type(mfn, L1)

    def devalidate() -> None:
        for mfn in tables:
            domain.tables.put_type(mfn)

    there, away = (spent / TABLES * 1e6 for spent in _pair(validate, devalidate))
    table = tables[0]
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
    return [
        Row("memory", "validate a full L1 table", f"{there:.1f} µs", f"goal {GOAL_VALIDATE_US:.0f} µs", there / GOAL_VALIDATE_US, "≤ 1"),
        Row("memory", "devalidate it", f"{away:.1f} µs", ""),
        Row("memory", f"mmu_update, lists of {BATCH}", f"{rate:,.0f} entries/s", f"goal {GOAL_ENTRIES:,}", rate / GOAL_ENTRIES, "≥ 1"),
        Row("memory", "mmu_update, one entry", f"{single * 1e6:.1f} µs", ""),
        pieces(),
        Row("memory", "update_va_mapping", f"{mapping * 1e6:.1f} µs", ""),
    ]


if __name__ == "__main__":
    for row in run():
        print(row)
