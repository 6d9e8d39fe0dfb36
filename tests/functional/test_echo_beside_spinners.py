"""A guest that one types to answers at once, however its neighbours spin: through the control client, as the app does it."""

from __future__ import annotations

import os

import pytest

from tests.benchmarks.echo import latencies

LIMIT_SECONDS = 0.100
CORES = os.cpu_count() or 1


@pytest.mark.parametrize(("spinners", "keys"), [(CORES, 150), (max(6, 3 * CORES), 60)], ids=["one-a-core", "six"])
async def test_keys_are_echoed_within_100_ms_beside_guests_that_spin(spinners: int, keys: int) -> None:
    times: list[float] = []
    for _attempt in range(3):  # another program's work on this machine is not what is measured
        times = sorted(await latencies(spinners, keys))
        if times[int(len(times) * 0.99)] < LIMIT_SECONDS:
            return
    assert times[int(len(times) * 0.99)] < LIMIT_SECONDS, f"median {times[len(times) // 2]:.3f} s, slowest {times[-3:]}"
