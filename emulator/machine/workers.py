"""Physical CPUs: worker threads that take turns on actors (domains). An actor is held by one worker at a time.

Who is next and for how long is a scheduler's matter, one for each pool of CPUs (`pools`); here are the threads, the sleepers and the clock. Unicorn
releases the GIL while guest code runs, so as many actors run at once as there are workers.

    sleeping --wake, deadline--> ready --pick--> held --turn--> ready or sleeping

Nothing here is linear in the number of sleepers. One of the CPUs that idle minds the deadlines; while none does, a clock thread does, and cuts
turns short for those that woke and for those that last too long (a guest that spins on PAUSE is slow in counts). A wake is to rouse no thread
but the one that serves it: who minded the deadlines and takes up the sleeper minds them again after a turn no longer than the next one is away."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from emulator.machine.pools import MAIN_POOL, Pool, Pools, Schedules
from emulator.machine.seats import GONE, HELD, READY, SLEEPING, Actor, Seat, Seats, Stint
from emulator.machine.sleepers import IdleCpus, Sleepers, seconds

_GRACE_NS = 5_000_000
_LOOK_NS, _LOOKS = 2_000_000, 10
"""Where CPUs idle for moments, as when two guests talk, the clock thread looks now and then and is not woken each time."""
_SHORTEST_NS, _UNMINDED_NS = 500_000, 2_000_000
"""A turn in which nobody minds the deadlines: no shorter, else another thread had better mind them, and no longer."""
_HISTORY = 4096


class Workers:
    """`count` workers, all in Pool-0 under `scheduler` at first. `on_failure(actor, exception)` hears of a turn that raised: the actor
    sleeps then, and is run again when somebody wakes it, who may want an answer of it."""

    def __init__(self, count: int, on_failure: Callable[[Actor, BaseException], None], scheduler: Schedules) -> None:
        self.count = count
        self._on_failure = on_failure
        self._lock = threading.Lock()
        self._idle = IdleCpus(self._lock, count)
        self._tick = threading.Condition(self._lock)
        self._released = threading.Condition(self._lock)
        self.pools = Pools(count, scheduler)
        self._seats = Seats()
        self._sleepers = Sleepers()
        self._clock_at = 0  # when the clock thread looks next by itself, 0 for not at all
        self._turn_ends = [0] * count
        self._cuts = [0] * count  # when a turn is to end for somebody who woke
        self._holding: list[Seat | None] = [None] * count
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
            self._tick.notify_all()
            self._idle.ring(*range(self.count))
        for thread in self._threads:
            thread.join(5)

    # --- actors ----------------------------------------------------------------------------------------------------------------

    def add(self, actor: Actor, unit: Any, pool: str = MAIN_POOL) -> None:
        """Sleeping, until it is woken; `unit` is what the pool's scheduler schedules. Raises UserError when the pool cannot take it."""
        with self._lock:
            home = self.pools.find(pool)
            self.pools.check_home(home)
            self.pools.check_affinity(home, unit.affinity)
            seat = Seat(actor, unit, home)
            self._seats[id(actor)] = home.domains[unit.name] = seat
            home.scheduler.add(unit, time.monotonic_ns())

    def wake(self, actor: Actor) -> None:
        """The actor has something to do. Any thread."""
        with self._lock:
            seat = self._seats.get(id(actor))
            if seat is not None:
                self._wake(seat, time.monotonic_ns())

    def _wake(self, seat: Seat, now: int) -> None:
        if seat.state == HELD:
            seat.again = True
        elif seat.state == SLEEPING:
            self._announce(seat, *self._ready(seat, now), now)

    def _ready(self, seat: Seat, now: int) -> tuple[int, int]:
        """A sleeper wakes. The CPU to interrupt for it where none idles, and when (Scheduler.wake)."""
        seat.state, seat.wake_at = READY, 0
        victim, at = seat.pool.scheduler.wake(seat.unit, now)
        return victim, at

    def _announce(self, seat: Seat, victim: int, at: int, now: int) -> None:
        if self._signal(seat) or victim < 0:
            return
        if at <= now:
            self._call(victim)
        else:
            self._cuts[victim] = at
            if not self._clock_at or at < self._clock_at:
                self._clock_at = at
                self._tick.notify()

    def _signal(self, seat: Seat) -> bool:
        """Rouse an idle CPU that may run it."""
        cpu = self._idle.able(seat)
        if cpu is not None:
            self._idle.rouse(cpu)
        return cpu is not None

    def _call(self, cpu: int) -> None:
        """It has something better to run."""
        running = self._holding[cpu]
        if running is not None:
            running.actor.preempt()
        else:
            self._idle.rouse(cpu)

    def remove(self, actor: Actor) -> None:
        """Never run it again; returns when no worker holds it."""
        with self._lock:
            seat = self._seats.pop(id(actor), None)
            if seat is None:
                return
            seat.again = False
            seat.state = GONE
            if seat in self._holding:
                actor.preempt()
                self._released.wait_for(lambda: seat not in self._holding)
            self._leave_pool(seat)

    def _leave_pool(self, seat: Seat) -> None:
        seat.pool.scheduler.remove(seat.unit)
        seat.pool.domains.pop(seat.unit.name, None)
        self._idle.ring(*seat.pool.cpus)  # under null, who waited for a CPU may have one now

    # --- workers ---------------------------------------------------------------------------------------------------------------

    def _next(self, cpu: int, left: Seat | None = None) -> tuple[Seat, int] | None:
        """The next to hold, waiting for one; None at the end. `left`: whom this CPU held and who has more to do. It is most often picked
        again here, as is whose deadline has come, so another CPU is roused for either only when it is not."""
        rested = False
        with self._lock:
            while not self._stopping:
                now = time.monotonic_ns()
                woken = [(seat, *self._ready(seat, now)) for seat in self._sleepers.due(now)]
                if left is not None:
                    woken.append((left, -1, now))
                pool = self.pools.of_cpu[cpu]
                chosen = self._pick(pool, cpu, now) if pool is not None else None
                for seat, victim, at in woken:
                    if seat.state == READY:
                        self._announce(seat, victim, at, now)
                if chosen is not None:
                    held, turn = chosen[0], self._pass_on(now, chosen[1], rested)
                    self._turn_ends[cpu] = now + turn
                    return held, turn
                event = pool.scheduler.next_event(now) if pool is not None else 0
                at = self._unminded() or event
                left, rested = None, True
                self._idle.wait(cpu, min(at, event or at), now)
            return None

    def _pick(self, pool: Pool, cpu: int, now: int) -> tuple[Seat, int] | None:
        chosen = pool.scheduler.pick(cpu, now)
        for other in pool.scheduler.called():
            self._call(other)
        if chosen is None:
            return None
        seat = pool.domains[chosen[0].name]
        seat.state, self._holding[cpu], self._cuts[cpu] = HELD, seat, 0
        return seat, chosen[1]

    def _unminded(self) -> int:
        """The first deadline, 0 when there is none or an idle CPU minds it."""
        first = self._sleepers.first()
        return 0 if self._idle.mind(first) else first

    def _pass_on(self, now: int, turn: int, rested: bool) -> int:
        """How long a CPU's turn is to be so that it need not have another thread mind the deadlines meanwhile; when that is too short, or
        it goes from turn to turn, one is told."""
        first = self._unminded()
        if rested and (not first or first - now > _SHORTEST_NS):
            return min(turn, _UNMINDED_NS, first - now if first else turn)
        if not self._idle:
            self._alert()
        elif first:
            self._idle.ring_one()
        return turn

    def _work(self, cpu: int) -> None:
        left: Seat | None = None
        while (chosen := self._next(cpu, left)) is not None:
            seat, turn = chosen
            actor = seat.actor
            self.running[cpu] = actor.domid
            began, spent = time.monotonic_ns(), time.thread_time_ns()
            verdict: int | None = None
            try:
                verdict = actor.turn(cpu, turn)
            except Exception as failure:  # noqa: BLE001 - our own bug: one domain is lost, not the worker
                self._on_failure(actor, failure)
            spent = time.thread_time_ns() - spent
            ended = time.monotonic_ns()
            self.busy_ns[cpu] += ended - began
            self.running[cpu] = -1
            self.history.append(Stint(cpu, actor.domid, began, ended))
            with self._lock:
                self._put_back(cpu, seat, verdict, spent, ended)
            left = seat if seat.state == READY else None

    def _put_back(self, cpu: int, seat: Seat, verdict: int | None, spent: int, now: int) -> None:
        self._holding[cpu] = None
        runnable = (seat.again or verdict == 0) and seat.state == HELD
        seat.again = False
        seat.pool.scheduler.ran(seat.unit, spent, now, runnable)
        if seat.state == HELD:
            seat.state = READY if runnable else SLEEPING
            if not runnable and verdict is not None:
                self._sleepers.add(seat, verdict)
        self._released.notify_all()

    # --- the clock -------------------------------------------------------------------------------------------------------------

    def _alert(self) -> None:
        """No CPU idles any more: the clock thread minds the deadlines. One that looks again soon is left alone."""
        if not self._clock_at or 0 < self._sleepers.first() < self._clock_at:
            self._tick.notify()

    def _mind_clock(self) -> None:
        looks = 0
        with self._lock:
            while not self._stopping:
                if self._idle:
                    looks += 1
                    self._clock_at = time.monotonic_ns() + _LOOK_NS if looks <= _LOOKS else 0
                    self._tick.wait(_LOOK_NS / 1e9 if self._clock_at else None)
                    continue
                looks, now = 0, time.monotonic_ns()
                for seat in self._sleepers.due(now):
                    self._announce(seat, *self._ready(seat, now), now)
                at = self._sleepers.first()
                for cpu in range(self.count):
                    held, ends = self._holding[cpu], self._turn_ends[cpu] + _GRACE_NS
                    if held is None:
                        continue
                    if self._cuts[cpu]:
                        ends, self._cuts[cpu] = min(ends, self._cuts[cpu]), self._cuts[cpu] * (self._cuts[cpu] > now)
                    if ends <= now:
                        held.actor.preempt()
                        ends = now + _GRACE_NS
                    at = min(at or ends, ends)
                for pool in self.pools:
                    event = pool.scheduler.next_event(now)
                    at = min(at or event, event or at) if event > now else at
                self._clock_at = max(now + 1_000_000, at) if at else 0
                self._tick.wait(seconds(self._clock_at - now) if at else None)
