"""A guest that one types to answers at once, however its neighbours spin: through the control client, as the app does it.

Counted is the time that the engine computed between a key and its echo, not the wall's: what others on this machine take is theirs.
(`python -m tests.benchmarks echo` gives the wall's.)
"""

from __future__ import annotations

import os
import time

import pytest

from tests.benchmarks.echo import latencies

CORES = os.cpu_count() or 1
LIMIT_SECONDS = 0.100 * CORES
"""Of all its cores together, which never rest here."""


def engines_time(pid: int) -> float:
    """Seconds that a process has computed, by the clock that Linux's clock_getcpuclockid names for it."""
    return time.clock_gettime(~pid << 3 | 2)


@pytest.mark.parametrize(("spinners", "keys"), [(CORES, 150), (max(6, 3 * CORES), 60)], ids=["one-a-core", "six"])
async def test_keys_are_echoed_within_100_ms_beside_guests_that_spin(spinners: int, keys: int) -> None:
    times = sorted(await latencies(spinners, keys, engines_time))
    assert times[int(len(times) * 0.99)] < LIMIT_SECONDS, f"median {times[len(times) // 2]:.3f} s, slowest {times[-3:]}"
