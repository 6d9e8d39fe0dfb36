"""The domain screen on the rich fake engine, pulled by hand: what its tests share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from textual.pilot import Pilot

from tests.ui.fake_details import RichEngine
from xenconsole.app import ConsoleApp
from xenconsole.screens.domain import DomainScreen
from xenconsole.widgets.lines import plain
from xenconsole.widgets.pane import Pane


class Bench:
    """An app on the rich fake engine with a domain screen in front; time moves by `turn`."""

    def __init__(self, pilot: Pilot[int], engine: RichEngine, screen: DomainScreen) -> None:
        self.pilot, self.engine, self.screen = pilot, engine, screen

    @property
    def app(self) -> ConsoleApp:
        assert isinstance(self.pilot.app, ConsoleApp)
        return self.pilot.app

    async def turn(self, times: int = 1) -> None:
        for _ in range(times):
            await self.app.tick()
            await self.screen.pull()
            await self.pilot.pause()

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)
        await self.app.workers.wait_for_complete(
            [worker for worker in self.app.workers if worker.group in ("pull", "command") and worker.node is self.screen]
        )
        await self.pilot.pause()

    def text(self, selector: str) -> str:
        return plain(self.screen.query_one(selector, Pane).lines)


@asynccontextmanager
async def bench(domid: int = 4, tab: str = "summary", size: tuple[int, int] = (120, 40)) -> AsyncIterator[Bench]:
    engine = RichEngine()
    app = ConsoleApp(engine, delay=0)
    async with app.run_test(size=size) as pilot:
        await app.tick()
        screen = DomainScreen(engine, domid, tab, hertz=0, clock=lambda: engine.now_ns / 1e9)
        await app.push_screen(screen)
        made = Bench(pilot, engine, screen)
        await made.turn(2)
        yield made
