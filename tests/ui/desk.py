"""The app on the fake engine, with ticks by hand: what tests of the whole app press and read."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from textual.pilot import Pilot
from textual.screen import Screen

from tests.ui.fake_engine import FakeEngine
from xenconsole.app import ConsoleApp
from xenconsole.settings import Settings
from xenconsole.widgets.domain_table import DomainTable


class Desk:
    """An app on a fake engine, with what tests do all the time."""

    def __init__(self, app: ConsoleApp, engine: FakeEngine, pilot: Pilot[Any]) -> None:
        self.app, self.engine, self.pilot = app, engine, pilot

    @property
    def table(self) -> DomainTable:
        return self.app.base_table()

    def order(self) -> tuple[int, ...]:
        return self.table.order

    def front(self) -> Screen[Any]:
        return self.app.screen

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)
        await self.pilot.pause()

    async def type(self, text: str) -> None:
        await self.press(*("space" if c == " " else c for c in text))

    async def tick(self, times: int = 1) -> None:
        for _ in range(times):
            await self.app.tick()
        await self.pilot.pause()

    def sent(self, name: str) -> list[dict[str, object]]:
        return [args for sent, args in self.engine.commands if sent == name]

    def line(self, y: int) -> str:
        return self.table.render_line(y).text

    @property
    def logged(self) -> list[str]:
        return [entry.text for entry in self.app.command_journal.entries]


@asynccontextmanager
async def desk(
    engine: FakeEngine | None = None, *, size: tuple[int, int] = (120, 40), settings: Settings | None = None, **options: Any
) -> AsyncIterator[Desk]:
    engine = engine or FakeEngine()
    app = ConsoleApp(engine, settings=settings, delay=0, **options)
    async with app.run_test(size=size) as pilot:
        at = Desk(app, engine, pilot)
        await at.tick(5)
        yield at
