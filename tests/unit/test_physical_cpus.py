"""Physical CPUs with actors that only note their turns: waking, deadlines, removal, failures, and a thousand sleepers."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest

from emulator.errors import UserError
from emulator.hypervisor.scheduler import SCHEDULERS, Unit, make_scheduler
from emulator.machine.physical_cpus import PhysicalCpus
from emulator.machine.pools import MAIN_POOL
from emulator.machine.seats import HELD, SLEEPING, Actor
from tests.patience import PATIENCE_SECONDS, until


class Noted:
    """An actor whose turns are `act`'s."""

    def __init__(self, domid: int, act: Callable[[Noted], int | None]) -> None:
        self.domid, self._act = domid, act
        self.turns = 0
        self.cut = threading.Event()
        self.cpus: set[int] = set()

    def turn(self, cpu: int, slice_ns: int) -> int | None:
        self.turns += 1
        self.cpus.add(cpu)
        return self._act(self)

    def preempt(self) -> None:
        self.cut.set()


def spin(actor: Noted) -> int:
    """Runs until it is preempted, 5 ms at most."""
    actor.cut.wait(0.005)
    actor.cut.clear()
    return 0


@pytest.fixture(params=["credit2", "credit", "rtds", "bvt"])
def cpus(request: pytest.FixtureRequest) -> Iterator[PhysicalCpus]:
    made = PhysicalCpus(2, lambda actor, failure: failures.append(failure), make_scheduler(request.param, (0, 1)))
    failures: list[BaseException] = []
    made.failures = failures  # type: ignore[attr-defined]
    made.start()
    yield made
    made.stop()


def added(cpus: PhysicalCpus, actor: Noted, affinity: frozenset[int] | None = None, soft: frozenset[int] | None = None) -> Noted:
    cpus.add(actor, Unit(actor.domid, affinity=affinity, soft=soft))
    cpus.wake(actor)
    return actor


def seen_anew(*actors: Noted) -> tuple[set[int], ...]:
    """Where each runs in its next turns."""
    for actor in actors:
        actor.cpus.clear()
    turns = [actor.turns for actor in actors]
    until(lambda: all(actor.turns > before + 5 for actor, before in zip(actors, turns, strict=True)))
    return tuple(set(actor.cpus) for actor in actors)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_each_wake_and_each_deadline_is_served_by_a_cpu_that_may(scheduler: str) -> None:
    """Both CPUs idle, one of them minds the deadline, and under null the other has nothing to say."""
    cpus = PhysicalCpus(2, lambda actor, failure: pytest.fail(str(failure)), make_scheduler(scheduler, (0, 1)))
    cpus.start()
    try:
        actor = added(cpus, Noted(1, lambda actor: time.monotonic_ns() + (1_000_000 if actor.turns % 2 else 3_600_000_000_000)))
        for turns in range(2, 60, 2):
            until(lambda turns=turns: actor.turns == turns and cpus.seat(actor)[2] == SLEEPING)  # type: ignore[misc,index]
            time.sleep(0.002)  # until they idle again: a wake before that is not the case at hand
            cpus.wake(actor)
    finally:
        cpus.stop()


@pytest.mark.parametrize("act", ["sleeps", "spins"])
@pytest.mark.parametrize("goes", ["removed", "moved"])
def test_under_null_who_waits_gets_the_cpu_of_who_goes(act: str, goes: str) -> None:
    cpus = PhysicalCpus(3, lambda actor, failure: pytest.fail(str(failure)), make_scheduler("null", (0, 1, 2)))
    cpus.take_cpus(MAIN_POOL, (2,))
    cpus.create_pool("side", make_scheduler("credit2", ()), (2,))
    cpus.start()
    try:
        owners = [added(cpus, Noted(number, spin if act == "spins" else lambda actor: None)) for number in (1, 2)]
        until(lambda: all(owner.turns for owner in owners))
        waiting = added(cpus, Noted(3, lambda actor: None))
        time.sleep(0.01)
        assert not waiting.turns
        cpus.remove(owners[0]) if goes == "removed" else cpus.move(owners[0], "side")
        until(lambda: waiting.turns == 1)
    finally:
        cpus.stop()


