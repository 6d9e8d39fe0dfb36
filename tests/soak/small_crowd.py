"""A thousand small guests at once, each answering on its console: `python -m tests.soak.small_crowd [COUNT]`.

Each is asked for a sum of its own, first all at once, then, after they slept until their instances of Unicorn were given back, one after another.
Exit status 1 when one was silent, dead or wrong."""

from __future__ import annotations

import argparse
import sys
import time

from emulator.dom0.guest import Guest
from tests.benchmarks.paper import Rig, resident_kib, rig, rss

PROMPT = b"xen> "


def ask(guest: Guest, token: int) -> tuple[int, bytes]:
    """Type an echo of a token; where its answer begins, and the answer, which what is echoed of the line does not hold."""
    begin = guest.transcript.end
    guest.type(b"echo %d\r" % token)
    return begin, b"\n%d\r" % token


def heard(guest: Guest, begin: int, wanted: bytes, deadline: float) -> str:
    """What was wrong, empty when it came."""
    while wanted not in guest.transcript.read(begin, 1 << 16)[1]:
        if guest.domain.ended:
            return f"{guest.name} ended: {guest.domain.ended} {guest.domain.crash_reason}"
        if time.monotonic() > deadline:
            return f"{guest.name}: no {wanted!r} in {guest.transcript.read(begin, 200)[1]!r}"
        time.sleep(0.0005)
    return ""


def crowd(host: Rig, count: int) -> list[str]:
    """What went wrong; the measures are printed."""
    empty, began, cpu = rss(), time.monotonic(), time.process_time()
    guests = [host.add("shell") for _ in range(count)]
    wrong = [heard(guest, 0, PROMPT, began + 60 + count / 5) for guest in guests]
    print(f"{count} guests at their prompts after {time.monotonic() - began:.1f} s, {(time.process_time() - cpu) * 1e3 / count:.1f} ms of CPU each")
    began = time.monotonic()
    asked = [(guest, ask(guest, number * 7919 + 13)) for number, guest in enumerate(guests)]
    wrong += [heard(guest, *answer, deadline=began + 60) for guest, answer in asked]
    print(f"all answer at once: {time.monotonic() - began:.2f} s")
    own = sum(map(resident_kib, guests))
    print(f"awake: {(rss() - empty - own) / count:.0f} KiB each beside {own / count:.0f} KiB of its own pages")
    deadline = time.monotonic() + 60
    while not all(guest.domain.core.resting for guest in guests) and time.monotonic() < deadline:
        host.tools.rests.look(0.2)
        time.sleep(0.5)
    host.tools.rests.look(0.2)
    resting = sum(guest.domain.core.resting for guest in guests)
    print(f"{resting} at rest: {(rss() - empty - own) / count:.0f} KiB each")
    cpu, began = time.process_time(), time.monotonic()
    time.sleep(5)
    print(f"CPU of all of them meanwhile: {(time.process_time() - cpu) / (time.monotonic() - began) * 100:.3f} %")
    waits = []
    for number, guest in enumerate(guests):
        began = time.monotonic()
        wrong.append(heard(guest, *ask(guest, number * 104729 + 7), deadline=began + 10))
        waits.append((time.monotonic() - began) * 1e3)
    print(f"one after another, each from its rest: median {sorted(waits)[count // 2]:.1f} ms, slowest {max(waits):.1f} ms")
    if resting < count:
        wrong.append(f"{count - resting} did not rest")
    return [text for text in wrong if text]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("count", type=int, nargs="?", default=1000)
    options = parser.parse_args()
    with rig(2) as host:
        wrong = crowd(host, options.count)
    for line in wrong[:20]:
        print(line)
    print(f"{len(wrong)} went wrong" if wrong else "every guest answered every time")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
