"""Create and destroy domains over and over, and see what stays: `python -m tests.soak.create_destroy [COUNT]`.

Every domain lives until it has said something. What is measured after a warm-up and at the end: RSS, file descriptors, threads, memory
mappings, Python objects, xenstore nodes, free memory of the pool."""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
from pathlib import Path

from emulator.dom0.config import parse_config
from emulator.dom0.toolstack import Toolstack

IMAGE = Path(__file__).resolve().parents[2] / "guests/images/hello.elf"
WARM_UP = 70  # obituaries of the last 64 are kept on purpose
LEAK_KIB = 4
"""RSS that a cycle may leave: the host's log alone grows by three lines, up to its bound."""


def measure(tools: Toolstack) -> dict[str, int]:
    gc.collect()
    rss = int(Path("/proc/self/statm").read_text().split()[1]) * 4
    return {"rss KiB": rss, "fds": len(os.listdir("/proc/self/fd")), "threads": threading.active_count(),
            "mappings": Path("/proc/self/maps").read_text().count("\n"), "objects": len(gc.get_objects()),
            "xenstore nodes": len(tools.store.subtree("/")), "pool free": tools.pool.free, "domains": len(tools.guests)}  # fmt: skip


def cycle(tools: Toolstack, number: int) -> None:
    config = parse_config(f'name = "soak{number}"\nkernel = "{IMAGE}"\nmemory = 4\n', file="<soak>")
    domid = tools.create(config, False, lambda text: None)
    guest = tools.guest(domid)
    deadline = time.monotonic() + 10
    while not guest.transcript.end and time.monotonic() < deadline:
        time.sleep(0.0005)
    if not guest.transcript.end:
        raise SystemExit(f"cycle {number}: the guest says nothing")
    tools.destroy(domid)


def soak(count: int) -> tuple[dict[str, int], dict[str, int]]:
    tools = Toolstack(pool_kib=1 << 20, cpus=2)
    tools.start()
    for number in range(WARM_UP):
        cycle(tools, number)
    before = measure(tools)
    for number in range(count):
        cycle(tools, WARM_UP + number)
    after = measure(tools)
    tools.stop()
    return before, after


def main() -> int:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    began = time.perf_counter()
    before, after = soak(count)
    print(f"{count} cycles, {(time.perf_counter() - began) / (count + WARM_UP) * 1e3:.1f} ms each")
    failed = False
    for name, value in before.items():
        grown = after[name] - value
        limit = {"rss KiB": LEAK_KIB * count + 2048, "mappings": 20, "objects": 4 * min(count, 1000) + min(count, 4096) + 500}.get(name, 0)
        failed |= grown > limit
        print(f"{name:16} {value:10} {after[name]:10} {grown:+8}{'   LEAK' if grown > limit else ''}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
