"""From a typed key to its echo: an interactive guest beside guests that spin on every core, through the control client."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import statistics
import time
from collections.abc import Callable

from emulator.control.client import EngineClient, start_engine
from tests.benchmarks.table import ROOT, Row
from tests.patience import PATIENCE_SECONDS

KEYS = 300
GUESTS = ROOT / "guests"


async def create(client: EngineClient, guest: str, name: str) -> int:
    result = await client.command("create", file=str(GUESTS / f"{guest}.cfg"), extra=f'name = "{name}"')
    if not result.ok:
        raise RuntimeError(result.error)
    return result.domid


def wall(_pid: int) -> Callable[[], float | None]:
    """A stopwatch for `latencies`."""
    began = time.monotonic()
    return lambda: time.monotonic() - began


async def latencies(spinners: int, keys: int = KEYS, stopwatch: Callable[[int], Callable[[], float | None]] = wall) -> list[float]:
    """Seconds from each key to its echo. The keys come at random moments, as a person's do; each line is emptied now and then.
    `stopwatch` is started with the engine's process; a key for which it gives no time is typed again."""
    client = await start_engine()
    try:
        typed = await create(client, "shell", "typed")
        for number in range(spinners):
            await create(client, "counter", f"spinner{number}")
        output = bytearray()
        heard = asyncio.Event()

        async def listen() -> None:
            async for chunk in client.console_attach(typed, 0):
                output.extend(chunk.data)
                heard.set()

        async def until(size: int) -> None:
            while len(output) < size:
                heard.clear()
                await asyncio.wait_for(heard.wait(), PATIENCE_SECONDS)

        listener = asyncio.create_task(listen())
        await until(1)
        await asyncio.sleep(2)  # the guests are up and the spinners spin
        chance = random.Random(1)
        times: list[float] = []
        for key in itertools.cycle((b"x", b"\x7f")):
            await asyncio.sleep(chance.uniform(0.005, 0.06))
            before = len(output)
            spent = stopwatch(client.engine_pid)
            await client.console_write(typed, key)
            await until(before + 1)
            if (took := spent()) is not None:
                times.append(took)
            if len(times) == keys:
                break
        listener.cancel()
        return times
    finally:
        await client.close()


def run() -> list[Row]:
    rows = []
    for what, spinners in (("alone", 0), ("beside a guest that spins on every core", os.cpu_count() or 1)):
        times = sorted(asyncio.run(latencies(spinners)))
        middle, late = statistics.median(times) * 1e3, times[int(len(times) * 0.99)] * 1e3
        goal = "p99 100 ms" if spinners else ""
        rows.append(Row("echo", f"key to echo, {what}", f"p50 {middle:.1f} ms, p99 {late:.1f} ms", "", None, goal))
    return rows
