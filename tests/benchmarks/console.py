"""The console app under load, as its user feels it: a real app on a real engine in a pseudo-terminal, watched from outside.

The load: a Linux guest that floods its visible console, two guests that spin, and 200 small ones in the table. Times are taken
between the bytes written to the terminal and those that come back.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import statistics
import struct
import sys
import tempfile
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from emulator.control.client import start_engine
from tests.benchmarks.linux import Linux, linux
from tests.benchmarks.table import ROOT, Row
from xenconsole.app import ConsoleApp

SMALL = 200
COLUMNS, ROWS = 160, 50
FRAME = b"\x1b[?2026l"
"""The end of a frame, on a terminal that says it can show frames whole."""
PULSE_SECONDS = 0.002
TICKS = os.sysconf("SC_CLK_TCK")


class AppInTerminal:
    """The app on the given cfg files. `feed` reads what it draws; frames' ends are timed."""

    def __init__(self, files: list[Path], folder: Path) -> None:
        self.frames: list[float] = []
        self.seen = b""
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            environment = {**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor"}
            environment |= {"XDG_CONFIG_HOME": str(folder), "XDG_STATE_HOME": str(folder)}
            os.chdir(ROOT)
            os.execve(sys.executable, [sys.executable, "-m", "xenconsole", *map(str, files)], environment)
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))

    def feed(self, seconds: float) -> None:
        """Read for so long at most, once something came only what is there."""
        if not select.select([self._fd], [], [], seconds)[0]:
            return
        data = os.read(self._fd, 1 << 16)
        now = time.monotonic()
        self.frames += [now] * data.count(FRAME)
        if b"\x1b[?2026$p" in data:
            os.write(self._fd, b"\x1b[?2026;2$y")
        self.seen = (self.seen + data)[-(1 << 18) :]

    def press(self, keys: bytes) -> None:
        self.seen = b""
        os.write(self._fd, keys)

    def until(self, what: bytes | Callable[[bytes], bool], seconds: float = 60.0) -> float:
        """Seconds until it is drawn after the last press. TimeoutError with what was drawn."""
        began = time.monotonic()
        while not (what in self.seen if isinstance(what, bytes) else what(self.seen)):
            if time.monotonic() - began > seconds:
                raise TimeoutError(f"{what!r} was not drawn in {seconds:g} s, but {self.seen[-2000:]!r}")
            self.feed(0.05)
        return time.monotonic() - began

    def watch(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.feed(left)

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)
        end = time.monotonic() + 20
        with contextlib.suppress(OSError):  # the terminal's end: EIO
            while time.monotonic() < end:
                self.feed(0.2)
        os.waitpid(self.pid, 0)
        os.close(self._fd)


@contextlib.contextmanager
def app(files: list[Path], folder: Path) -> Iterator[AppInTerminal]:
    opened = AppInTerminal(files, folder)
    try:
        yield opened
    finally:
        opened.close()


def cfg(folder: Path, name: str, guest: str) -> Path:
    """A guest of ours under another name."""
    text = (ROOT / "guests" / f"{guest}.cfg").read_text()
    made = folder / f"{name}.cfg"
    made.write_text(text.replace('"images/', f'"{ROOT}/guests/images/') + f'name = "{name}"\n')
    return made


def linux_cfg(folder: Path, guest: Linux, name: str, memory: int = 256) -> Path:
    made = folder / f"{name}.cfg"
    made.write_text(
        f'name = "{name}"\ntype = "pv"\nkernel = "{guest.kernel}"\nramdisk = "{guest.ramdisk}"\nmemory = {memory}\nextra = "console=hvc0 quiet"\n'
    )
    return made


def p(times: list[float], part: float) -> float:
    """A percentile in milliseconds."""
    return sorted(times)[min(int(len(times) * part), len(times) - 1)] * 1e3


def told(times: list[float]) -> str:
    return f"p50 {p(times, 0.5):.1f} ms, p99 {p(times, 0.99):.1f} ms"


def load(folder: Path, guest: Linux) -> list[Path]:
    files = [linux_cfg(folder, guest, "flood"), cfg(folder, "typed", "shell"), cfg(folder, "spinner1", "counter"), cfg(folder, "spinner2", "counter")]
    return files + [cfg(folder, f"small{number}", "hello") for number in range(SMALL)]


async def _held_up(files: list[Path], seconds: float) -> tuple[list[float], list[float]]:
    """Of each turn of the app's loop: seconds by the clock, and of CPU."""
    client = await start_engine()
    app = ConsoleApp(client, files=tuple(files))
    times, cpu = [], []
    try:
        async with app.run_test(size=(COLUMNS, ROWS)):
            while len(app.overview.domains) <= len(files):  # noqa: ASYNC110
                await asyncio.sleep(0.2)
            async for chunk in client.console_attach(1, 0):
                if b"# " in chunk.data:
                    break
            await client.console_write(1, b"while :; do seq 1 100000; done\r")
            app.switch_console(1)
            await asyncio.sleep(3)
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                began, worked = time.monotonic(), time.thread_time()
                await asyncio.sleep(PULSE_SECONDS)
                times.append(max(time.monotonic() - began - PULSE_SECONDS, 0.0))
                cpu.append(time.thread_time() - worked)
    finally:
        await app.client.close()
    return times, cpu


