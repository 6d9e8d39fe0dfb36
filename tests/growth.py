"""How the cost of something grows with its size: a ratio of CPU times, the same on a fast and on a slow machine."""

from __future__ import annotations

import time
from collections.abc import Callable


def cost(act: Callable[[], object], rounds: int = 3) -> float:
    """Seconds of CPU time that it takes this thread, at its best of so many rounds."""
    best = float("inf")
    for _ in range(rounds):
        began = time.thread_time()
        act()
        best = min(best, time.thread_time() - began)
    return best


def times_dearer(small: Callable[[], object], large: Callable[[], object], rounds: int = 3) -> float:
    """How many times the cost of `small` is that of `large`."""
    before = cost(small, rounds)
    return cost(large, rounds) / before
