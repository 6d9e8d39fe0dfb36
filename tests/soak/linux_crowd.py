"""Many Linux guests at once, each answering on its console: `python -m tests.soak.linux_crowd [COUNT] [--memory MIB]`.

They boot together and are asked something that each must work out for itself, first all at once, then one after another while the
others idle. Exit status 1 when one hung, died or answered wrongly. Less than 96 MiB will not do: Debian's kernel takes 64 by itself."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from emulator.dom0.config import load_config
from emulator.dom0.guest import Guest
from emulator.dom0.toolstack import Toolstack
from tests.benchmarks.paper import resident_kib, rss
from tests.functional.linux_guest import PROMPT, missing, write_cfg


def until(guest: Guest, end: int, wanted: bytes, deadline: float) -> str:
    """Wait for `wanted` behind offset `end` of what the guest said; what was wrong, empty when it came."""
    while True:
        if wanted in guest.transcript.read(end, 1 << 16)[1]:
            return ""
        if guest.domain.ended:
            return f"ended: {guest.domain.ended} {guest.domain.crash_reason}"
        if time.monotonic() > deadline:
            return f"no {wanted!r} in {guest.transcript.read(max(end, guest.transcript.end - 200), 200)[1]!r}"
        time.sleep(0.002)


def ask(guest: Guest, number: int) -> tuple[int, bytes]:
    """Type a sum; where the answer begins, and the answer (which the echo of what was typed does not hold)."""
    end = guest.transcript.end
    guest.type(f"echo sum-$(({number} * 7919))-$(cat /proc/sys/kernel/random/boot_id | wc -c)\n".encode())
    return end, f"sum-{number * 7919}-37".encode()


def crowd(tools: Toolstack, cfg: Path, count: int, patience: float) -> list[str]:
    """What went wrong, guest by guest; the measures are printed."""
    config = load_config(cfg)
    empty, began, cpu = rss(), time.monotonic(), time.process_time()
    guests = [tools.guest(tools.create(replace(config, name=f"linux{n}"), False, lambda text: None)) for n in range(count)]
    made = time.monotonic() - began
    wrong = [until(guest, 0, PROMPT, began + patience) for guest in guests]
    took = time.monotonic() - began
    print(f"{count} guests of {config.memory_mib} MiB: made in {made:.1f} s, all at their prompt after {took:.1f} s "
          f"({(time.process_time() - cpu) / count:.2f} s of CPU each)")  # fmt: skip
    deadline, began = time.monotonic() + patience, time.monotonic()
    for guest, (end, answer) in [(guest, ask(guest, number)) for number, guest in enumerate(guests)]:
        wrong.append(until(guest, end, answer, deadline))
    print(f"all answer at once: {time.monotonic() - began:.2f} s")
    waits = []
    for number, guest in enumerate(guests):
        began = time.monotonic()
        wrong.append(until(guest, *ask(guest, 1000 + number), deadline=began + 20))
        waits.append(time.monotonic() - began)
    print(f"one after another: median {sorted(waits)[count // 2] * 1e3:.0f} ms, slowest {max(waits) * 1e3:.0f} ms")
    own = sum(map(resident_kib, guests))
    print(f"RSS {(rss() - empty) >> 10} MiB, {own >> 10} MiB of it the guests' own pages; {(rss() - empty - own) // count} KiB more a guest")
    cpu, began = time.process_time(), time.monotonic()
    time.sleep(5)
    print(f"CPU while all idle: {(time.process_time() - cpu) / (time.monotonic() - began) * 100:.1f} %")
    return [f"linux{at % count}: {text}" for at, text in enumerate(wrong) if text]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("count", type=int, nargs="?", default=32)
    parser.add_argument("--memory", type=int, default=96, metavar="MIB")
    parser.add_argument("--patience", type=float, default=30, metavar="SECONDS", help="a guest, for it to boot")
    options = parser.parse_args()
    if reason := missing():
        print(reason, file=sys.stderr)
        return 2
    sys.setswitchinterval(1e-4)
    tools = Toolstack(pool_kib=options.count * options.memory * 1024, cpus=len(os.sched_getaffinity(0)))
    tools.start()
    try:
        with tempfile.TemporaryDirectory() as folder:
            wrong = crowd(tools, write_cfg(Path(folder), memory=options.memory), options.count, options.count * options.patience)
    finally:
        tools.stop()
    for line in wrong:
        print(line)
    print(f"{len(wrong)} of {3 * options.count} checks failed" if wrong else "every guest answered every time")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
