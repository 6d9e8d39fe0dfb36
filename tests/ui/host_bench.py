"""A host screen of the app on the rich fake engine, pulled by hand: what the tests of these screens share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Generic, TypeVar

from textual.pilot import Pilot
from textual.screen import Screen

from tests.ui.fake_details import RichEngine
from xenconsole.app import ConsoleApp
from xenconsole.screens.host import HostScreen
from xenconsole.settings import Settings
from xenconsole.widgets.domain_bar import ExplainBar
from xenconsole.widgets.lines import plain
from xenconsole.widgets.pane import Pane

S = TypeVar("S", bound=HostScreen)
SIZES = [(80, 24), (120, 40), (200, 55)]


class Bench(Generic[S]):
    """The app with one host screen in front."""

    def __init__(self, pilot: Pilot[Any], app: ConsoleApp, screen: S, engine: RichEngine) -> None:
        self.pilot, self.app, self.screen, self.engine = pilot, app, screen, engine

    async def turn(self, times: int = 1) -> None:
        for _ in range(times):
            await self.app.tick()
            await self.screen.pull()
            await self.pilot.pause()

    async def press(self, *keys: str) -> None:
        for key in keys:
            await self.pilot.press(key)
            await self.pilot.pause()

    def text(self, selector: str) -> str:
        return plain(self.screen.query_one(selector, Pane).lines)

    def front(self) -> Screen[Any]:
        return self.app.screen

    def pane(self, kind: type[Pane]) -> Any:
        return self.screen.query_one(kind)

    @property
    def explained(self) -> str:
        return self.screen.query_one(ExplainBar).field


@asynccontextmanager
async def host_bench(kind: type[S], size: tuple[int, int] = (120, 40), engine: RichEngine | None = None) -> AsyncIterator[Bench[S]]:
    engine = engine or RichEngine()
    app = ConsoleApp(engine, delay=0)
    async with app.run_test(size=size) as pilot:
        await app.tick()
        screen = kind(engine, hertz=0, clock=lambda: engine.now_ns / 1e9)
        await app.push_screen(screen)
        made = Bench(pilot, app, screen, engine)
        await made.turn(3)
        yield made


def host_picture(
    snap_compare: Any,
    kind: type[HostScreen],
    size: tuple[int, int],
    *keys: str,
    engine: RichEngine | None = None,
    theme: str = "dark",
) -> bool:
    """Compare a picture after the same turns every time, and these keys."""
    engine = engine or RichEngine()

    def prepared() -> Callable[[Pilot[Any]], Awaitable[None]]:
        async def run(pilot: Pilot[Any]) -> None:
            app = pilot.app
            assert isinstance(app, ConsoleApp)
            for _ in range(20):
                await app.tick()
            screen = kind(engine, hertz=0, clock=lambda: engine.now_ns / 1e9)
            await app.push_screen(screen)
            bench = Bench(pilot, app, screen, engine)
            await bench.turn(4)
            await bench.press(*keys)
            await bench.turn(2)
            await pilot.pause(0.1)

        return run

    return bool(snap_compare(ConsoleApp(engine, delay=0, settings=Settings(theme=theme)), terminal_size=size, run_before=prepared()))
