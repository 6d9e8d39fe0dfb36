"""Physical CPUs: worker threads that take turns on actors (domains). An actor is held by one worker at a time.

Who is next and for how long is a scheduler's matter, one for each pool of CPUs (`pools`); here are the threads, the sleepers and the clock. Unicorn
releases the GIL while guest code runs, so as many actors run at once as there are workers.

    sleeping --wake, deadline--> ready --pick--> held --turn--> ready or sleeping

Nothing here is linear in the number of sleepers. One of the CPUs that idle minds the deadlines; while none idles, a clock thread does. It also cuts
turns short while somebody waits: for those that woke, and those that last too long (a guest that spins on PAUSE is slow in counts). A wake is to
rouse no thread but the one that serves it: who minded the deadlines and takes up the sleeper minds them again after a turn no longer than the next
one is away. Should it last longer, the clock thread has another CPU mind them."""

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
_GUARD_NS = 50_000_000
"""While there are such turns, the clock thread looks whether one lasts longer than it should."""
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
        self._unguarded = False  # a turn in which nobody minds the deadlines began since the clock thread looked
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
            self._ready(seat, now)
            self._announce(seat, now)

    def _ready(self, seat: Seat, now: int) -> None:
        seat.state, seat.wake_at = READY, 0
        seat.pool.scheduler.wake(seat.unit, now)

    def _announce(self, seat: Seat, now: int, woke: bool = True) -> None:
        """It waits. An idle CPU is roused; where none may run it, who woke may interrupt somebody."""
        victim, at = seat.pool.scheduler.tickle(seat.unit, now) if woke else (-1, now)
        if self._signal(seat):
            return
        if victim >= 0 and at <= now:
            self._call(victim, now)
        else:
            if victim >= 0:
                self._cuts[victim] = at
            self._end_turns()

    def _signal(self, seat: Seat) -> bool:
        """Rouse an idle CPU that may run it."""
        cpu = self._idle.able(seat)
        if cpu is not None:
            self._idle.rouse(cpu)
        return cpu is not None

    def _call(self, cpu: int, now: int) -> None:
        """It has something better to run."""
        running = self._holding[cpu]
        if running is not None:
            running.actor.preempt()
            self._cuts[cpu] = now + _GRACE_NS  # once more then: that was lost if its turn was about to begin
            self._end_turns()
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
            self._evict(actor, lambda: seat not in self._holding)
            self._leave_pool(seat)

    def _evict(self, actor: Actor, gone: Callable[[], bool]) -> None:
        """End its turn, again and again, until it is `gone` from its CPU."""
        while not gone():
            actor.preempt()
            self._released.wait(_GRACE_NS / 1e9)

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
                woken = []
                for seat in self._sleepers.due(now):
                    self._ready(seat, now)
                    woken.append(seat)
                pool = self.pools.of_cpu[cpu]
                chosen = self._pick(pool, cpu, now) if pool is not None else None
                for seat in woken:
                    if seat.state == READY:
                        self._announce(seat, now)
                if left is not None and left.state == READY:
                    self._announce(left, now, woke=False)
                if chosen is not None:
                    turn = self._pass_on(now, chosen[1], rested)
                    self._turn_ends[cpu] = now + turn
                    if not self._idle or self._waiting():
                        self._end_turns()
                    return chosen[0], turn
                event = pool.scheduler.next_event(now) if pool is not None else 0
                at = self._unminded() or event
                left, rested = None, True
                if self._waiting():
                    self._end_turns()
                self._idle.wait(cpu, min(at, event or at), now)
            return None

    def _pick(self, pool: Pool, cpu: int, now: int) -> tuple[Seat, int] | None:
        chosen = pool.scheduler.pick(cpu, now)
        for other in pool.scheduler.called():
            self._call(other, now)
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
        if rested and not self._waiting() and (not first or first - now > _SHORTEST_NS):
            if first:
                self._unguarded = True
                if not self._clock_at:
                    self._look_by(now + _GUARD_NS)
            return min(turn, _UNMINDED_NS, first - now if first else turn)
        if first and self._idle:
            self._idle.ring_one()
        elif first:
            self._look_by(first)
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

    def _waiting(self) -> bool:
        """For a CPU, though one may idle: in another pool, or one that it may not run on."""
        return any(pool.scheduler.waiting() for pool in self.pools)

    def _end_turns(self) -> None:
        """The clock thread is to cut turns short when it is time."""
        ends = [self._cut_at(cpu) for cpu, held in enumerate(self._holding) if held is not None]
        if ends:
            self._look_by(min(ends))

    def _cut_at(self, cpu: int) -> int:
        ends = self._turn_ends[cpu] + _GRACE_NS
        return min(ends, self._cuts[cpu] or ends)

    def _look_by(self, at: int) -> None:
        if not self._clock_at or at < self._clock_at:
            self._clock_at = at
            self._tick.notify()

    def _mind_clock(self) -> None:
        looks = 0
        with self._lock:
            while not self._stopping:
                now = time.monotonic_ns()
                if self._idle and not self._waiting():
                    looks += 1
                    self._clock_at = self._look_aside(now, looks)
                else:
                    looks = 0
                    self._clock_at = self._mind_turns(now)
                self._tick.wait(seconds(self._clock_at - now) if self._clock_at else None)

    def _look_aside(self, now: int, looks: int) -> int:
        """While CPUs mind the deadlines and nobody waits. When to look again, 0 for not before it is called."""
        if 0 < self._sleepers.first() < now - _GRACE_NS:
            self._idle.ring_one()
        again, self._unguarded = looks <= _LOOKS or self._unguarded, False
        return now + (_LOOK_NS if looks <= _LOOKS else _GUARD_NS) if again else 0

    def _mind_turns(self, now: int) -> int:
        """Likewise."""
        at = 0
        if not self._idle:
            for seat in self._sleepers.due(now):
                self._ready(seat, now)
                self._announce(seat, now)
            at = self._sleepers.first()
        for cpu, held in enumerate(self._holding):
            if held is not None:
                ends = self._cut_at(cpu)
                if ends <= now:
                    held.actor.preempt()
                    ends = now + _GRACE_NS
                at = min(at or ends, ends)
        return max(now + 1_000_000, at) if at else 0
