"""Physical CPUs: worker threads that take turns on actors (domains). An actor is held by one worker at a time.

Who is next and for how long is a scheduler's matter, one for each pool of CPUs; here are the threads, the sleepers and the clock. Unicorn
releases the GIL while guest code runs, so as many actors run at once as there are workers.

    sleeping --wake, deadline--> ready --pick--> held --turn--> ready or sleeping

Nothing here is linear in the number of sleepers. While a CPU idles it minds the deadlines; while none does, a clock thread does, and cuts
turns short for those that woke and for those that last too long (a guest that spins on PAUSE is slow in counts)."""

from __future__ import annotations

import heapq
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

MAIN_POOL = "Pool-0"
_GRACE_NS = 5_000_000
_HISTORY = 4096
SLEEPING, READY, HELD, GONE = range(4)


class Actor(Protocol):
    """Something that runs in turns."""

    @property
    def domid(self) -> int: ...

    def turn(self, cpu: int, slice_ns: int) -> int | None:
        """Serve what waits and run for about `slice_ns`. Returns 0 to run again, a monotonic time (ns) to be woken at, None to
        sleep until `PhysicalCpus.wake`."""

    def preempt(self) -> None:
        """End the running turn soon. Any thread; lost when none is running."""


class Schedules(Protocol):
    """What of a scheduler is used here (hypervisor.scheduler.Scheduler)."""

    @property
    def name(self) -> str: ...
    def add(self, unit: Any, now: int) -> None: ...
    def remove(self, unit: Any) -> None: ...
    def wake(self, unit: Any, now: int) -> int: ...
    def pick(self, cpu: int, now: int) -> tuple[Any, int] | None: ...
    def ran(self, unit: Any, ns: int, now: int, runnable: bool) -> None: ...
    def adjust(self, unit: Any, now: int, *, weight: int | None = None, cap: int | None = None) -> None: ...
    def next_event(self, now: int) -> int: ...
    def queue(self) -> list[Any]: ...
    def describe(self, unit: Any) -> Any: ...
    def tune(self, **parameters: int) -> None: ...


@dataclass
class _Pool:
    scheduler: Schedules
    cpus: tuple[int, ...]
    seats: dict[int, _Seat] = field(default_factory=dict)


@dataclass(eq=False)
class _Seat:
    """An actor's place."""

    actor: Actor
    unit: Any
    pool: _Pool
    state: int = SLEEPING
    again: bool = False  # woken while held
    wake_at: int = 0


@dataclass(frozen=True, slots=True)
class Stint:
    """Who held which CPU, when (monotonic ns)."""

    cpu: int
    domid: int
    began: int
    ended: int


