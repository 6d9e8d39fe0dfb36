"""`python -m tests.soak.isolation [SEQUENCES] [--seed N] [--processes N]`: sequences of the isolation machine, 10,000 unless told.

Two thirds go to the machine whose hypercalls end, one third to the one that interrupts them. The seed is told, and gives the same sequences
again with the same number of processes; a sequence that fails is printed, and the exit status is 1."""

from __future__ import annotations

import argparse
import multiprocessing
import random
import sys
import time
import traceback

import hypothesis
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.unit.test_isolation import Interrupted, Isolation

STEPS = 30


def _share(machine: type[Isolation], sequences: int, seed: int) -> str:
    """Try so many; what failed, empty when nothing did."""
    seeded = hypothesis.seed(seed)(machine)
    wanted = settings(max_examples=sequences, stateful_step_count=STEPS, deadline=None, database=None, phases=[Phase.generate],
                      suppress_health_check=list(HealthCheck))  # fmt: skip
    try:
        run_state_machine_as_test(seeded, settings=wanted)
    except Exception:  # noqa: BLE001 - told by the parent
        return traceback.format_exc()
    return ""


def run(sequences: int, seed: int, processes: int) -> list[str]:
    """The failures of as many sequences, dealt out."""
    work = []
    for number in range(processes):
        part = sequences // processes + (number < sequences % processes)
        work += [(Isolation, part - part // 3, seed + 2 * number), (Interrupted, part // 3, seed + 2 * number + 1)]
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        return [failure for failure in pool.starmap(_share, [job for job in work if job[1]], chunksize=1) if failure]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak.isolation")
    parser.add_argument("sequences", nargs="?", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 30))
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args(arguments)
    print(f"{options.sequences} sequences of {STEPS} steps, seed {options.seed}, {options.processes} processes", flush=True)
    began = time.monotonic()
    failures = run(options.sequences, options.seed, options.processes)
    for failure in failures:
        print(failure)
    print(f"{time.monotonic() - began:.0f} s, {'nothing was broken' if not failures else f'{len(failures)} runs broke a promise'}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
