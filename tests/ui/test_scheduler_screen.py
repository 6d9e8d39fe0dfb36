"""Domain-0's screen: the strip of the last second, the run queue in its order, steal and run state of each vCPU."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from textual.pilot import Pilot

from emulator.control.schedulingviews import QueuedView, RunQueueView
from emulator.control.views import PoolView
from tests.ui.desk import desk
from tests.ui.fake_details import RichEngine
from xenconsole.app import ConsoleApp
from xenconsole.explain import explain
from xenconsole.screens.domain import DomainScreen
from xenconsole.screens.scheduler import SchedulerScreen
from xenconsole.settings import Settings
from xenconsole.widgets.domain_bar import ExplainBar
from xenconsole.widgets.lines import plain
from xenconsole.widgets.pane import Pane
from xenconsole.widgets.pools_panel import PoolsPane, ranges
from xenconsole.widgets.run_queue import QueuePane, VcpuTimes, strip_cells, strip_lines, with_present


class Bench:
    def __init__(self, pilot: Pilot[Any], app: ConsoleApp, screen: SchedulerScreen) -> None:
        self.pilot, self.app, self.screen = pilot, app, screen

    async def turn(self, times: int = 1) -> None:
        for _ in range(times):
            await self.app.tick()
            await self.screen.pull()
            await self.pilot.pause()

    def text(self, selector: str) -> str:
        return plain(self.screen.query_one(selector, Pane).lines)


@asynccontextmanager
async def bench(size: tuple[int, int] = (120, 40)) -> AsyncIterator[Bench]:
    engine = RichEngine()
    app = ConsoleApp(engine, delay=0)
    async with app.run_test(size=size) as pilot:
        await app.tick()
        screen = SchedulerScreen(engine, hertz=0, clock=lambda: engine.now_ns / 1e9)
        await app.push_screen(screen)
        made = Bench(pilot, app, screen)
        await made.turn(3)
        yield made


async def test_enter_and_i_on_domain_0_open_it_and_esc_leaves() -> None:
    async with desk(RichEngine()) as at:
        for key in ("i", "enter"):
            await at.press("g", key)
            assert isinstance(at.front(), SchedulerScreen), key
            await at.press("escape")
        await at.press("g", "i", "greater_than_sign")
        assert isinstance(at.front(), DomainScreen)
        assert at.app.chosen == 1


async def test_the_run_queue_stands_in_its_order_with_what_each_asks_for() -> None:
    async with bench() as b:
        rows = b.text("#queue").splitlines()
        assert "CPU 0" in rows[1] and "2 counter" in rows[1] and "BOOST" in rows[1] and "sched_op(block)" in rows[1]
        assert "4 debian" in rows[2] and "UNDER" in rows[2] and "mmu_update" in rows[2]
        assert "└ vCPU 1" in rows[3] and "sched_op(poll)" in rows[3], "each vCPU that waits, not its domain alone"
        assert rows[3].index("sched_op") == rows[2].index("mmu_update")
        assert "3 " in rows[4] and "OVER" in rows[4] and "50%" in rows[4] and "-1.50ms" in rows[4] and rows[4].split()[0] == "2"
        assert not any("2 counter" in row for row in rows[2:]), "who runs does not wait"
        before = b.text("#queue")
        await b.turn(2)
        assert b.text("#queue") != before, "credit drains"


async def test_every_vcpu_has_its_state_and_enter_opens_its_domain() -> None:
    async with bench() as b:
        text = b.text("#vcpu-times")
        assert text.count("4 debian") == 2 and "running" in text and "blocked" in text
        await b.pilot.press("down", "enter")
        await b.pilot.pause()
        assert isinstance(b.app.screen, DomainScreen)
        assert b.app.screen.domid == 2


async def test_steal_is_shown_as_a_share_of_the_time() -> None:
    async with bench() as b:
        times = b.screen.query_one(VcpuTimes)
        view = b.app.overview.domains[2]
        robbed = msgspec.structs.replace(view, vcpus=(msgspec.structs.replace(view.vcpus[0], steal_ns=2_500_000_000, state="-"),))
        times.show([robbed], {2: (61.5,)}, {"2.0": 385_000_000.0})
        row = plain(times.lines).splitlines()[1]
        assert "38.5%" in row and "61.5%" in row and "0:02.5" in row and "waiting" in row


def test_the_strip_gives_a_cell_to_whom_held_it_longest() -> None:
    second = 1_000_000_000
    view = RunQueueView("credit", (), ((0, 1, -second, -second // 2), (0, 2, -second // 2, 0), (1, 3, -2 * second, -second * 9 // 10)))
    cells, busy = strip_cells(view.stints[:2], 10)
    assert cells == [1] * 5 + [2] * 5 and busy == 1.0
    cells, busy = strip_cells(view.stints[2:], 10)
    assert cells == [3] + [-1] * 9 and 0.09 < busy < 0.11
    text = plain(strip_lines(view, 2, 40, str))
    assert "1111" in text and "2222" in text and "now" in text


def test_a_turn_that_has_not_ended_is_in_the_strip_and_an_idle_gap_is_not() -> None:
    on_cpu = (QueuedView(1, cpu=0), QueuedView(2, cpu=1))
    view = RunQueueView("credit", (), ((0, 1, -900_000_000, -20_000_000), (1, 2, -900_000_000, -500_000_000)), on_cpu)
    assert with_present(view).stints[2:] == ((0, 1, -20_000_000, 0),)


async def test_the_bar_of_one_that_runs_alone_drains() -> None:
    async with bench() as b:
        queue = b.screen.query_one(QueuePane)
        bars = []
        for credit in (10_000_000, 5_000_000, 1_000_000):
            queue.show(RunQueueView("credit2", on_cpu=(QueuedView(2, credit, cpu=0),)), {2: "counter"})
            bars.append(plain(queue.lines).count("━"))
        assert bars[0] > bars[1] > bars[2] > 0, bars
        queue.show(RunQueueView("rtds", on_cpu=(QueuedView(2, 4_000_000, cpu=0),)), {2: "counter"})
        assert plain(queue.lines).count("━") == bars[0], "another scheduler counts in numbers of its own"


async def test_pools_are_shown_when_there_are_several() -> None:
    async with bench() as b:
        pools = b.screen.query_one(PoolsPane)
        assert pools not in b.screen.panes()
        domains = [msgspec.structs.replace(view, pool="rt" if view.domid == 4 else "Pool-0") for view in b.app.overview.domains]
        pools.show((PoolView(0, "Pool-0", "credit2", (0, 2, 3), 4), PoolView(1, "rt\x1b", "rtds", (), 1)), (50.0, 0.0, 20.0, 50.0), domains)
        await b.pilot.pause()
        text = b.text("#pools")
        assert "0,2-3" in text and "40%" in text and "1 hello, 2 counter" in text and "\x1b" not in text and "none" in text
        assert pools in b.screen.panes()


def test_cpus_are_written_as_xl_does() -> None:
    assert [ranges(cpus) for cpus in ((), (3,), (0, 1, 2, 5), (7, 6, 9))] == ["", "3", "0-2,5", "6-7,9"]


async def test_a_thousand_waiting_domains_are_counted_not_written_out() -> None:
    async with bench() as b:
        queue = b.screen.query_one(QueuePane)
        queue.view = RunQueueView("credit", tuple(QueuedView(n, n * 1000) for n in range(1, 1001)))
        queue.rebuild()
        assert "900 more wait" in b.text("#queue") and len(queue.lines) < 110


@pytest.mark.parametrize("size", [(60, 15), (80, 24), (240, 70)])
async def test_every_field_is_explained_at_every_size(size: tuple[int, int]) -> None:
    async with bench(size) as b:
        for name in ("#strip", "#queue", "#vcpu-times"):
            keys = {span.field for spans in b.screen.query_one(name, Pane).lines for span in spans if span.field}
            assert all(explain(key) for key in keys), keys
        await b.pilot.press("i")
        await b.pilot.pause()
        assert b.screen.query_one(ExplainBar).field
        await b.pilot.press("escape", "z")
        assert b.screen.zoomed
        await b.pilot.press("tab", "escape")
        assert not b.screen.zoomed


@pytest.mark.parametrize("size", [(80, 24), (120, 40)])
def test_picture(snap_compare: Any, size: tuple[int, int]) -> None:
    engine = RichEngine()

    async def run(pilot: Pilot[Any]) -> None:
        app = pilot.app
        assert isinstance(app, ConsoleApp)
        for _ in range(20):
            await app.tick()
        screen = SchedulerScreen(engine, hertz=0, clock=lambda: engine.now_ns / 1e9)
        await app.push_screen(screen)
        for _ in range(4):
            await app.tick()
            await screen.pull()
            await pilot.pause()
        await pilot.pause(0.1)

    assert snap_compare(ConsoleApp(engine, delay=0, settings=Settings(theme="dark")), terminal_size=size, run_before=run)