def frames(folder: Path, guest: Linux) -> list[Row]:
    """How long the app is away from its loop, looked at from within: a frame drawn, output parsed, an overview taken."""
    times, cpu = asyncio.run(_held_up(load(folder, guest), 15))
    what = f"a frame: the app's loop held up, one guest floods its console, two spin, {SMALL} small"
    return [
        Row("console", f"{what}, of CPU", told(cpu), "", None, "p99 33 ms"),
        Row("console", "the same by the clock", told(times), "", None, "p99 33 ms"),
    ]


def under_load(folder: Path, guest: Linux) -> list[Row]:
    files = load(folder, guest)
    with app(files, folder) as at:
        at.until(lambda seen: re.search(rb"20[45] guests", seen) is not None, 180)
        at.press(b"\x1b1")
        at.until(b"#", 120)
        os.write(at._fd, b"while :; do seq 1 100000; done\r")
        at.watch(3)
        at.frames.clear()
        at.watch(15)
        gaps = [b - a for a, b in zip(at.frames, at.frames[1:], strict=False)]
        cpu = at.cpu_seconds()
        at.watch(5)
        cpu = (at.cpu_seconds() - cpu) / 5

        switches = []
        for number in range(60):
            at.press(b"\x1b2" if number % 2 == 0 else b"\x1b1")
            switches.append(at.until(b"typed" if number % 2 == 0 else b"flood"))
            at.watch(0.15)

        at.press(b"\x1d")  # to the overview, and the flooding guest side by side with the one that is typed to
        at.watch(0.7)
        for keys in (b"g", b"j", b" ", b"j", b" ", b"c"):
            os.write(at._fd, keys)
            at.watch(0.3)
        at.press(b"\x1b2")
        at.watch(1)
        echoes = []
        for _ in range(15):
            for count in range(1, 21):
                at.press(b"~")
                echoes.append(at.until(b"~" * count, 5))
                at.watch(0.02)
            at.press(b"\x03")
            at.watch(0.2)
    return [
        Row("console", "frame to frame meanwhile, as the terminal gets them (the guest's own pauses among them)", told(gaps), ""),
        Row("console", "the app's own CPU meanwhile", f"{cpu:.0%} of a core", ""),
        Row("console", "key to echo on the screen, beside the flood", told(echoes), "", None, "p99 50 ms"),
        Row("console", "switch between two consoles, one of them the flood", told(switches), "", None, "p99 100 ms"),
    ]


def at_rest(folder: Path) -> list[Row]:
    rows = []
    for what, files in (
        ("at rest, three guests", [cfg(folder, f"quiet{n}", "shell") for n in range(3)]),
        (f"at rest, {SMALL} guests", [cfg(folder, f"quiet{n}", "shell") for n in range(SMALL)]),
    ):
        with app(files, folder) as at:
            at.until(f"{len(files)} guests".encode(), 120)
            at.watch(5)
            before = at.cpu_seconds()
            at.watch(10)
            rows.append(Row("console", f"the app {what}", f"{(at.cpu_seconds() - before) / 10:.1%} of a core", "", None, "5 %"))
    return rows


async def _snapshots(folder: Path, guest: Linux, rounds: int) -> tuple[list[float], list[float]]:
    client = await start_engine()
    try:
        made = await client.command("create", file=str(linux_cfg(folder, guest, "linux")))
        if not made.ok:
            raise RuntimeError(made.error)
        said = b""
        async for chunk in client.console_attach(made.domid, 0):
            said += chunk.data
            if said.rstrip().endswith(b"#") or b"# \x1b[6n" in said:
                break
        taken, restored = [], []
        for number in range(rounds):
            await asyncio.sleep(0.2)  # the guest works between
            began = time.monotonic()
            result = await client.command("snapshot", domid=made.domid, name=f"s{number}")
            taken.append(time.monotonic() - began)
            await asyncio.sleep(0.2)
            began = time.monotonic()
            back = await client.command("restore", domid=made.domid, name=f"s{number}")
            restored.append(time.monotonic() - began)
            if not result.ok or not back.ok:
                raise RuntimeError(result.error or back.error)
            for snapshot in await client.snapshots(made.domid):
                await client.command("forget", domid=made.domid, name=snapshot.name)
        return taken, restored
    finally:
        await client.close()


def snapshots(folder: Path, guest: Linux) -> list[Row]:
    taken, restored = asyncio.run(_snapshots(folder, guest, 20))
    rows = []
    for what, times in (("snapshot", taken), ("restore", restored)):
        figures = f"median {statistics.median(times) * 1e3:.1f} ms, worst {max(times) * 1e3:.1f} ms"
        rows.append(Row("console", f"{what} of a 256 MiB Linux, by the control client", figures, "", None, "10 ms"))
    return rows


def run() -> list[Row]:
    guest = linux()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        return [*snapshots(folder, guest), *at_rest(folder), *frames(folder, guest), *under_load(folder, guest)]
