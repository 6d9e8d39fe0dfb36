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
            theirs.append(other.boot())
        with in_xenconsole(guest) as own:
            ours.append(own.boot())
    mine, qemu = statistics.median(ours), statistics.median(theirs)
    return [Row("boot", f"boot to shell, median of {rounds}", f"{mine:.2f} s", f"QEMU TCG {qemu:.2f} s", mine / qemu, "1.5")]
