"""What the console does when the engine answers with a fault of its own, too late, or when the app is leaving: it tells it and goes on."""

from __future__ import annotations

import asyncio

import pytest

from emulator.control.client import EngineFault
from emulator.control.messages import ObituaryView
from emulator.control.storageviews import StoragePoolView
from emulator.control.views import ConsoleChunk, DomainDetail, Overview, SnapshotView
from tests.patience import soon
from tests.ui.desk import desk
from tests.ui.domain_bench import bench
from tests.ui.fake_engine import FakeDomain, FakeEngine
from tests.ui.fake_storage import FakeStorage
from xenconsole.app import ConsoleApp
from xenconsole.screens.confirm import LostScreen
from xenconsole.screens.overview import OverviewScreen
from xenconsole.widgets.snapshots_panel import SnapshotList


class FaultyStorage(FakeStorage):
    async def pool(self) -> StoragePoolView:
        raise EngineFault("engine fault: OSError")


class Faulty(FakeEngine):
    """Has no answer to the questions of these names."""

    def __init__(self) -> None:
        super().__init__()
        self.faults: set[str] = set()

    def _answers(self, name: str) -> None:
        if name in self.faults:
            raise EngineFault(f"engine fault: {name}")

    async def overview(self, since_log: int = 0) -> Overview:
        self._answers("overview")
        return await super().overview(since_log)

    async def detail(self, domid: int, parts: tuple[str, ...], since_trace: int = 0) -> DomainDetail:
        self._answers("detail")
        return await super().detail(domid, parts, since_trace)

    async def snapshots(self, domid: int) -> tuple[SnapshotView, ...]:
        self._answers("snapshots")
        return await super().snapshots(domid)

    async def obituary(self, domid: int) -> ObituaryView | None:
        self._answers("obituary")
        return await super().obituary(domid)

    async def console_read(self, domid: int, offset: int, limit: int = 65536) -> ConsoleChunk:
        self._answers("read")
        return await super().console_read(domid, offset, limit)

    async def console_write(self, domid: int, data: bytes) -> None:
        self._answers("write")
        await super().console_write(domid, data)


async def test_an_overview_that_fails_is_told_once_and_asked_for_again() -> None:
    engine = Faulty()
    async with desk(engine) as at:
        engine.faults = {"overview"}
        await at.tick(3)
        assert [entry.text for entry in at.app.events.entries].count("engine fault: overview") == 1
        engine.faults = set()
        engine.domains[6] = FakeDomain(6, "fresh")
        await at.tick()
        assert 6 in at.order()


async def test_questions_that_fail_end_nothing() -> None:
    engine = Faulty()
    engine.storage = FaultyStorage()
    async with desk(engine) as at:
        engine.faults = {"snapshots", "obituary", "detail"}
        engine.domains[1].snapshots = [SnapshotView(1, "one", 1.0, 1)]
        await at.tick()
        await at.press("g", "j", "S", "colon", "escape", "i")
        assert at.sent("snapshot")
        engine.domains[3].shutdown = "poweroff"
        del engine.domains[3]
        await at.tick()
        await at.press("escape")
        assert isinstance(at.front(), OverviewScreen) and 3 not in at.order()


async def test_typing_goes_on_after_a_fault_and_an_end_is_told_in_spite_of_one() -> None:
    engine = Faulty()
    async with desk(engine) as at:
        at.app.switch_console(3)
        await at.press("a")
        session = at.app.consoles.sessions[3]
        await soon(lambda: engine.domains[3].typed == 1)
        engine.faults = {"write"}
        await at.press("b")
        await soon(lambda: not session._typed)
        engine.faults = {"obituary"}
        await at.press("c")
        await soon(lambda: engine.domains[3].typed == 2)
        await engine.command("destroy", domid=3)
        await soon(lambda: session.ending is not None)
        assert session.ending is not None and session.ending.reason == "engine fault: obituary"


async def test_what_was_asked_of_one_domain_is_not_agreed_to_for_another() -> None:
    async with bench(tab="snapshots") as b:
        b.engine.domains[3].snapshots = list(b.engine.domains[4].snapshots)
        await b.press("R")
        snapshots = b.screen.query_one(SnapshotList)
        assert snapshots.asking
        answered, detail = asyncio.Event(), b.engine.detail

        async def late(domid: int, parts: tuple[str, ...], since_trace: int = 0) -> DomainDetail:
            await answered.wait()
            return await detail(domid, parts, since_trace)

        b.engine.detail = late  # type: ignore[method-assign]
        await b.pilot.press("less_than_sign")
        assert b.screen.domid == 3
        assert not snapshots.asking and snapshots.chosen is None
        b.screen.action_agree()
        b.screen.action_forget()
        answered.set()
        await soon(lambda: snapshots.chosen is not None)
        assert not b.engine.commands


async def test_a_domain_that_was_missed_before_it_ran_again_is_followed_all_the_same() -> None:
    async with bench() as b:
        kept = b.engine.domains.pop(4)
        await b.turn()
        assert b.screen.gone and b.screen.successor < 0
        b.engine.domains[4] = kept
        b.engine.end(4, "reboot", restarted_as=6)
        await soon(lambda: b.screen.successor == 6)


async def test_one_engine_is_started_however_often_that_is_asked_for() -> None:
    started: list[FakeEngine] = []
    go = asyncio.Event()

    async def restart() -> FakeEngine:
        started.append(FakeEngine())
        await go.wait()
        return started[-1]

    async with desk(restart=restart) as at:
        at.engine.lose()
        await at.tick()
        await at.press("r")
        at.app.start(at.app.lookout.restart())
        await at.pilot.pause()
        go.set()
        await soon(lambda: at.app.client is started[0])
        await at.tick()
        assert len(started) == 1 and isinstance(at.front(), OverviewScreen)


@pytest.mark.parametrize("view", ["console", "domain", "matrix", "storage", "lost"])
async def test_the_app_ends_in_peace_while_a_view_is_put_up(view: str) -> None:
    engine = FakeEngine()
    app = ConsoleApp(engine, delay=0)
    async with app.run_test():
        await app.tick()
        if view == "console":
            app.switch_console(3)
        elif view == "domain":
            app.open_domain(3)
        elif view == "lost":
            app.push_screen(LostScreen("gone", (), can_restart=False))
        else:
            app.navigator.open_host(view)
        await app.leave(0)
        engine.lose()
    assert app.return_value == 0