class PhysicalCpus:
    """`count` workers under `make(cpus)`'s scheduler. `make_unit(domid, weight, cap, affinity)` makes what it schedules.
    `on_failure(actor, exception)` hears of a turn that raised: the actor is not run again."""

    def __init__(self, count: int, on_failure: Callable[[Actor, BaseException], None], make: Callable[[Iterable[int]], Schedules],
                 make_unit: Callable[[int, int, int, frozenset[int] | None], Any]) -> None:  # fmt: skip
        self.count = count
        self._on_failure = on_failure
        self._make_unit = make_unit
        self._lock = threading.Lock()
        self._signals = [threading.Condition(self._lock) for _ in range(count)]
        self._tick = threading.Condition(self._lock)
        self._released = threading.Condition(self._lock)
        self._pools = {MAIN_POOL: _Pool(make(range(count)), tuple(range(count)))}
        self._pool_of = [self._pools[MAIN_POOL]] * count
        self._seats: dict[int, _Seat] = {}  # by id of the actor
        self._sleepers: list[tuple[int, int, _Seat]] = []
        self._sequence = 0
        self._idle: set[int] = set()
        self._turn_ends = [0] * count
        self._holding: list[_Seat | None] = [None] * count
        self._stopping = False
        self.running = [-1] * count
        self.busy_ns = [0] * count
        self.history: deque[Stint] = deque(maxlen=_HISTORY)
        self._threads = [threading.Thread(target=self._work, args=(number,), name=f"cpu{number}", daemon=True) for number in range(count)]
        self._threads.append(threading.Thread(target=self._mind_clock, name="clock", daemon=True))

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Let the running turns end and join the workers."""
        with self._lock:
            self._stopping = True
            for signal in (*self._signals, self._tick):
                signal.notify_all()
        for thread in self._threads:
            thread.join(5)

    # --- actors ----------------------------------------------------------------------------------------------------------------

    def add(self, actor: Actor, weight: int = 256, cap: int = 0, affinity: frozenset[int] | None = None, pool: str = MAIN_POOL) -> None:
        """Sleeping, until it is woken."""
        with self._lock:
            home = self._pools[pool]
            seat = _Seat(actor, self._make_unit(actor.domid, weight, cap, affinity), home)
            self._seats[id(actor)] = home.seats[seat.unit.name] = seat
            home.scheduler.add(seat.unit, time.monotonic_ns())

    def wake(self, actor: Actor) -> None:
        """The actor has something to do. Any thread."""
        with self._lock:
            seat = self._seats.get(id(actor))
            if seat is not None:
                self._wake(seat, time.monotonic_ns())

    def _wake(self, seat: _Seat, now: int) -> None:
        if seat.state == HELD:
            seat.again = True
        elif seat.state == SLEEPING:
            seat.state, seat.wake_at = READY, 0
            victim = seat.pool.scheduler.wake(seat.unit, now)
            if not self._signal(seat) and victim >= 0:
                running = self._holding[victim]
                if running is not None:
                    running.actor.preempt()

    def _signal(self, seat: _Seat) -> bool:
        """Rouse an idle CPU that may run it."""
        for cpu in self._idle:
            if cpu in seat.pool.cpus and seat.unit.may_run_on(cpu):
                self._idle.discard(cpu)
                self._signals[cpu].notify()
                if not self._idle:
                    self._tick.notify()
                return True
        return False

    def remove(self, actor: Actor) -> None:
        """Never run it again; returns when no worker holds it."""
        with self._lock:
            seat = self._seats.pop(id(actor), None)
            if seat is None:
                return
            seat.again = False
            if seat.state == HELD:
                actor.preempt()
                seat.state = GONE
                self._released.wait_for(lambda: seat not in self._holding)
            seat.state = GONE
            seat.pool.scheduler.remove(seat.unit)
            seat.pool.seats.pop(seat.unit.name, None)

    def adjust(self, actor: Actor, weight: int | None = None, cap: int | None = None) -> None:
        """A new weight (1–65535) or cap (percent of a CPU, 0: none), from now on."""
        with self._lock:
            seat = self._seats[id(actor)]
            seat.pool.scheduler.adjust(seat.unit, time.monotonic_ns(), weight=weight, cap=cap)

    def pin(self, actor: Actor, affinity: frozenset[int] | None) -> None:
        """Hard affinity, from its next turn on."""
        with self._lock:
            seat = self._seats[id(actor)]
            seat.unit.affinity = affinity
            if seat.state == HELD:
                seat.actor.preempt()
            for signal in self._signals:
                signal.notify()

    # --- pools -----------------------------------------------------------------------------------------------------------------

    def split(self, name: str, cpus: tuple[int, ...], scheduler: Schedules) -> None:
        """cpupool-create: a new pool of `cpus`, taken from the main one; actors come with `move`."""
        with self._lock:
            main = self._pools[MAIN_POOL]
            self._pools[name] = _Pool(scheduler, cpus)
            main.cpus = tuple(cpu for cpu in main.cpus if cpu not in cpus)
            for cpu in cpus:
                self._pool_of[cpu] = self._pools[name]
                self._signals[cpu].notify()

    def move(self, actor: Actor, pool: str) -> None:
        """cpupool-migrate."""
        with self._lock:
            seat, now = self._seats[id(actor)], time.monotonic_ns()
            if seat.state == HELD:
                actor.preempt()
                seat.again = True
                self._released.wait_for(lambda: seat not in self._holding)
            ready = seat.state == READY
            seat.pool.scheduler.remove(seat.unit)
            seat.pool.seats.pop(seat.unit.name, None)
            seat.pool = self._pools[pool]
            seat.pool.seats[seat.unit.name] = seat
            seat.pool.scheduler.add(seat.unit, now)
            if ready:
                seat.state = SLEEPING
                self._wake(seat, now)

    # --- looking ---------------------------------------------------------------------------------------------------------------

    @property
    def scheduler(self) -> str:
        return " ".join(dict.fromkeys(pool.scheduler.name for pool in self._pools.values()))

    def describe(self, actor: Actor) -> Any:
        """The scheduler's view of it (hypervisor.scheduler.Queued), None when it has gone. Without the lock: a look may be a turn old."""
        seat = self._seats.get(id(actor))
        return seat.pool.scheduler.describe(seat.unit) if seat is not None else None

    def spent(self, actor: Actor) -> int:
        """CPU time of its turns, ns."""
        seat = self._seats.get(id(actor))
        return int(seat.unit.spent) if seat is not None else 0

    def tune(self, **parameters: int) -> None:
        """Parameters of the main pool's scheduler (Scheduler.tune)."""
        with self._lock:
            self._pools[MAIN_POOL].scheduler.tune(**parameters)

    def share(self, actor: Actor) -> tuple[int, int, int]:
        """Weight, cap, and whether it waits or runs or sleeps."""
        seat = self._seats.get(id(actor))
        return (seat.unit.weight, seat.unit.cap, seat.state) if seat is not None else (0, 0, GONE)

    def queue(self) -> list[Any]:
        """The run queues, in order."""
        with self._lock:
            return [queued for pool in self._pools.values() for queued in pool.scheduler.queue()]

    # --- workers ---------------------------------------------------------------------------------------------------------------

    def _due(self, now: int) -> int:
        """Wake whose deadline has come; returns the next one, 0 for none."""
        sleepers = self._sleepers
        while sleepers:
            at, _sequence, seat = sleepers[0]
            if seat.state != SLEEPING or seat.wake_at != at:
                heapq.heappop(sleepers)
            elif at <= now:
                heapq.heappop(sleepers)
                self._wake(seat, now)
            else:
                return at
        return 0

    def _next(self, cpu: int) -> tuple[_Seat, int] | None:
        """The next to hold, waiting for one; None at the end."""
        with self._lock:
            while not self._stopping:
                self._idle.discard(cpu)
                now = time.monotonic_ns()
                at = self._due(now)
                pool = self._pool_of[cpu]
                chosen = pool.scheduler.pick(cpu, now)
                if chosen is not None:
                    unit, turn = chosen
                    seat = pool.seats[unit.name]
                    seat.state = HELD
                    self._holding[cpu], self._turn_ends[cpu] = seat, now + turn
                    if not self._idle:
                        self._tick.notify()
                    return seat, turn
                event = pool.scheduler.next_event(now)
                at = min(at or event, event or at)
                self._idle.add(cpu)
                self._signals[cpu].wait(max(0.0, (at - now) / 1e9) if at else None)
            return None

    def _work(self, cpu: int) -> None:
        while (chosen := self._next(cpu)) is not None:
            seat, turn = chosen
            actor = seat.actor
            self.running[cpu] = actor.domid
            began, spent = time.monotonic_ns(), time.thread_time_ns()
            verdict: int | None = None
            failed = False
            try:
                verdict = actor.turn(cpu, turn)
            except Exception as failure:  # noqa: BLE001 - our own bug: one domain is lost, not the worker
                failed = True
                self._on_failure(actor, failure)
            spent = time.thread_time_ns() - spent
            ended = time.monotonic_ns()
            self.busy_ns[cpu] += ended - began
            self.running[cpu] = -1
            self.history.append(Stint(cpu, actor.domid, began, ended))
            with self._lock:
                self._put_back(cpu, seat, verdict, spent, ended, failed)

    def _put_back(self, cpu: int, seat: _Seat, verdict: int | None, spent: int, now: int, failed: bool) -> None:
        self._holding[cpu] = None
        runnable = (seat.again or verdict == 0) and seat.state == HELD and not failed
        seat.again = False
        seat.pool.scheduler.ran(seat.unit, spent, now, runnable)
        if seat.state == HELD:
            seat.state = GONE if failed else READY if runnable else SLEEPING
            if runnable:
                self._signal(seat)
            elif verdict is not None and not failed:
                seat.wake_at = verdict
                self._sequence += 1
                heapq.heappush(self._sleepers, (verdict, self._sequence, seat))
                if not self._idle and self._sleepers[0][2] is seat:
                    self._tick.notify()
        self._released.notify_all()

    # --- the clock -------------------------------------------------------------------------------------------------------------

    def _mind_clock(self) -> None:
        with self._lock:
            while not self._stopping:
                if self._idle:
                    self._tick.wait()
                    continue
                now = time.monotonic_ns()
                at = self._due(now)
                for cpu in range(self.count):
                    seat, ends = self._holding[cpu], self._turn_ends[cpu] + _GRACE_NS
                    if seat is None:
                        continue
                    if ends <= now:
                        seat.actor.preempt()
                        ends = now + _GRACE_NS
                    at = min(at or ends, ends)
                for pool in self._pools.values():
                    event = pool.scheduler.next_event(now)
                    at = min(at or event, event or at) if event > now else at
                self._tick.wait(max(0.001, (at - now) / 1e9) if at else None)
