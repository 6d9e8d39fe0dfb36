"""Physical CPUs with actors that only note their turns: waking, deadlines, removal, failures, and a thousand sleepers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from emulator.hypervisor.scheduler import SCHEDULERS, Unit, make_scheduler
from emulator.machine.physical_cpus import Actor, PhysicalCpus


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


def until(condition: Callable[[], bool], seconds: float = 5) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.fixture(params=["credit2", "credit", "rtds", "bvt"])
def cpus(request: pytest.FixtureRequest) -> Iterator[PhysicalCpus]:
    made = PhysicalCpus(2, lambda actor, failure: failures.append(failure), partial(make_scheduler, request.param), Unit)
    failures: list[BaseException] = []
    made.failures = failures  # type: ignore[attr-defined]
    made.start()
    yield made
    made.stop()


def added(cpus: PhysicalCpus, actor: Noted, affinity: frozenset[int] | None = None) -> Noted:
    cpus.add(actor, affinity=affinity)
    cpus.wake(actor)
    return actor


def test_a_sleeper_runs_when_woken_and_at_its_deadline(cpus: PhysicalCpus) -> None:
    sleeper = added(cpus, Noted(1, lambda actor: None))
    until(lambda: sleeper.turns == 1)
    time.sleep(0.02)
    assert sleeper.turns == 1
    cpus.wake(sleeper)
    until(lambda: sleeper.turns == 2)
    timed = added(cpus, Noted(2, lambda actor: time.monotonic_ns() + 20_000_000 if actor.turns < 5 else None))
    began = time.monotonic()
    until(lambda: timed.turns == 5)
    assert time.monotonic() - began >= 0.06


def test_deadlines_are_kept_beside_spinning_actors(cpus: PhysicalCpus) -> None:
    if cpus.scheduler == "rtds":
        pytest.skip("these actors spend no budget, and RTDS owes nothing to those who come beside an overload")
    for number in range(1, 5):
        added(cpus, Noted(number, spin))
    timed = added(cpus, Noted(9, lambda actor: time.monotonic_ns() + 10_000_000))
    time.sleep(1)
    assert timed.turns >= 25


def test_a_removed_actor_never_runs_again_and_leaves_nothing(cpus: PhysicalCpus) -> None:
    actors = [added(cpus, Noted(number, spin)) for number in range(6)]
    time.sleep(0.05)
    for actor in actors:
        cpus.remove(actor)
    turns = [actor.turns for actor in actors]
    time.sleep(0.05)
    assert [actor.turns for actor in actors] == turns
    assert not cpus.queue()


def test_an_actor_that_fails_is_told_of_and_the_worker_goes_on(cpus: PhysicalCpus) -> None:
    def fail(actor: Noted) -> int:
        raise RuntimeError("ours")

    failing = added(cpus, Noted(1, fail))
    until(lambda: failing.turns == 1)
    fine = added(cpus, Noted(2, lambda actor: None))
    until(lambda: fine.turns == 1)
    cpus.wake(failing)
    time.sleep(0.02)
    assert failing.turns == 1
    assert len(cpus.failures) == 1  # type: ignore[attr-defined]
    cpus.remove(failing)


def test_a_pinned_actor_stays_on_its_cpu_and_can_be_pinned_anew(cpus: PhysicalCpus) -> None:
    pinned = added(cpus, Noted(1, spin), frozenset({1}))
    others = [added(cpus, Noted(number, spin)) for number in (2, 3)]
    time.sleep(0.1)
    assert pinned.cpus == {1}
    cpus.pin(pinned, frozenset({0}))
    time.sleep(0.05)
    pinned.cpus.clear()
    time.sleep(0.1)
    assert pinned.cpus == {0}
    assert all(other.turns for other in others)


def test_a_pool_of_its_own_has_its_cpus_and_its_scheduler(cpus: PhysicalCpus) -> None:
    actor = added(cpus, Noted(1, spin))
    rival = added(cpus, Noted(2, spin))
    cpus.split("small", (1,), make_scheduler("null", (1,)))
    cpus.move(actor, "small")
    time.sleep(0.05)
    actor.cpus.clear()
    rival.cpus.clear()
    time.sleep(0.1)
    assert actor.cpus == {1}
    assert rival.cpus == {0}
    assert cpus.scheduler.endswith("null")


def test_a_thousand_sleepers_cost_a_wake_nothing() -> None:
    cpus = PhysicalCpus(1, lambda actor, failure: None, partial(make_scheduler, "credit2"), Unit)
    actors: list[Actor] = [Noted(number, lambda actor: time.monotonic_ns() + 60_000_000_000) for number in range(2000)]
    cpus.start()
    for actor in actors:
        cpus.add(actor)
    began = time.thread_time()
    for actor in actors:
        cpus.wake(actor)
    assert (time.thread_time() - began) / len(actors) < 200e-6
    until(lambda: all(isinstance(actor, Noted) and actor.turns == 1 for actor in actors))
    cpus.stop()


def test_every_scheduler_is_known_by_its_name() -> None:
    assert set(SCHEDULERS) == {"credit2", "credit", "rtds", "bvt", "null"}
