"""Boots in a row: Debian's kernel to its shell, answers checked against the host's, powered off; none may hang, none may err."""

from __future__ import annotations

import hashlib
import statistics
import sys
from pathlib import Path

from tests.benchmarks.linux import in_xenconsole, linux
from tests.benchmarks.table import Row

BOOTS = 20


def run(boots: int = BOOTS) -> list[Row]:
    guest = linux()
    right = hashlib.md5(Path("/bin/busybox").read_bytes(), usedforsecurity=False).hexdigest()
    times = []
    for number in range(1, boots + 1):
        with in_xenconsole(guest) as own:
            times.append(own.boot())
            answer, _ = own.run("busybox md5sum /bin/busybox")
            if answer.split()[0] != right:
                raise AssertionError(f"boot {number}: md5sum answers {answer!r}, not {right}")
            own.type("poweroff -f\n")
            status = own.process.wait(30)
            if status != 0:
                raise AssertionError(f"boot {number} ended with status {status}")
        if sys.stderr.isatty():
            print(f"\r{number}/{boots} boots", end="", file=sys.stderr, flush=True)
    spread = f"{min(times):.2f}–{max(times):.2f} s, median {statistics.median(times):.2f} s"
    return [Row("soak", f"{boots} boots in a row, none hung, none wrong", spread, "")]