def test_a_sleeper_runs_when_woken_and_at_its_deadline(cpus: PhysicalCpus) -> None:
    sleeper = added(cpus, Noted(1, lambda actor: None))
    until(lambda: sleeper.turns == 1)
    time.sleep(0.02)
    assert sleeper.turns == 1
    cpus.wake(sleeper)
    until(lambda: sleeper.turns == 2)
    began = time.monotonic()
    timed = added(cpus, Noted(2, lambda actor: time.monotonic_ns() + 20_000_000 if actor.turns < 5 else None))
    until(lambda: timed.turns == 5)
    assert time.monotonic() - began >= 0.06


def test_deadlines_are_kept_beside_spinning_actors(cpus: PhysicalCpus) -> None:
    if cpus.scheduler == "rtds":
        pytest.skip("these actors spend no budget, and RTDS owes nothing to those who come beside an overload")
    spinners = [added(cpus, Noted(number, spin)) for number in range(1, 5)]
    others: list[int] = []  # turns of the spinners, at each turn of the timed one

    def note(actor: Noted) -> int:
        others.append(sum(spinner.turns for spinner in spinners))
        return time.monotonic_ns() + 10_000_000

    timed = added(cpus, Noted(9, note))
    until(lambda: timed.turns > 25)
    assert statistics.median(after - before for before, after in pairwise(others)) < 16, "40 ms of theirs on two CPUs"


def test_a_removed_actor_never_runs_again_and_leaves_nothing(cpus: PhysicalCpus) -> None:
    actors = [added(cpus, Noted(number, spin)) for number in range(6)]
    time.sleep(0.05)
    for actor in actors:
        cpus.remove(actor)
    turns = [actor.turns for actor in actors]
    time.sleep(0.05)
    assert [actor.turns for actor in actors] == turns
    assert not cpus.standing()[1]


def test_nobody_stands_in_two_places_of_one_look(cpus: PhysicalCpus) -> None:
    actors = [added(cpus, Noted(number, spin)) for number in range(1, 7)]
    for _ in range(300):
        held, queue = cpus.standing()
        names = [view.name for _, view in held] + [view.name for view in queue]
        assert sorted(names) == [1, 2, 3, 4, 5, 6], names
    for actor in actors:
        cpus.remove(actor)


def test_an_actor_that_fails_is_told_of_and_the_worker_goes_on(cpus: PhysicalCpus) -> None:
    def fail(actor: Noted) -> int:
        raise RuntimeError("ours")

    failing = added(cpus, Noted(1, fail))
    until(lambda: failing.turns == 1)
    fine = added(cpus, Noted(2, lambda actor: None))
    until(lambda: fine.turns == 1)
    time.sleep(0.02)
    assert failing.turns == 1, "not of itself"
    assert len(cpus.failures) == 1  # type: ignore[attr-defined]
    cpus.wake(failing)
    until(lambda: failing.turns == 2)
    cpus.remove(failing)


def test_a_deadline_centuries_away_is_slept_for_like_any_other(cpus: PhysicalCpus) -> None:
    for busy in (False, True):  # minded by an idle CPU, and by the clock
        far = added(cpus, Noted(1, lambda actor: (1 << 64) - 1))
        until(lambda far=far: far.turns == 1)  # type: ignore[misc]
        spinners = [added(cpus, Noted(number, spin)) for number in range(2, 6)] if busy else []
        time.sleep(0.05)
        assert all(thread.is_alive() for thread in cpus._threads)
        for actor in (far, *spinners):
            cpus.remove(actor)


