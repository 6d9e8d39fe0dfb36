"""The experiments of "Xen and the Art of Virtualization" (SOSP 2003) that a machine of this kind can repeat, beside the paper's figures.

    python -m tests.benchmarks.paper [--full] [--chart] [NAME ...]

Shares and losses are of CPU time or of work done per CPU second of the engine's process, so that a busy machine lengthens a run and
hardly changes its figures; latencies and the gain of a second CPU are by the clock and need a quiet one. Without --full the
runs are short (about five minutes; with it eleven). --chart draws the scaling curve into docs/pictures/scaling.svg."""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

from emulator.dom0.config import load_config, parse_config
from emulator.dom0.guest import Guest
from emulator.dom0.toolstack import Toolstack
from emulator.machine.pools import MAIN_POOL
from tests.benchmarks.chart import draw
from tests.benchmarks.table import ROOT, Row, circumstances, render
from tests.functional.linux_guest import PROMPT, missing, write_cfg
from tests.patience import PATIENCE_SECONDS

IMAGES = Path(__file__).resolve().parents[2] / "guests/images"


class Rig:
    """A host of `cpus` CPUs with small guests."""

    def __init__(self, cpus: int, scheduler: str = "credit2") -> None:
        self.tools = Toolstack(pool_kib=16 << 20, cpus=cpus, scheduler=scheduler)
        self.guests: list[Guest] = []

    def add(self, image: str, extra: str = "", mib: int = 4) -> Guest:
        text = f'name = "{image}{len(self.guests)}"\nkernel = "{IMAGES / image}.elf"\nmemory = {mib}\n{extra}\n'
        guest = self.tools.guest(self.tools.create(parse_config(text, file="<paper>"), False, lambda said: None))
        self.guests.append(guest)
        return guest

    def spent(self, guest: Guest) -> int:
        """CPU time by the scheduler's account, ns."""
        return int(self.tools.cpus.spent(guest))


