"""One thread that calls back at given times: for vifs that wait for credit. It starts with the first alarm."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable


class Alarms:
    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: list[tuple[int, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._thread: threading.Thread | None = None
        self._stopping = False

    def after(self, ns: int, call: Callable[[], None]) -> None:
        """Call `call`, which must not block, in about `ns` nanoseconds. Any thread."""
        with self._changed:
            heapq.heappush(self._waiting, (time.monotonic_ns() + ns, next(self._order), call))
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="network-alarms", daemon=True)
                self._thread.start()
            self._changed.notify()

    def close(self) -> None:
        with self._changed:
            self._stopping = True
            self._changed.notify()
            thread = self._thread
        if thread is not None:
            thread.join(5)

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._stopping:
                    now = time.monotonic_ns()
                    if self._waiting and self._waiting[0][0] <= now:
                        break
                    self._changed.wait((self._waiting[0][0] - now) / 1e9 if self._waiting else None)
                if self._stopping:
                    return
                _, _, call = heapq.heappop(self._waiting)
            call()
