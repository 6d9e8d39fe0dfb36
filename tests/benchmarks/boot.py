"""Boot to shell: Debian's kernel from the start of the process to the shell's prompt, here and on QEMU's TCG."""

from __future__ import annotations

import statistics

from tests.benchmarks.linux import in_qemu, in_xenconsole, linux
from tests.benchmarks.table import Row

ROUNDS = 3


def run(rounds: int = ROUNDS) -> list[Row]:
    """Medians of boots taken in turns, so that a slow spell of the machine meets both."""
    guest = linux()
    ours, theirs = [], []
    for _ in range(rounds):
        with in_qemu(guest) as other:
            theirs.append((other.boot(), other.cpu()))
        with in_xenconsole(guest) as own:
            ours.append((own.boot(), own.cpu()))
    rows = []
    names = ("boot to shell", "the same, CPU time")
    for what, mine, qemu in zip(names, zip(*ours, strict=True), zip(*theirs, strict=True), strict=True):
        here, there = statistics.median(mine), statistics.median(qemu)
        rows.append(Row("boot", f"{what}, median of {rounds}", f"{here:.2f} s", f"QEMU TCG {there:.2f} s", here / there, "1.5"))
    return rows
