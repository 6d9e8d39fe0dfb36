"""A thousand domains in the table: how long the app's loop is held up while somebody scrolls, filters and sorts, in CPU time.

With the fake engine of the tests (the app alone) and with a real one whose guests sleep."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from textual.pilot import Pilot

from emulator.control.client import start_engine
from tests.benchmarks.console import COLUMNS, PULSE_SECONDS, ROWS, cfg, told
from tests.benchmarks.table import Row
from tests.ui.fake_details import RichEngine
from tests.ui.fake_engine import FakeDomain
from xenconsole.app import ConsoleApp

DOMAINS = 1000
BATCH = 50
Work = tuple[str, Callable[[Pilot[Any]], Awaitable[None]]]


async def _scroll(pilot: Pilot[Any]) -> None:
    for key in ["j"] * 40 + ["pagedown"] * 20 + ["G", "g"]:
        await pilot.press(key)


async def _sort(pilot: Pilot[Any]) -> None:
    for key in ("P", "M", "T", "N") * 4:
        await pilot.press(key)
        await asyncio.sleep(0.05)


async def _filter(pilot: Pilot[Any]) -> None:
    for _ in range(3):
        await pilot.press("slash", *"small-99", "escape")


async def _matrix(pilot: Pilot[Any]) -> None:
    await pilot.press("m")
    await asyncio.sleep(1.5)
    await pilot.press(*["j"] * 30, "G", "g")
    await asyncio.sleep(1.5)
    await pilot.press("escape")


async def _scheduler(pilot: Pilot[Any]) -> None:
    await pilot.press("v")
    await asyncio.sleep(1.0)
    await pilot.press(*["j"] * 30, "G", "g")
    await asyncio.sleep(1.0)
    await pilot.press("escape")


WORK: tuple[Work, ...] = (
    ("scrolled", _scroll),
    ("sorted", _sort),
    ("filtered", _filter),
    ("the matrix", _matrix),
    ("run queue and vCPUs", _scheduler),
)


async def _pulse(times: list[float]) -> None:
    while True:
        worked = time.thread_time()
        await asyncio.sleep(PULSE_SECONDS)
        times.append(time.thread_time() - worked)


async def _measure(app: ConsoleApp, ready: Callable[[], bool]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    async with app.run_test(size=(COLUMNS, ROWS)) as pilot:
        while not ready():  # noqa: ASYNC110 - whatever may be waited for
            await asyncio.sleep(0.2)
        await asyncio.sleep(3)
        for name, work in WORK:
            times: list[float] = []
            pulse = asyncio.create_task(_pulse(times))
            await work(pilot)
            pulse.cancel()
            found[name] = times
    return found


async def _fake() -> dict[str, list[float]]:
    engine = RichEngine()
    for number in range(6, DOMAINS + 1):
        load = float(number % 7)
        engine.domains[number] = FakeDomain(number, f"small-{number}", mem_mib=4 + number % 5, load=load, hypercalls=number % 90, events=number % 40)
    return await _measure(ConsoleApp(engine, delay=0.25), lambda: True)


async def _real(folder: Path) -> dict[str, list[float]]:
    client = await start_engine()
    try:
        for start in range(0, DOMAINS, BATCH):
            files = [cfg(folder, f"small-{number}", "shell") for number in range(start, min(start + BATCH, DOMAINS))]
            made = await asyncio.gather(*(client.command("create", file=str(file)) for file in files))
            if wrong := next((result.error for result in made if not result.ok), ""):
                raise RuntimeError(wrong)
        app = ConsoleApp(client)
        return await _measure(app, lambda: len(app.overview.domains) > DOMAINS)
    finally:
        await client.close()


def run() -> list[Row]:
    with tempfile.TemporaryDirectory() as name:
        measured = (("a fake engine", asyncio.run(_fake())), ("a real one, its guests asleep", asyncio.run(_real(Path(name)))))
    return [
        Row("thousand", f"a frame with {DOMAINS:,} domains of {engine}, {work}: the app's loop held up, of CPU", told(times), "", None, "p99 33 ms")
        for engine, found in measured
        for work, times in found.items()
    ]
