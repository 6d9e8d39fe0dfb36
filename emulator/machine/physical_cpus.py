"""Physical CPUs: worker threads that take turns on actors. An actor is held by one worker at a time.

Unicorn releases the GIL while guest code runs, so as many actors run at once as there are workers. The order is round robin; a
real scheduler takes this queue's place later.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

SLICE_NS = 5_000_000


class Actor(Protocol):
    """Something that runs in turns."""

    @property
    def domid(self) -> int: ...

    def turn(self, cpu: int, slice_ns: int) -> int | None:
        """Serve what waits and run for about `slice_ns`. Returns 0 to run again, a monotonic time (ns) to be woken at, None to
        sleep until `PhysicalCpus.wake`."""


class PhysicalCpus:
    """`count` workers. `on_failure(actor, exception)` hears of a turn that raised: the actor is not run again."""

    def __init__(self, count: int, on_failure: Callable[[Actor, BaseException], None]) -> None:
        self.count = count
        self._on_failure = on_failure
        self._changed = threading.Condition()
        self._ready: deque[Actor] = deque()
        self._queued: set[Actor] = set()
        self._held: set[Actor] = set()
        self._again: set[Actor] = set()  # woken while held
        self._sleeping: dict[Actor, int] = {}
        self._gone: set[Actor] = set()
        self._stopping = False
        self.running = [-1] * count
        self.busy_ns = [0] * count
        self._threads = [threading.Thread(target=self._work, args=(number,), name=f"cpu{number}", daemon=True) for number in range(count)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Let the running turns end and join the workers."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(5)

    def wake(self, actor: Actor) -> None:
        """The actor has something to do. Any thread."""
        with self._changed:
            if actor in self._gone:
                return
            if actor in self._held:
                self._again.add(actor)
            elif actor not in self._queued:
                self._sleeping.pop(actor, None)
                self._queued.add(actor)
                self._ready.append(actor)
                self._changed.notify()

    def remove(self, actor: Actor) -> None:
        """Never run it again; returns when no worker holds it."""
        with self._changed:
            self._gone.add(actor)
            self._sleeping.pop(actor, None)
            if actor in self._queued:
                self._queued.discard(actor)
                self._ready.remove(actor)
            self._changed.wait_for(lambda: actor not in self._held)
            self._gone.discard(actor)

    def _next(self) -> Actor | None:
        """The next actor to hold, waiting for one; None at the end."""
        with self._changed:
            while not self._stopping:
                now = time.monotonic_ns()
                due = [actor for actor, at in self._sleeping.items() if at <= now]
                for actor in due:
                    del self._sleeping[actor]
                    self._queued.add(actor)
                    self._ready.append(actor)
                if self._ready:
                    actor = self._ready.popleft()
                    self._queued.discard(actor)
                    self._held.add(actor)
                    if self._ready:
                        self._changed.notify()
                    return actor
                earliest = min(self._sleeping.values(), default=0)
                self._changed.wait((earliest - now) / 1e9 if earliest else None)
            return None

    def _work(self, number: int) -> None:
        while (actor := self._next()) is not None:
            self.running[number] = actor.domid
            began = time.perf_counter_ns()
            verdict: int | None = None
            try:
                verdict = actor.turn(number, SLICE_NS)
            except Exception as failure:  # noqa: BLE001 - our own bug: one domain is lost, not the worker
                self._on_failure(actor, failure)
                with self._changed:
                    self._gone.add(actor)
            self.busy_ns[number] += time.perf_counter_ns() - began
            self.running[number] = -1
            with self._changed:
                self._held.discard(actor)
                again = actor in self._again
                self._again.discard(actor)
                if actor not in self._gone:
                    if again or verdict == 0:
                        self._queued.add(actor)
                        self._ready.append(actor)
                    elif verdict is not None:
                        self._sleeping[actor] = verdict
                self._changed.notify_all()
