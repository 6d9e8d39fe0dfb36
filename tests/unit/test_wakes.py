"""Wakes and deadlines on physical CPUs, with actors that only note their turns: each is served, by one thread, and a thousand sleepers."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Iterator
from itertools import pairwise

import pytest

from emulator.hypervisor.scheduler import SCHEDULERS, Unit, make_scheduler
from emulator.machine.physical_cpus import PhysicalCpus
from emulator.machine.pools import MAIN_POOL
from emulator.machine.seats import SLEEPING, Actor
from tests.patience import PATIENCE_SECONDS, until
from tests.unit.noted_actors import SHARING, Noted, added, hog, spin, two_cpus


@pytest.fixture(params=SHARING)
def cpus(request: pytest.FixtureRequest) -> Iterator[PhysicalCpus]:
    yield from two_cpus(request.param)


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


def test_a_deadline_centuries_away_is_slept_for_like_any_other(cpus: PhysicalCpus) -> None:
    for busy in (False, True):  # minded by an idle CPU, and by the clock
        far = added(cpus, Noted(1, lambda actor: (1 << 64) - 1))
        until(lambda far=far: far.turns == 1)  # type: ignore[misc]
        spinners = [added(cpus, Noted(number, spin)) for number in range(2, 6)] if busy else []
        time.sleep(0.05)
        assert all(thread.is_alive() for thread in cpus._threads)
        for actor in (far, *spinners):
            cpus.remove(actor)


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

    until(lambda: len(cpus._idle) == 2 and not cpus._clock_at)  # the clock thread looks no more: it would help where the machine stalls
    watch(cpus._idle, "rouse")
    watch(cpus._idle, "ring_one")
    watch(cpus._tick, "notify")
    actor = added(cpus, Noted(1, lambda actor: time.monotonic_ns() + 1_000_000))
    until(lambda: actor.turns > 100)
    assert roused == ["rouse"], f"when it woke first, and no more: {roused}"


def test_a_sleeper_is_minded_while_another_that_rested_goes_from_turn_to_turn(cpus: PhysicalCpus) -> None:
    sleeper = added(cpus, Noted(1, lambda actor: time.monotonic_ns() + 1_000_000))
    goer = Noted(2, lambda actor: 0 if actor.turns % 400 else time.monotonic_ns() + 3_000_000)
    added(cpus, goer)
    until(lambda: goer.turns > 2000 and sleeper.turns > 50)
    turns = sleeper.turns
    until(lambda: sleeper.turns >= turns + 50, lambda: "nobody minds it")


def test_a_turn_is_cut_for_who_may_run_nowhere_else_though_a_cpu_idles(cpus: PhysicalCpus) -> None:
    hogging = added(cpus, Noted(1, hog), frozenset({0}))
    until(lambda: hogging.turns == 1)
    time.sleep(0.1)  # the clock thread looks no more
    sleeper = added(cpus, Noted(2, lambda actor: None), frozenset({0}))
    until(lambda: sleeper.turns == 1)
    other = added(cpus, Noted(3, hog), frozenset({0}))
    until(lambda: hogging.turns + other.turns > 10)
    for actor in (hogging, other):
        cpus.remove(actor)


def test_two_that_wake_at_once_have_two_cpus_though_one_alone_idles(cpus: PhysicalCpus) -> None:
    hogging = added(cpus, Noted(1, hog))
    due = time.monotonic_ns() + 300_000_000
    both = threading.Barrier(2)

    def meet(actor: Noted) -> int | None:
        if actor.turns == 1:
            return due
        both.wait(PATIENCE_SECONDS)  # each holds its CPU until the other has one
        return None

    pair = [added(cpus, Noted(number, meet)) for number in (2, 3)]
    until(lambda: all(actor.turns == 2 and cpus.seat(actor)[2] == SLEEPING for actor in pair))  # type: ignore[index]
    assert not cpus.failures and not both.broken  # type: ignore[attr-defined]
    cpus.remove(hogging)


def test_deadlines_are_kept_though_who_minded_them_runs_longer_than_it_should(cpus: PhysicalCpus) -> None:
    ticking = added(cpus, Noted(1, lambda actor: time.monotonic_ns() + 3_000_000))
    beside: list[bool] = []

    def overrun(actor: Noted) -> int | None:
        if actor.turns < 50:
            return time.monotonic_ns() + 1_000_000
        turns = ticking.turns
        until(lambda: ticking.turns > turns + 2)
        beside.append(True)
        return None

    added(cpus, Noted(2, overrun))
    until(lambda: bool(beside or cpus.failures))  # type: ignore[attr-defined]
    assert beside


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
