"""Physical CPUs with actors that only note their turns: who runs where, pools, removal, failures."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from emulator.errors import UserError
from emulator.hypervisor.scheduler import SCHEDULERS, make_scheduler
from emulator.machine.physical_cpus import PhysicalCpus
from emulator.machine.pools import MAIN_POOL
from emulator.machine.seats import HELD
from tests.patience import PATIENCE_SECONDS, until
from tests.unit.noted_actors import SHARING, Noted, added, hog, spin, two_cpus


@pytest.fixture(params=SHARING)
def cpus(request: pytest.FixtureRequest) -> Iterator[PhysicalCpus]:
    yield from two_cpus(request.param)


def seen_anew(*actors: Noted) -> tuple[set[int], ...]:
    """Where each runs in its next turns."""
    for actor in actors:
        actor.cpus.clear()
    turns = [actor.turns for actor in actors]
    until(lambda: all(actor.turns > before + 5 for actor, before in zip(actors, turns, strict=True)))
    return tuple(set(actor.cpus) for actor in actors)


def test_a_removed_actor_never_runs_again_and_leaves_nothing(cpus: PhysicalCpus) -> None:
    actors = [added(cpus, Noted(number, spin)) for number in range(6)]
    time.sleep(0.05)
    for actor in actors:
        cpus.remove(actor)
    turns = [actor.turns for actor in actors]
    time.sleep(0.05)
    assert [actor.turns for actor in actors] == turns
    assert not cpus.standing()[1]


@pytest.mark.parametrize("what", ["remove", "move", "take"])
def test_who_is_to_leave_its_cpu_is_told_until_it_does(what: str) -> None:
    """What a turn is told before it has begun is lost."""
    cpus = PhysicalCpus(3, lambda actor, failure: pytest.fail(str(failure)), make_scheduler("credit2", (0, 1, 2)))
    cpus.take_cpus(MAIN_POOL, (2,))
    cpus.create_pool("side", make_scheduler("credit2", ()), (2,))
    told = threading.Event()

    def begin_late(actor: Noted) -> int:
        actor.cut.wait(PATIENCE_SECONDS)
        actor.cut.clear()
        told.set()
        return hog(actor)

    cpus.start()
    try:
        actor = added(cpus, Noted(1, begin_late), frozenset({1}))
        until(lambda: actor.turns == 1)
        began = time.monotonic()
        if what == "remove":
            cpus.remove(actor)
        elif what == "move":
            cpus.move(actor, "side")
        else:
            cpus.take_cpus(MAIN_POOL, (1,))
        assert told.is_set() and time.monotonic() - began < PATIENCE_SECONDS
        cpus.remove(actor)
    finally:
        cpus.stop()


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


def test_every_scheduler_is_known_by_its_name() -> None:
    assert set(SCHEDULERS) == {"credit2", "credit", "rtds", "bvt", "null"}
