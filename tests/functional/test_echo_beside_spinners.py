"""A guest that one types to answers at once, however its neighbours spin: through the control client, as the app does it."""

from __future__ import annotations

import os

from tests.benchmarks.echo import latencies

LIMIT_SECONDS = 0.100
KEYS = 150


async def test_keys_are_echoed_within_100_ms_beside_a_spinner_on_every_core() -> None:
    times: list[float] = []
    for _attempt in range(3):  # another program's work on this machine is not what is measured
        times = sorted(await latencies(os.cpu_count() or 1, KEYS))
        if times[int(len(times) * 0.99)] < LIMIT_SECONDS:
            return
    assert times[int(len(times) * 0.99)] < LIMIT_SECONDS, f"median {times[len(times) // 2]:.3f} s, slowest {times[-3:]}"