def test_an_actor_removed_while_it_moves_to_another_pool_is_gone_when_told(cpus: PhysicalCpus) -> None:
    entered, leave = threading.Event(), threading.Event()

    def hold(actor: Noted) -> int:
        entered.set()
        leave.wait(PATIENCE_SECONDS)
        return 0

    cpus.take_cpus(MAIN_POOL, (1,))
    cpus.create_pool("side", make_scheduler("credit2", ()), (1,))
    actor = added(cpus, Noted(1, hold))
    assert entered.wait(PATIENCE_SECONDS)
    moving = threading.Thread(target=cpus.move, args=(actor, "side"))
    moving.start()
    until(actor.cut.is_set)
    removing = threading.Thread(target=cpus.remove, args=(actor,))
    removing.start()
    time.sleep(0.05)
    assert removing.is_alive(), "a CPU holds it still"
    leave.set()
    moving.join(PATIENCE_SECONDS)
    removing.join(PATIENCE_SECONDS)
    turns = actor.turns
    time.sleep(0.05)
    assert not moving.is_alive() and not removing.is_alive() and actor.turns == turns
    assert not cpus.standing()[1] and not any(pool.domains for pool in cpus.pools)


def test_a_pinned_actor_stays_on_its_cpu_and_can_be_pinned_anew(cpus: PhysicalCpus) -> None:
    pinned = added(cpus, Noted(1, spin), frozenset({1}))
    others = [added(cpus, Noted(number, spin)) for number in (2, 3)]
    until(lambda: pinned.turns > 5)
    assert pinned.cpus == {1}
    cpus.pin(pinned, frozenset({0}), None)
    time.sleep(0.05)
    assert seen_anew(pinned) == ({0},)
    until(lambda: all(other.turns for other in others))


def test_a_pool_of_its_own_has_its_cpus_and_its_scheduler(cpus: PhysicalCpus) -> None:
    actor = added(cpus, Noted(1, spin))
    rival = added(cpus, Noted(2, spin))
    cpus.take_cpus(MAIN_POOL, (1,))
    cpus.create_pool("small", make_scheduler("null", ()), (1,))
    cpus.move(actor, "small")
    time.sleep(0.05)
    assert seen_anew(actor, rival) == ({1}, {0})
    assert cpus.scheduler.endswith("null")
    assert cpus.seat(actor)[1:] == ("small", HELD)  # type: ignore[index]
    with pytest.raises(UserError, match="1 domain"):
        cpus.destroy_pool("small")
    with pytest.raises(UserError, match="last of pool small"):
        cpus.take_cpus("small", (1,))
    with pytest.raises(UserError, match="none of the CPUs 0"):
        cpus.pin(actor, frozenset({0}), None)
    cpus.move(actor, MAIN_POOL)
    cpus.destroy_pool("small")
    actor.cpus.clear()
    rival.cpus.clear()
    cpus.give_cpus(MAIN_POOL, (1,))
    until(lambda: actor.cpus | rival.cpus == {0, 1})


def test_a_cpu_that_is_taken_away_runs_nobody_and_breaks_the_affinity_of_who_had_no_other(cpus: PhysicalCpus) -> None:
    pinned = added(cpus, Noted(1, spin), frozenset({1}))
    others = [added(cpus, Noted(number, spin)) for number in (2, 3)]
    until(lambda: 1 in pinned.cpus)
    assert cpus.take_cpus(MAIN_POOL, (1,)) == (1,)
    for actor in (pinned, *others):
        actor.cpus.clear()
    if cpus.scheduler != "rtds":  # these spend no budget, so RTDS may leave one of them out for long
        until(lambda: all(0 in actor.cpus for actor in (pinned, *others)))
    time.sleep(0.05)
    assert all(actor.cpus <= {0} for actor in (pinned, *others))
    assert cpus.running[1] == -1


def test_soft_affinity_is_found_and_left_for_an_idle_cpu(cpus: PhysicalCpus) -> None:
    if cpus.scheduler == "rtds":
        pytest.skip("RTDS knows no soft affinity, as in Xen")
    here, there = (added(cpus, Noted(number, spin), soft=frozenset({cpu})) for number, cpu in ((1, 1), (2, 0)))
    until(lambda: seen_anew(here, there) == ({1}, {0}))
    cpus.pin(there, None, frozenset({1}))
    third = added(cpus, Noted(3, spin), soft=frozenset({1}))
    time.sleep(0.2)
    for actor in (here, there, third):
        actor.cpus.clear()
    until(lambda: 0 in here.cpus | there.cpus | third.cpus)  # three want CPU 1: the other does not idle