@contextmanager
def rig(cpus: int, scheduler: str = "credit2", slice_ns: int = 0) -> Iterator[Rig]:
    made = Rig(cpus, scheduler)
    if slice_ns:
        made.tools.cpus.tune(MAIN_POOL, allowance_us=slice_ns // 1000)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    made.tools.start()
    try:
        yield made
    finally:
        made.tools.stop()
        sys.setswitchinterval(before)


def work(guests: list[Guest]) -> int:
    return sum(guest.domain.clock.count for guest in guests)


def weights(full: bool) -> list[Row]:
    """Eight domains of weights 1 to 8 that compute: how far each is from its share."""
    rows = []
    for scheduler in ("credit2", "bvt", "credit"):
        with rig(1, scheduler) as host:
            guests = [host.add("counter", f"cpu_weight = {100 * number}") for number in range(1, 9)]
            time.sleep(1)
            before = [host.spent(guest) for guest in guests]
            time.sleep(30 if full else 8)
            spent = [host.spent(guest) - start for guest, start in zip(guests, before, strict=True)]
        worst = max(abs(got / sum(spent) / (number / 36) - 1) for number, got in enumerate(spent, 1))
        what = f"8 domains, weights 1–8, {scheduler}: worst distance from share"
        rows.append(Row("weights", what, f"{worst * 100:.2f} %", "4 %", worst / 0.04, "1 %"))
    return rows


def isolation(full: bool) -> list[Row]:
    """What two well-behaved domains lose when their neighbours are not well-behaved but hostile. As many calm neighbours are there as
    hostile ones, and one sort is paused; each measure stands between two of the other sort, since a machine's speed drifts by as much as is
    lost. The median counts."""

    def antisocial(how: str, count: int = 2) -> Callable[[Rig], list[Guest]]:
        return lambda host: [host.add("antisocial", f'cmdline = "{how}"') for _ in range(count)]

    def crowd(host: Rig) -> list[Guest]:
        return (fork_bombs(host, 1) if not lack else []) + [guest for how in kinds for guest in antisocial(how, 1)(host)]

    lack, kinds = missing(), ("memory", "hypercalls", "events")
    if lack:
        print(f"no fork bomb: {lack}", file=sys.stderr)
    experiments = {f"2 of {how}": antisocial(how) for how in kinds}
    if not lack:
        experiments["2 of a fork bomb in Linux"] = fork_bombs
    experiments["one of each"] = crowd
    rows = []
    for what, neighbours in experiments.items():
        with rig(1) as host:
            hostile = neighbours(host)
            mine, calm = ([host.add("counter") for _ in range(count)] for count in (2, len(hostile)))
            lost, shares, calm_shares = [], [], []
            before = beside(calm, hostile, host, mine)
            for _ in range(5 if full else 2):
                measured, after = beside(hostile, calm, host, mine), beside(calm, hostile, host, mine)
                lost.append((1 - 2 * measured[0] / (before[0] + after[0])) * 100)
                shares.append(measured[1])
                calm_shares.append(after[1])
                before = after
        rows.append(Row("isolation", f"2 good domains beside {what}: work per CPU second lost", f"{median(lost):.1f} %", "2–4 %", None, "2 %"))
        rows.append(Row("isolation", f"  the same: share of CPU time ({median(calm_shares):.3f} beside calm ones)", f"{median(shares):.3f}",
                        f"{2 / (2 + len(hostile)):.3f}"))  # fmt: skip
    return rows


def beside(neighbours: list[Guest], others: list[Guest], host: Rig, mine: list[Guest]) -> tuple[float, float]:
    """Work per CPU second of `mine` and their share of the CPU, beside these neighbours."""
    pause(others, True)
    pause(neighbours, False)
    time.sleep(0.5)
    begun, spent, cpu = work(mine), sum(map(host.spent, mine)), time.process_time()
    time.sleep(4)
    cpu = time.process_time() - cpu
    return (work(mine) - begun) / cpu, (sum(map(host.spent, mine)) - spent) / 1e9 / cpu


def fork_bombs(host: Rig, count: int = 2) -> list[Guest]:
    """Linux guests whose shells fork without end, as far as their memory goes; returns when all are at it."""
    with tempfile.TemporaryDirectory() as folder:
        config = load_config(write_cfg(Path(folder)))
        bombs = [host.tools.guest(host.tools.create(replace(config, name=f"bomb{number}"), False, lambda said: None)) for number in range(count)]
    for guest in bombs:
        until(guest, 0, PROMPT)
    for guest in bombs:
        begin, forks = guest.transcript.end, guest.domain.stats.mmu_entries
        guest.type(b"echo armed-$((6 * 7)); bomb() { bomb | bomb & }; bomb\n")
        until(guest, begin, b"armed-42")
        deadline = time.monotonic() + PATIENCE_SECONDS
        while guest.domain.stats.mmu_entries < forks + 100_000:  # some hundred forks' page tables
            if guest.domain.ended or time.monotonic() > deadline:
                raise RuntimeError(f"{guest.name} does not fork: {guest.domain.ended} {guest.transcript.tail(300)!r}")
            time.sleep(0.05)
    return bombs


def until(guest: Guest, begin: int, wanted: bytes) -> None:
    """Wait for `wanted` behind offset `begin` of what the guest said."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while wanted not in guest.transcript.read(begin, 1 << 16)[1]:
        if guest.domain.ended or time.monotonic() > deadline:
            raise RuntimeError(f"{guest.name} did not say {wanted!r}: {guest.domain.ended} {guest.transcript.tail(300)!r}")
        time.sleep(0.01)


def scaling(full: bool) -> list[Row]:
    """2 to 128 computing domains on two CPUs: work per CPU second against two, each with a CPU to itself; and how soon a sleeper among them answers.

    One domain alone leaves a CPU idle. What two busy CPUs take from each other is no cost of having many domains, so it is a row of its own and
    not the base. All have had two turns before anything is measured: a domain's first are its start (its pages, its translations: 1.8 ms, 3 % of
    a slice of 50 ms). The others are paused while few compute, and each measure stands between two of the base: in a minute a machine's speed
    drifts by more than what is looked for. The median of the rounds counts."""
    rows = []
    for slice_ms in (5, 50):
        with rig(2, "bvt", slice_ms * 1_000_000) as host:
            sleeper = host.add("shell")
            guests = [host.add("counter") for _ in range(128)]
            while any(guest.turns < 2 for guest in guests):
                time.sleep(0.05)
            lost: dict[int, list[float]] = {}
            waits: list[float] = []
            for _ in range(5 if full else 2):
                before = rate_of(2, guests)
                for count in (1, 8, 32, 128):
                    rate, after = rate_of(count, guests), rate_of(2, guests)
                    lost.setdefault(count, []).append((1 - 2 * rate / (before + after)) * 100)
                    before = after
                pause(guests, False)
                waits += echo(host, sleeper)
        for count, losses in lost.items():
            what = f"{count} domains at {slice_ms} ms: throughput lost" if count > 1 else f"  one domain at {slice_ms} ms, the other CPU idle: lost"
            paper = {(5, 128): "7.5 %", (50, 128): "about 0 %"}.get((slice_ms, count), "")
            rows.append(Row("scaling", what, f"{median(losses):.1f} %", paper, None, "3 %" if count == 128 else ""))
        rows.append(Row("scaling", f"  idle 129th answers a key at {slice_ms} ms, mean / worst",
                        f"{sum(waits) / len(waits):.1f} / {max(waits):.1f} ms", "5.4 ms" if slice_ms == 5 else ""))  # fmt: skip
    return rows


def rate_of(count: int, guests: list[Guest], seconds: float = 2) -> float:
    """Work per CPU second of the first `count`, while the others are paused."""
    pause(guests[count:], True)
    pause(guests[:count], False)
    time.sleep(0.1)
    begun, cpu = work(guests), time.process_time()
    time.sleep(seconds)
    return (work(guests) - begun) / (time.process_time() - cpu)


def pause(guests: list[Guest], paused: bool) -> None:
    """All at once: who waits for a CPU is paused in its next turn."""
    answers = [guest.domain.ask(partial(setattr, guest.domain, "paused", int(paused))) for guest in guests if bool(guest.domain.paused) != paused]
    for answer in answers:
        answer.result(PATIENCE_SECONDS)


def echo(host: Rig, guest: Guest, keys: int = 40) -> list[float]:
    """ms from a key to its echo on the console."""
    waits = []
    for _ in range(keys):
        end, began = guest.transcript.end, time.perf_counter()
        guest.type(b"x")
        while guest.transcript.end == end and time.perf_counter() - began < 2:
            time.sleep(0.0002)
        waits.append((time.perf_counter() - began) * 1e3)
        time.sleep(0.03)
    return waits


def creation(full: bool) -> list[Row]:
    """Creation of the Nth domain, and what the idle ones cost."""
    count = 1000 if full else 200
    with rig(2) as host:
        first = rss()
        times = []
        for _ in range(count):
            cpu = time.thread_time()
            host.add("shell")
            times.append((time.thread_time() - cpu) * 1e3)
        time.sleep(3)
        cost = (rss() - first) / count
        guest_kib = sum(resident_kib(guest) for guest in host.guests[:20]) / 20
        cpu, began = time.process_time(), time.perf_counter()
        time.sleep(5)
        idle = (time.process_time() - cpu) / (time.perf_counter() - began)
    tenth = max(1, count // 10)
    early, late = sorted(times[1 : tenth + 1])[tenth // 2], sorted(times[-tenth:])[tenth // 2]
    return [
        Row("creation", f"CPU time to create one, first tenth / last tenth of {count}", f"{early:.1f} / {late:.1f} ms", "", late / early, "1.2"),
        Row("creation", f"RSS an idle domain of {count}, without {guest_kib:.0f} KiB of its own pages", f"{cost - guest_kib:.0f} KiB", "6.2 MB", None,
            "1536 KiB"),
        Row("creation", f"CPU of {count} idle domains together", f"{idle * 100:.3f} %", "", None, "0.1 %"),
    ]  # fmt: skip


def rss() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4


def resident_kib(guest: Guest) -> int:
    """Of the domain's memory file, what is allocated."""
    return os.fstat(guest.domain.memory.file.fd).st_blocks // 2


