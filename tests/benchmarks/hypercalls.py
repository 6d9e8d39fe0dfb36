"""An empty hypercall and the tightest loop in a PV kernel of a few instructions, timed between the letters that it prints."""

from __future__ import annotations

import re

from tests.benchmarks import bare
from tests.benchmarks.kit import LOOPS, pv_guest
from tests.benchmarks.linux import WORK, xenconsole
from tests.benchmarks.table import Row

ROUNDS = 2_000_000_000
CALLS = 200_000


def run() -> list[Row]:
    image = pv_guest(tight=ROUNDS, hypercalls=CALLS)
    cfg = WORK / "guest.cfg"
    cfg.write_text(f'name = "bench"\ntype = "pv"\nkernel = "{image}"\nmemory = 16\nvcpus = 1\n')
    with xenconsole("create", "-c", str(cfg)) as guest:
        moments = []
        for letter in (rb"t\r?\n", rb"h\r?\n", rb"\.\r?\n"):
            guest.wait_for(re.compile(letter), 120)
            moments.append(guest.cpu())
    loop, calls = moments[1] - moments[0], moments[2] - moments[1]
    alone = min(bare.seconds("tight", ROUNDS // 10) for _ in range(5)) * 10
    speed, best = (ROUNDS * LOOPS["tight"] / seconds / 1e6 for seconds in (loop, alone))
    return [
        Row("calls", "empty hypercall", f"{calls / CALLS * 1e6:.2f} µs", ""),
        Row("speed", "loop: tight, PV kernel", f"{speed:.0f} MIPS", f"bare Unicorn {best:.0f} MIPS", speed / best, "higher"),
    ]
