"""Terminal speed: our guarded core against bare bittty in one run, and what a frame of the terminal widget costs.

Run: python -m tests.benchmarks.terminal_speed
The ratio is ours / bare: 1.00 would mean that guards and history cost nothing. Frames are CPU ms per refresh of an 80x24 view.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import perf_counter, process_time

from bittty import XTERM, Board
from textual.app import App, ComposeResult

from tests.benchmarks.table import Row, render
from tests.ui.fake_engine import FakeEngine
from xenconsole.terminal.bittty_core import BitttyCore
from xenconsole.terminal.session import ConsoleSession
from xenconsole.widgets.terminal_view import TerminalView

CHUNK = 16384
ROUNDS = 5


def samples() -> dict[str, bytes]:
    """Output as guests make it."""
    line = b"[%12.6f] xen:events: Xen HVM callback vector for event delivery is enabled %d\r\n"
    listing = b"\x1b[01;34mbin\x1b[0m  \x1b[01;32mrun.sh\x1b[0m  notes.txt  \x1b[38;5;208mcore\x1b[0m  \x1b[4mlink\x1b[0m\r\n"
    cell = b"\x1b[%d;%dH\x1b[%dm%5d\x1b[K"
    return {
        "kernel log": b"".join(line % (n / 997, n) for n in range(6000)),
        "ls --color": listing * 4000,
        "yes": b"y\r\n" * 60_000,
        "full screen": b"".join(cell % (n % 24 + 1, n * 7 % 70 + 1, 30 + n % 8, n) for n in range(16_000)),
        "UTF-8": "ünïcødé — 漢字かな 日本語のログ ✓ ┌──┐ done\r\n".encode() * 3000,
    }


class _Keeper:
    """A display for bare bittty that takes the lines that scroll off, as ours does."""

    keeps_scrollback = True

    def present(self, event: object) -> None: ...


def bare(data: bytes) -> None:
    board = Board(width=80, height=24, model=XTERM)
    board.attach_display(_Keeper())
    for start in range(0, len(data), CHUNK):
        board.feed_host_data(data[start : start + CHUNK])


def ours(data: bytes) -> None:
    core = BitttyCore(80, 24)
    for start in range(0, len(data), CHUNK):
        core.feed(data[start : start + CHUNK])


def rate(parse: Callable[[bytes], None], data: bytes) -> float:
    """MB/s, the best of some rounds."""
    best = float("inf")
    for _ in range(ROUNDS):
        start = perf_counter()
        parse(data)
        best = min(best, perf_counter() - start)
    return len(data) / best / 1e6


class _Frames(App[None]):
    def __init__(self, session: ConsoleSession) -> None:
        super().__init__()
        self.view = TerminalView(session)

    def compose(self) -> ComposeResult:
        yield self.view


async def frames() -> dict[str, float]:
    """CPU ms of a refresh: every row changed, one row changed."""
    engine = FakeEngine()
    session = ConsoleSession(engine, 3)
    app = _Frames(session)
    costs: dict[str, float] = {}
    async with app.run_test(size=(80, 24)) as pilot:
        colours = b"".join(b"\x1b[3%dm%s\x1b[0m" % (n % 8, b"word%d " % n) for n in range(9))
        for label, rows, data in (("all rows", 24, b"\r\n".join([colours] * 24)), ("one row", 1, b"\x1b[12;1H" + colours)):
            spent = 0.0
            for turn in range(60):
                session.core.feed(b"\x1b[H" + data + b"%d" % turn)
                session.core.take_dirty()
                start = process_time()
                app.view._changed(frozenset(range(rows)) if rows > 1 else frozenset({11}))
                await pilot.pause()
                spent += process_time() - start
            idle = 0.0
            for _ in range(60):
                start = process_time()
                await pilot.pause()
                idle += process_time() - start
            costs[label] = (spent - idle) / 60 * 1000
    return costs


def run() -> list[Row]:
    """The rows for the table of all benchmarks."""
    rows = []
    for name, data in samples().items():
        theirs, mine = rate(bare, data), rate(ours, data)
        rows.append(Row("terminal", f"parse {name}", f"{mine:.2f} MB/s", f"bare bittty {theirs:.2f} MB/s", mine / theirs))
    for name, cost in asyncio.run(frames()).items():
        rows.append(Row("terminal", f"frame 80x24, {name}", f"{cost:.1f} ms CPU", "", None, "33 ms"))
    return rows


if __name__ == "__main__":
    print(render(run()))
