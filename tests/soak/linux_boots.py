"""Linux booted many times in a row by the command line, typed into and checked each time; a table of what came of it.

    python -m tests.soak.linux_boots [BOOTS] [--memory MIB]

Twenty boots by default. Exit status 1 when one hung or answered wrongly. Not part of the test suite: it takes minutes."""

from __future__ import annotations

import argparse
import hashlib
import re
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tests.functional.linux_guest import BUSYBOX, PROMPT, Session, kernel, missing, write_cfg


@dataclass(frozen=True)
class Boot:
    """One boot: seconds to the prompt and to the end, and what was wrong, empty when nothing was."""

    prompt: float
    whole: float
    wrong: str


def check(session: Session) -> str:
    """Type and compare with the host; what was wrong."""
    right = hashlib.md5(BUSYBOX.read_bytes(), usedforsecurity=False).hexdigest()
    if (said := session.command("uname -r")) != kernel().name.removeprefix("vmlinuz-"):
        return f"uname -r says {said!r}"
    for _ in range(2):
        if (said := session.command("md5sum /bin/busybox")).split()[:1] != [right]:
            return f"md5sum says {said!r}"
    began = time.monotonic()
    first, second = session.command("date +%s; sleep 2; date +%s").split()
    took = time.monotonic() - began
    if int(second) - int(first) not in (2, 3) or took < 1.9:
        return f"sleep 2 went from {first} to {second} in {took:.1f} s"
    if (said := session.command("dmesg | grep -icE 'oops|call trace|lockup'")) != "0":
        return f"the kernel complains {said} times"
    return ""


def boot(cfg: Path) -> Boot:
    began = time.monotonic()
    with Session(cfg, "--timeout", "120") as session:
        try:
            session.until(re.escape(PROMPT))
            prompt = time.monotonic() - began
            wrong = check(session)
            session.type("poweroff -f\n")
            if not wrong and (status := session.ended()) != 0:
                wrong = f"ended with status {status}"
        except (AssertionError, ValueError) as failure:
            return Boot(0, time.monotonic() - began, str(failure).splitlines()[0][:100])
    return Boot(prompt, time.monotonic() - began, wrong)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("boots", type=int, nargs="?", default=20)
    parser.add_argument("--memory", type=int, default=96, metavar="MIB")
    options = parser.parse_args()
    if reason := missing():
        print(reason, file=sys.stderr)
        return 2
    boots: list[Boot] = []
    with tempfile.TemporaryDirectory() as folder:
        cfg = write_cfg(Path(folder), memory=options.memory)
        print("boot  prompt s  whole s  result")
        for number in range(1, options.boots + 1):
            done = boot(cfg)
            boots.append(done)
            print(f"{number:4}  {done.prompt:8.2f}  {done.whole:7.2f}  {done.wrong or 'right'}", flush=True)
    failed = sum(bool(done.wrong) for done in boots)
    times = [done.prompt for done in boots if not done.wrong]
    if times:
        spread = f"{min(times):.2f}–{max(times):.2f} s, median {statistics.median(times):.2f} s"
        print(f"{len(boots)} boots, {failed} wrong or hung; prompt after {spread}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
