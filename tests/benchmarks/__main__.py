"""`python -m tests.benchmarks [NAME ...] [--write]`: runs benchmarks one after the other and prints one table.

Without names all run but `soak`, which takes minutes and is asked for by name. What a benchmark lacks (QEMU, gcc, a kernel) is
said and the others go on. The exit status is 1 when a benchmark failed.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback

from tests.benchmarks import block_speed, boot, console, echo, grant_speed, hypercalls, memory_speed, net_speed, soak, table, thousand, userland
from tests.benchmarks.linux import Missing
from tests.benchmarks.table import Row

BENCHMARKS = {
    "boot": boot.run, "userland": userland.run, "hypercalls": hypercalls.run, "memory": memory_speed.run, "echo": echo.run, "console": console.run,
    "block": block_speed.run, "network": net_speed.run, "grants": grant_speed.run, "thousand": thousand.run, "soak": soak.run,
}  # fmt: skip


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description="Benchmarks, each a ratio in one run.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which ones: {', '.join(BENCHMARKS)} (all but soak)")
    parser.add_argument("--write", action="store_true", help="keep the table in docs/PERFORMANCE.md")
    options = parser.parse_args(arguments)
    unknown = set(options.names) - set(BENCHMARKS)
    if unknown:
        parser.error(f"no benchmark is called {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS)}")
    rows: list[Row] = []
    failed = False
    for name in options.names or [name for name in BENCHMARKS if name != "soak"]:
        print(f"{name} ...", file=sys.stderr, flush=True)
        began = time.monotonic()
        try:
            rows += BENCHMARKS[name]()
        except Missing as lack:
            print(f"{name}: left out: {lack}", file=sys.stderr)
        except Exception:  # noqa: BLE001 - one benchmark's failure is told and must not hide the others' figures
            traceback.print_exc()
            failed = True
        else:
            print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    print(table.circumstances())
    print(table.render(rows))
    if options.write and rows:
        table.write(rows)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
