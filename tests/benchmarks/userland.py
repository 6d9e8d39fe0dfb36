"""What programs cost in a guest: the same commands typed into the same Linux here and on QEMU's TCG, answers compared.

Loops of a few instructions and busybox's md5sum, awk and sort are also run on bare Unicorn, the fastest that this core can be.
"""

from __future__ import annotations

from tests.benchmarks import bare
from tests.benchmarks.bareuser import BareProcess
from tests.benchmarks.kit import LOOPS, user_program
from tests.benchmarks.linux import in_qemu, in_xenconsole, linux
from tests.benchmarks.pipeguest import PipeGuest
from tests.benchmarks.table import Row

LOOP_ROUNDS = 200_000_000
TRIES = 3  # the best of these is taken: neighbours on the machine only ever make work slower
SYSCALLS = 100_000
FORKS = 100
COPIES = 30
AWK = "BEGIN { for (i = 0; i < 250000; i++) s += i * i % 7; print s }"
LINES = "BEGIN { x = 1; for (i = 0; i < 100000; i++) { x = x * 16807 % 2147483647; print x } }"

PREPARE = (
    f"i=0; while [ $i -lt {COPIES} ]; do cat /bin/busybox; i=$((i+1)); done > /blob",
    f"busybox awk '{LINES}' > /lines",
    "/bench/user syscall 1000",
)
COMMANDS = {
    "md5sum": ("busybox md5sum /blob /blob", ["md5sum", "/blob", "/blob"]),
    "awk": (f"busybox awk '{AWK}'", ["awk", AWK]),
    "sort": ("busybox sort /lines", ["sort", "/lines"]),
}


def measure(guest: PipeGuest) -> tuple[dict[str, float], dict[str, str]]:
    """CPU seconds of every piece of work in a booted guest, and what the commands answered."""
    guest.boot()
    for command in PREPARE:
        guest.run(command)
    seconds: dict[str, float] = {}
    answers: dict[str, str] = {}
    idle = min(guest.run(":")[1] for _ in range(3))
    start = min(guest.run("/bench/user tight 1")[1] for _ in range(3))
    for name, (command, _) in COMMANDS.items():
        # sort's answer is long: only its checksum comes over the console.
        tries = [guest.run(f"{command} | busybox md5sum" if name == "sort" else command) for _ in range(TRIES)]
        answers[name], seconds[name] = tries[0][0], min(took for _, took in tries) - idle
    counts = dict.fromkeys(LOOPS, LOOP_ROUNDS) | {"syscall": SYSCALLS, "fork": FORKS}
    for work, count in counts.items():
        seconds[work] = min(guest.run(f"/bench/user {work} {count}")[1] for _ in range(TRIES)) - start
    return seconds, answers


def run() -> list[Row]:
    guest = linux({"bench/user": user_program()})
    with in_qemu(guest) as other:
        theirs, right = measure(other)
    with in_xenconsole(guest) as own:
        ours, answers = measure(own)
    if answers != right:
        raise AssertionError(f"the guests' answers differ: {answers} against {right}")
    rows = []
    for loop, instructions in LOOPS.items():
        alone = min(bare.seconds(loop, LOOP_ROUNDS) for _ in range(TRIES))
        speed, best = (LOOP_ROUNDS * instructions / time / 1e6 for time in (ours[loop], alone))
        rows.append(Row("speed", f"loop: {loop}", f"{speed:.0f} MIPS", f"bare Unicorn {best:.0f} MIPS", speed / best, "higher"))
    files = BareProcess.prepared(COPIES, LINES)
    for name, (_, arguments) in COMMANDS.items():
        alone = min(BareProcess(files).run(["busybox", *arguments]) for _ in range(TRIES))
        rows.append(Row("speed", name, f"{ours[name]:.2f} s", f"bare Unicorn {alone:.2f} s", ours[name] / alone))
        rows.append(Row("speed", name, f"{ours[name]:.2f} s", f"QEMU TCG {theirs[name]:.2f} s", ours[name] / theirs[name]))
    for name, what, count in (("syscall", "user system call", SYSCALLS), ("fork", "fork + exec + wait", FORKS)):
        here, there = (time[name] / count * 1e6 for time in (ours, theirs))
        rows.append(Row("calls", what, f"{here:.2f} µs", f"QEMU TCG {there:.2f} µs", here / there))
    return rows
