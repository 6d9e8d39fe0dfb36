"""Schedulers on a simulated clock: shares by weight, caps, wake latency, no starvation, no idle CPU beside a runnable unit."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emulator.errors import UserError
from emulator.hypervisor.scheduler import SCHEDULERS, Scheduler, Unit, make_scheduler
from tests.unit.schedulersim import MS, Simulation

WEIGHTED = ("credit2", "credit", "bvt")
SHARING = (*WEIGHTED, "rtds")


def simulation(name: str, cpus: int = 1, late: int = 0, given: tuple[int, ...] = ()) -> Simulation:
    return Simulation(make_scheduler(name, range(cpus)), late, given)


@pytest.mark.parametrize("name", WEIGHTED)
@pytest.mark.parametrize(("cpus", "late"), [(1, MS // 10), (1, 3 * MS), (2, MS)])
def test_eight_spinning_domains_get_the_shares_of_their_weights_1_to_8(name: str, cpus: int, late: int) -> None:
    sim = simulation(name, cpus, late)
    works = [sim.add(number, weight=100 * number) for number in range(1, 9)]
    sim.run(30_000 * MS)
    for work in works:
        share, fair = work.unit.spent / sum(work.unit.spent for work in works), work.unit.weight / 3600
        assert share == pytest.approx(fair, rel=0.01)


@pytest.mark.parametrize("name", ["credit2", "credit"])
def test_sleepers_and_a_host_that_takes_time_for_itself_leave_the_shares_as_they_are(name: str) -> None:
    sim = simulation(name, 2, MS // 10, (100, 60))
    works = [sim.add(number, weight=100 * number) for number in range(1, 7)]
    for number in range(20):
        sim.add(100 + number, burst=MS // 5, pause=(20 + 37 * number) * MS)
    sim.run(20_000 * MS)
    for work in works:
        assert work.unit.spent / sum(work.unit.spent for work in works) == pytest.approx(work.unit.weight / 2100, rel=0.02)


def test_turns_that_the_host_stalls_for_seconds_win_nothing_under_credit() -> None:
    sim = Simulation(make_scheduler("credit", (0, 1)), MS, stalls=300)
    works = [sim.add(number, weight=100 * number) for number in range(1, 9)]
    sim.run(60_000 * MS)
    for work in works:
        assert work.unit.spent / sum(work.unit.spent for work in works) == pytest.approx(work.unit.weight / 3600, rel=0.05)


@pytest.mark.parametrize("name", WEIGHTED)
@pytest.mark.parametrize("burst", [MS, 9 * MS])
def test_short_sleeps_win_no_more_than_the_share(name: str, burst: int) -> None:
    sim = simulation(name, late=MS // 10)
    for number in range(3):
        sim.add(number)
    rogue = sim.add(9, burst=burst, pause=MS // 10)
    sim.run(10_000 * MS)
    assert 0.22 <= rogue.unit.spent / (10_000 * MS) <= 0.255


@pytest.mark.parametrize("name", SHARING)
def test_equal_domains_share_two_cpus_equally(name: str) -> None:
    sim = simulation(name, cpus=2)
    works = [sim.add(number) for number in range(5)]
    sim.run(10_000 * MS)
    for work in works:
        assert work.unit.spent == pytest.approx(4_000 * MS, rel=0.03)


@pytest.mark.parametrize("name", SHARING)
def test_a_domain_that_wakes_rarely_runs_at_once_beside_spinning_ones(name: str) -> None:
    sim = simulation(name, cpus=2)
    for number in range(6):
        sim.add(number)
    typist = sim.add(99, burst=MS // 2, pause=73 * MS, start=5 * MS)
    sim.run(20_000 * MS)
    waits = sorted(typist.waits)
    assert len(waits) > 200
    assert waits[len(waits) * 99 // 100] <= (2 * MS if name.startswith("credit") else 12 * MS)


@pytest.mark.parametrize(("name", "slices"), [("credit2", {}), ("credit", {}), ("bvt", {}), ("bvt", {"allowance_us": 50_000})])
def test_a_sleeper_within_its_share_waits_for_none_of_128_spinning_domains(name: str, slices: dict[str, int]) -> None:
    sim = simulation(name, 2, MS // 3)
    sim.scheduler.tune(**slices)
    for number in range(128):
        sim.add(number, start=7 * number * MS)
    typist = sim.add(999, burst=3 * MS // 10, pause=30 * MS, start=7_000 * MS)
    sim.run(14_000 * MS)
    assert len(typist.waits) > 200
    assert max(typist.waits) <= MS


@pytest.mark.parametrize("name", WEIGHTED)
def test_a_free_cpu_is_for_one_of_those_that_wake_at_once(name: str) -> None:
    scheduler = make_scheduler(name, (0, 1))
    spinner, *woken = (Unit(number) for number in range(4))
    for unit in (spinner, *woken):
        scheduler.add(unit, 0)
    scheduler.wake(spinner, 0)
    scheduler.pick(1, 0)
    scheduler.ran(spinner, 50 * MS, 50 * MS, True)
    scheduler.pick(1, 50 * MS)
    asked = []
    for unit in woken:
        scheduler.wake(unit, 60 * MS)
        asked.append(scheduler.tickle(unit, 60 * MS)[0])
    assert asked == [-1, 1, 1]
    scheduler.pick(0, 60 * MS)
    assert scheduler.tickle(woken[2], 60 * MS)[0] == 1, "the free CPU was taken"


@pytest.mark.parametrize("name", WEIGHTED)
def test_one_that_sleeps_often_has_its_share_however_long_the_slices(name: str) -> None:
    sim = simulation(name, late=MS // 10)
    for parameter in {"allowance_us", "tslice_ms"} & set(sim.scheduler.parameters()):
        sim.scheduler.tune(**{parameter: 50_000 if parameter.endswith("us") else 50})
    for number in range(3):
        sim.add(number)
    waker = sim.add(9, burst=9 * MS, pause=MS // 10)
    sim.run(20_000 * MS)
    assert waker.unit.spent / (20_000 * MS) == pytest.approx(0.25, rel=0.03)


@pytest.mark.parametrize("name", ["credit2", "credit"])
@pytest.mark.parametrize("cap", [10, 25, 50])
def test_a_cap_is_kept_with_idle_cpus_and_with_rivals(name: str, cap: int) -> None:
    alone = simulation(name, cpus=2)
    work = alone.add(1, cap=cap)
    alone.run(10_000 * MS)
    assert work.unit.spent / (10_000 * MS) == pytest.approx(cap / 100, rel=0.03)
    crowd = simulation(name)
    capped, free = crowd.add(1, cap=cap), crowd.add(2)
    crowd.run(10_000 * MS)
    assert capped.unit.spent / (10_000 * MS) <= cap / 100 * 1.03
    assert capped.unit.spent + free.unit.spent == pytest.approx(10_000 * MS, abs=31 * MS)  # the last turn is not over


def test_rtds_gives_every_unit_its_budget_in_every_period() -> None:
    sim = simulation("rtds")
    works = [sim.add(number) for number in (1, 2)]
    works[0].unit.allowance = works[1].unit.allowance = False
    sim.run(1_000 * MS)
    for work in works:
        assert work.unit.spent == pytest.approx(400 * MS, rel=0.02)


@pytest.mark.parametrize("name", ["credit2", "credit"])
@pytest.mark.parametrize(("before", "after"), [(10, 0), (10, 50), (0, 10), (50, 10)])
def test_a_new_cap_counts_at_once_also_for_who_has_none_left(name: str, before: int, after: int) -> None:
    sim = simulation(name, late=MS // 10)
    work = sim.add(1, cap=before)
    sim.run(1_000 * MS)
    while before and work.unit.cpu >= 0:  # until it is parked
        sim.run(sim.now + MS)
    spent = work.unit.spent
    sim.scheduler.adjust(work.unit, sim.now, cap=after)
    sim.run(sim.now + 3_000 * MS)
    assert (work.unit.spent - spent) / (3_000 * MS) == pytest.approx(after / 100 or 1, rel=0.04)


@pytest.mark.parametrize("extra", [True, False])
@pytest.mark.parametrize("late", [MS, 5 * MS, 7 * MS])
@pytest.mark.parametrize("phase", [0, 1, 4, 9])
def test_under_rtds_turns_that_end_late_take_nobodys_budget(extra: bool, late: int, phase: int) -> None:
    sim = simulation("rtds", late=late)
    works = [sim.add(1)]
    sim.run(phase * MS)
    works.append(sim.add(2))
    for work in works:
        work.unit.allowance = extra
    sim.run(3_000 * MS)
    assert all(work.unit.spent >= 0.39 * 3_000 * MS for work in works)
    assert extra or all(work.unit.spent <= 0.41 * 3_000 * MS for work in works)


def test_null_gives_a_cpu_for_good() -> None:
    sim = simulation("null", cpus=2)
    works = [sim.add(number) for number in range(3)]
    sim.run(100 * MS)
    assert [work.unit.spent for work in works] == pytest.approx([100 * MS, 100 * MS, 0], abs=10 * MS)


@pytest.mark.parametrize("name", SHARING)
def test_hard_affinity_is_kept(name: str) -> None:
    sim = simulation(name, cpus=2)
    pinned = [sim.add(number, affinity=frozenset({1})) for number in range(3)]
    free = sim.add(9)
    sim.run(3_000 * MS)
    assert sum(work.unit.spent for work in pinned) <= 3_000 * MS
    assert free.unit.spent >= 2_500 * MS


@pytest.mark.parametrize("name", WEIGHTED)
def test_soft_affinity_is_kept_where_it_costs_nobody_anything(name: str) -> None:
    sim = simulation(name, cpus=2)
    soft = [sim.add(number, soft=frozenset({number % 2})) for number in range(6)]
    free = sim.add(9)
    sim.run(5_000 * MS)
    for number, work in enumerate(soft):
        assert sim.where[number].get(number % 2, 0) >= 0.85 * work.unit.spent
        assert work.unit.spent == pytest.approx(free.unit.spent, rel=0.1)
    assert sim.idle_ns == 0


@pytest.mark.parametrize("name", WEIGHTED)
def test_two_that_sit_on_each_others_cpu_change_places(name: str) -> None:
    sim = simulation(name, cpus=2)
    first, second = sim.add(1, soft=frozenset({1})), sim.add(2, soft=frozenset({0}), start=MS)
    sim.run(1_000 * MS)
    assert sim.where[1].get(0, 0) + sim.where[2].get(1, 0) <= 40 * MS
    assert first.unit.spent + second.unit.spent == pytest.approx(2_000 * MS, abs=80 * MS)
    sim.scheduler.pin(first.unit, sim.now, None, frozenset({0}))
    sim.scheduler.pin(second.unit, sim.now, None, frozenset({1}))
    before = sim.where[1].get(1, 0)
    sim.run(2_000 * MS)
    assert sim.where[1][1] - before <= 80 * MS


soft_loads = st.lists(st.tuples(st.integers(0, 15), st.sampled_from([0, 1, 7])), min_size=1, max_size=8)


@settings(max_examples=25, deadline=None)
@given(name=st.sampled_from(SHARING), cpus=st.integers(2, 4), softs=soft_loads)
def test_with_any_soft_affinities_no_cpu_idles_and_nobody_starves(name: str, cpus: int, softs: list[tuple[int, int]]) -> None:
    sim = simulation(name, cpus)
    works = [sim.add(number, burst=burst * MS, pause=3 * MS, soft=frozenset(cpu for cpu in range(cpus) if mask >> cpu & 1))
             for number, (mask, burst) in enumerate(softs)]  # fmt: skip
    sim.run(1_000 * MS)
    if sum(not work.burst for work in works) >= cpus:
        assert sim.idle_ns == 0
    assert all(work.unit.spent > 0 for work in works)


def test_rtds_keeps_a_new_budget_and_period() -> None:
    sim = simulation("rtds")
    works = [sim.add(number) for number in (1, 2, 3)]
    for work, (period, budget) in zip(works, ((50, 10), (20, 10), (100, 25)), strict=True):
        sim.scheduler.adjust(work.unit, sim.now, period=period * MS, reserved=budget * MS, allowance=0)
    sim.run(2_000 * MS)
    for work, share in zip(works, (0.2, 0.5, 0.25), strict=True):
        assert work.unit.spent == pytest.approx(2_000 * MS * share, rel=0.03)


@pytest.mark.parametrize(
    ("name", "parameter"), [("credit2", "ratelimit_us"), ("credit", "ratelimit_us"), ("credit", "tslice_ms"), ("bvt", "allowance_us")]
)
def test_a_scheduler_takes_its_own_parameters_and_no_others(name: str, parameter: str) -> None:
    scheduler = make_scheduler(name, (0,))
    scheduler.tune(**{parameter: 700})
    assert scheduler.parameters()[parameter] == 700
    with pytest.raises(UserError, match="colour"):
        scheduler.tune(colour=3)


def test_credits_time_slice_is_how_long_a_turn_lasts() -> None:
    scheduler = make_scheduler("credit", (0,))
    scheduler.tune(tslice_ms=3)
    for number in (1, 2):
        scheduler.add(unit := Unit(number), 0)
        unit.credit = -1
        scheduler.wake(unit, 0)
    chosen = scheduler.pick(0, MS)
    assert chosen is not None
    assert chosen[1] == 3 * MS


@pytest.mark.parametrize("name", WEIGHTED)
def test_a_new_weight_counts_at_once(name: str) -> None:
    sim = simulation(name)
    first, second = sim.add(1), sim.add(2)
    sim.run(5_000 * MS)
    before = first.unit.spent
    sim.scheduler.adjust(first.unit, sim.now, weight=768)
    sim.run(15_000 * MS)
    assert (first.unit.spent - before) / (10_000 * MS) == pytest.approx(0.75, rel=0.03)
    assert second.unit.spent > 0


@pytest.mark.parametrize("name", WEIGHTED)
def test_the_run_queue_stands_in_the_order_that_is_run(name: str) -> None:
    sim = simulation(name, late=MS // 10)
    pick, picked = sim.scheduler.pick, []

    def watched(cpu: int, now: int) -> tuple[Unit, int] | None:
        head = next((queued.name for queued in sim.scheduler.queue()), None)
        chosen = pick(cpu, now)
        assert (chosen and chosen[0].name) == head
        picked.append(head)
        return chosen

    sim.scheduler.pick = watched  # type: ignore[method-assign]
    for number in range(1, 6):
        sim.add(number, weight=100 * number)
    sim.run(3_000 * MS)
    assert len(picked) > 90 and set(picked) == {1, 2, 3, 4, 5}


def test_a_scheduler_nobody_has_is_refused_by_name() -> None:
    with pytest.raises(UserError, match="cfs"):
        make_scheduler("cfs", (0,))


workloads = st.lists(st.tuples(st.integers(1, 1024), st.sampled_from([0, 1, 3, 20]), st.sampled_from([1, 5, 50])), min_size=1, max_size=12)


@settings(max_examples=25, deadline=None)
@given(name=st.sampled_from(SHARING), cpus=st.integers(1, 4), loads=workloads)
def test_no_cpu_idles_beside_a_runnable_unit_and_nobody_starves(name: str, cpus: int, loads: list[tuple[int, int, int]]) -> None:
    sim = simulation(name, cpus)
    for number, (weight, burst, pause) in enumerate(loads):
        sim.add(number, weight=weight, burst=burst * MS, pause=pause * MS)
    sim.run(3_000 * MS)
    spinning = [work for work in sim._works.values() if not work.burst]
    if len(spinning) >= cpus:
        assert sim.idle_ns == 0
    total = sum(work.unit.weight for work in sim._works.values())
    for work in sim._works.values():
        if name in WEIGHTED and work.unit.weight * 50 < total:
            continue
        assert work.unit.spent > 0
    assert sum(work.unit.spent for work in sim._works.values()) <= 3_000 * MS * cpus


@pytest.mark.parametrize("name", SCHEDULERS)
def test_units_come_and_go_and_leave_nothing(name: str) -> None:
    scheduler: Scheduler = make_scheduler(name, (0, 1))
    sim = Simulation(scheduler)
    works = [sim.add(number, cap=20 * (number % 2)) for number in range(6)]
    sim.run(200 * MS)
    for work in works:
        if work.unit.cpu >= 0:
            sim._end(work.unit.cpu)
        scheduler.remove(work.unit)
    assert not scheduler.units
    assert not scheduler.queue()
    assert scheduler.pick(0, sim.now) is None
