"""Grants between two guests on two physical CPUs: copies and maps as our guest `share` times them, by the length of a hypercall's list.

What a list asks of the other domain goes out in one request, so a list is measured against as many hypercalls of one operation each,
which is what every operation cost when each was asked for by itself."""

from __future__ import annotations

import re
import sys
import time

from emulator.dom0.config import parse_config
from emulator.dom0.toolstack import Toolstack
from tests.benchmarks.table import ROOT, Row


def _measure() -> dict[tuple[str, int], int]:
    sys.setswitchinterval(1e-4)
    tools = Toolstack(pool_kib=64 << 10, cpus=2)
    tools.start()
    try:
        for peer, extra in ((2, "measure=1"), (1, "hold=1")):
            text = f'name="share{peer}"\nkernel="images/share.elf"\nextra="peer={peer} {extra}"\nmemory=4\n'
            tools.create(parse_config(text, file=str(ROOT / "guests" / "benchmark.cfg")), False, lambda told: None)
        transcript, end = tools.guests[1].transcript, time.monotonic() + 60
        while b"share: measured" not in (said := transcript.tail(4000)):
            if time.monotonic() > end:
                raise AssertionError(said.decode())
            time.sleep(0.05)
        return {(name.decode(), int(length)): int(ns) for name, length, ns in re.findall(rb"share: (\w+) (\d+): (\d+) ns", said)}
    finally:
        tools.stop()


def run() -> list[Row]:
    costs = _measure()
    rows = []
    for (name, length), ns in costs.items():
        single = costs[name, 1]
        what = "copy of 64 bytes" if name == "copy" else "map and unmap"
        if length == 1:
            rows.append(Row("grants", f"{what}, one to a hypercall", f"{ns / 1000:.1f} µs", ""))
        else:
            rows.append(Row("grants", f"{what}, {length} to a hypercall", f"{ns / 1000:.1f} µs each", f"{single / 1000:.1f} µs", ns / single, "< 1"))
    return rows
