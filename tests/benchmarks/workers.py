"""Threads or processes for the physical CPUs: one worker, two in one process, and two processes with one each, on the same guests.

    python -m tests.benchmarks.workers [--full]

Unicorn gives the GIL up while guest code runs, so guests that compute should gain as much from a second thread as from a second process;
a hypercall is served in Python, so guests that only call should not. What is measured is work by the clock (counts of code,
or hypercalls) in rounds taken in turn by the three arrangements; of each the round that had most CPU time counts. Where a busy machine
gives less than two CPUs, work per CPU second tells what it would have been."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time

from tests.benchmarks.paper import Rig, rig
from tests.benchmarks.table import ROOT, Row, circumstances, render

COMPUTE, CALL = ("counter", ""), ("antisocial", 'cmdline = "hypercalls"')
LOADS = {"4 that compute": (COMPUTE,) * 4, "4 that call": (CALL,) * 4, "2 that compute beside 2 that call": (COMPUTE, CALL, COMPUTE, CALL)}
"""What runs; neighbours in the list are divided between the two processes."""
ARRANGEMENTS = {"one thread": (1,), "two threads": (2,), "two processes": (1, 1)}
"""The processes by their number of workers."""


class Process:
    """An engine of `cpus` workers in a process of its own."""

    def __init__(self, cpus: int, guests: tuple[tuple[str, str], ...]) -> None:
        command = [sys.executable, "-m", "tests.benchmarks.workers", "--serve", str(cpus), json.dumps(guests)]
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, line: str) -> None:
        assert self._process.stdin is not None
        print(line, file=self._process.stdin, flush=True)

    def answer(self) -> tuple[float, ...]:
        assert self._process.stdout is not None
        return tuple(json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        self._process.communicate()


def serve(cpus: int, guests: list[tuple[str, str]]) -> None:
    """For every line with a time to run: counts of code a second, hypercalls a second, CPU seconds a second. Paused between."""
    with rig(cpus) as host:
        for image, extra in guests:
            host.add(image, extra)
        time.sleep(1)
        pause(host)
        print(json.dumps([]), flush=True)
        for line in sys.stdin:
            for guest in host.guests:
                host.tools.unpause(guest.domid)
            began, before, cpu = time.perf_counter(), done(host), time.process_time()
            time.sleep(float(line))
            took, after = time.perf_counter() - began, done(host)
            spent = time.process_time() - cpu
            pause(host)
            print(json.dumps([(after[0] - before[0]) / took, (after[1] - before[1]) / took, spent / took]), flush=True)


def pause(host: Rig) -> None:
    for guest in host.guests:
        host.tools.pause(guest.domid)


def done(host: Rig) -> tuple[int, int]:
    """Work of the computing guests (counts), and of the calling ones (hypercalls)."""
    counts = sum(guest.domain.clock.count for guest in host.guests if guest.name.startswith("counter"))
    return counts, sum(guest.domain.stats.hypercalls for guest in host.guests if guest.name.startswith("antisocial"))


def compare(load: tuple[tuple[str, str], ...], rounds: int, seconds: float) -> dict[str, tuple[float, ...]]:
    """Of each arrangement the round with most CPU time."""
    hosts = {name: [Process(cpus, load[at :: len(shape)] if len(shape) > 1 else load) for at, cpus in enumerate(shape)]
             for name, shape in ARRANGEMENTS.items()}  # fmt: skip
    best: dict[str, tuple[float, ...]] = {}
    try:
        for processes in hosts.values():
            for process in processes:
                process.answer()
        for _ in range(rounds):
            for name, processes in hosts.items():
                for process in processes:
                    process.ask(str(seconds))
                sums = tuple(map(sum, zip(*(process.answer() for process in processes), strict=True)))
                best[name] = max(sums, best.get(name, sums), key=lambda figures: figures[2])
    finally:
        for processes in hosts.values():
            for process in processes:
                process.close()
    return best


def run(full: bool = False) -> list[Row]:
    rows = []
    for what, load in LOADS.items():
        best = compare(load, 8 if full else 3, 1.5)
        one = best["one thread"]
        for name, (counts, calls, cpu) in best.items():
            shown = [f"{counts / 1e9:.2f} G counts/s"] * (counts > 0) + [f"{calls / 1e3:.0f} k calls/s"] * (calls > 0)
            gains = [f"{a / b:.2f}" for a, b in ((counts, one[0]), (calls, one[1])) if b]
            used = [f"{a / cpu / b * one[2]:.2f}" for a, b in ((counts, one[0]), (calls, one[1])) if b]
            against = f"{', '.join(gains)} times one thread's; {', '.join(used)} per CPU second ({cpu:.2f} CPUs)"
            rows.append(Row("workers", f"{what}: {name}", ", ".join(shown), against))
    return rows


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.workers", description="Threads or processes for the physical CPUs.")
    parser.add_argument("--full", action="store_true", help="longer")
    parser.add_argument("--serve", nargs=2, metavar=("CPUS", "GUESTS"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.serve:
        serve(int(options.serve[0]), json.loads(options.serve[1]))
        return 0
    rows = run(options.full)
    print(circumstances())
    print(render(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