def test_a_thousand_sleepers_cost_a_wake_nothing() -> None:
    small, large = (min(wake_seconds(sleepers) for _ in range(3)) for sleepers in (400, 4000))
    assert large < 5 * small


def wake_seconds(sleepers: int) -> float:
    """CPU time of one wake beside so many."""
    cpus = PhysicalCpus(1, lambda actor, failure: None, make_scheduler("credit2", (0,)))
    actors: list[Actor] = [Noted(number, lambda actor: time.monotonic_ns() + 600_000_000_000) for number in range(sleepers)]
    cpus.start()
    for actor in actors:
        cpus.add(actor, Unit(actor.domid))
    began = time.thread_time()
    for actor in actors:
        cpus.wake(actor)
    took = time.thread_time() - began
    until(lambda: all(isinstance(actor, Noted) and actor.turns == 1 for actor in actors))
    cpus.stop()
    return took / sleepers


def test_every_scheduler_is_known_by_its_name() -> None:
    assert set(SCHEDULERS) == {"credit2", "credit", "rtds", "bvt", "null"}


def test_no_other_cpu_is_roused_for_an_actor_that_goes_on(cpus: PhysicalCpus, monkeypatch: pytest.MonkeyPatch) -> None:
    roused, rouse = [], cpus._idle.rouse

    def count(cpu: int) -> None:
        roused.append(cpu)
        rouse(cpu)

    until(lambda: len(cpus._idle) == 2)
    monkeypatch.setattr(cpus._idle, "rouse", count)
    actor = added(cpus, Noted(1, lambda actor: 0 if actor.turns < 500 else None))
    until(lambda: actor.turns == 500)
    assert len(roused) == 1, "when it woke"


def test_a_deadline_rouses_no_thread_but_the_one_that_minds_it(cpus: PhysicalCpus, monkeypatch: pytest.MonkeyPatch) -> None:
    """An idle guest's ticks: a second thread, roused in vain each time, would take as long as the guest."""
    roused: list[str] = []

    def watch(owner: object, name: str) -> None:
        call = getattr(owner, name)

        def noted(*given: int) -> None:
            roused.append(name)
            call(*given)

        monkeypatch.setattr(owner, name, noted)

    until(lambda: len(cpus._idle) == 2)
    watch(cpus._idle, "rouse")
    watch(cpus._idle, "ring_one")
    watch(cpus._tick, "notify")
    actor = added(cpus, Noted(1, lambda actor: time.monotonic_ns() + 1_000_000))
    until(lambda: actor.turns > 100)
    assert roused == ["rouse"], "when it woke first"


def test_a_sleeper_is_minded_while_another_that_rested_goes_from_turn_to_turn(cpus: PhysicalCpus) -> None:
    sleeper = added(cpus, Noted(1, lambda actor: time.monotonic_ns() + 1_000_000))
    goer = Noted(2, lambda actor: 0 if actor.turns % 400 else time.monotonic_ns() + 3_000_000)
    added(cpus, goer)
    until(lambda: goer.turns > 2000 and sleeper.turns > 50)
    turns = sleeper.turns
    until(lambda: sleeper.turns >= turns + 50, lambda: "nobody minds it")


def test_the_clock_thread_is_not_woken_for_every_wake(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two actors on one CPU that wake each other: each wake asks for a cut, and a millisecond's cuts are looked at together."""
    cpus = PhysicalCpus(1, lambda actor, failure: None, make_scheduler("credit2", (0,)))
    calls, turns, notify = 0, 0, cpus._tick.notify

    def call(count: int = 1) -> None:
        nonlocal calls
        calls += 1
        notify(count)

    def pass_on(actor: Noted) -> None:
        nonlocal turns
        turns += 1
        if turns < 4000:
            cpus.wake(pair[1 - pair.index(actor)])

    monkeypatch.setattr(cpus._tick, "notify", call)
    pair = [added(cpus, Noted(number, pass_on)) for number in (1, 2)]
    cpus.start()
    try:
        began = time.monotonic()
        until(lambda: turns >= 4000)
        assert calls < 100 + 3000 * (time.monotonic() - began), "two a millisecond at most"
    finally:
        cpus.stop()