def two_cpus(full: bool) -> list[Row]:
    """Two physical CPUs against one on four computing domains, by the clock."""
    rates = []
    for cpus in (1, 2):
        with rig(cpus) as host:
            guests = [host.add("counter") for _ in range(4)]
            time.sleep(1)
            begun, began = work(guests), time.perf_counter()
            time.sleep(10 if full else 4)
            rates.append((work(guests) - begun) / (time.perf_counter() - began))
    return [Row("two CPUs", "two physical CPUs against one, 4 computing domains", f"{rates[1] / rates[0]:.2f} times", "2.0", None, "1.8")]


EXPERIMENTS: dict[str, Callable[[bool], list[Row]]] = {"weights": weights, "isolation": isolation, "scaling": scaling, "creation": creation,
                                                       "cpus": two_cpus}  # fmt: skip


def run(full: bool = False, names: tuple[str, ...] = tuple(EXPERIMENTS)) -> list[Row]:
    rows: list[Row] = []
    for name in names:
        print(f"{name} ...", file=sys.stderr, flush=True)
        rows += EXPERIMENTS[name](full)
    return rows


def curve(rows: list[Row]) -> str:
    """The scaling rows as a chart, beside the paper's figures for 128 domains (its section 4.5). Raises ValueError without such rows."""
    found: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        match = re.fullmatch(r"(\d+) domains at (\d+) ms: throughput lost", row.what)
        if match is not None:
            points = found.setdefault(f"{match[2]} ms slices", [(2.0, 100.0)])
            points.append((float(match[1]), 100 - float(row.ours.removesuffix(" %"))))
    if not found:
        raise ValueError("no rows of scaling")
    theirs = {"the paper, 5 ms": [(128.0, 92.5)], "the paper, 50 ms": [(128.0, 100.0)]}
    return draw("Throughput of N computing domains on two CPUs, per CPU second, of two domains'", "domains", "%", {**found, **theirs})


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.paper", description="The paper's experiments; 'against' is the paper's figure.")
    parser.add_argument("names", nargs="*", choices=[*EXPERIMENTS, []], metavar="NAME", help=", ".join(EXPERIMENTS))
    parser.add_argument("--full", action="store_true", help="long runs, 1,000 domains")
    parser.add_argument("--chart", action="store_true", help="draw docs/pictures/scaling.svg (runs scaling; with --full, all)")
    options = parser.parse_args(arguments)
    rows = run(options.full, tuple(options.names) or (("scaling",) if options.chart and not options.full else tuple(EXPERIMENTS)))
    if options.chart:
        (ROOT / "docs/pictures/scaling.svg").write_text(curve(rows))
    print(circumstances())
    print(render(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
