"""How tests wait for what comes by itself: as long as a machine many times slower may take, and no longer than it takes.

A wait that looks again and again costs nothing when it succeeds, so there is one patience for all of them, far beyond what anything
needs. A test of what must NOT happen sleeps instead, and says so.
"""

from __future__ import annotations

import asyncio
import os
import select
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")
PATIENCE_SECONDS = 300.0


def _untold() -> object:
    return "not reached in time"


def until(reached: Callable[[], T], told: Callable[[], object] = _untold, *, pause: float = 0.005) -> T:
    """The first true answer of `reached`; AssertionError with what `told` knows when patience is out. `pause`: seconds between two looks."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not (answer := reached()):
        assert time.monotonic() < end, told()
        time.sleep(pause)
    return answer


async def soon(reached: Callable[[], T], told: Callable[[], object] = _untold, *, pause: float = 0.005) -> T:
    """`until` in an event loop that goes on meanwhile."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not (answer := reached()):
        assert time.monotonic() < end, told()
        await asyncio.sleep(pause)
    return answer


@contextmanager
def meanwhile(act: Callable[[], object], pause: float = 0.02) -> Iterator[None]:
    """Another thread acts every `pause` seconds: the first time may be too early where the machine stalls just then."""
    done = threading.Event()

    def work() -> None:
        while not done.wait(pause):
            act()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def read_until(fd: int, wanted: bytes, seen: bytes = b"") -> bytes:
    """All that was read from a pipe or terminal once it holds `wanted`, `seen` before it; AssertionError when it ends before."""
    end = time.monotonic() + PATIENCE_SECONDS
    while wanted not in seen:
        ready, _, _ = select.select([fd], [], [], max(0.0, end - time.monotonic()))
        assert ready, f"{wanted!r} did not come; came: {seen[-3000:]!r}"
        try:
            fresh = os.read(fd, 65536)
        except OSError:  # EIO: nobody holds the terminal's other end any more
            fresh = b""
        assert fresh, f"ended without {wanted!r}; came: {seen[-3000:]!r}"
        seen += fresh
    return seen
