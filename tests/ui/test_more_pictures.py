"""Pictures of the screens that have no file of their own (SVG snapshots; `pytest --snapshot-update` after a wanted change)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from textual.geometry import Size
from textual.pilot import Pilot
from textual.widgets import Input

from tests.ui.fake_engine import FakeEngine
from xenconsole.app import ConsoleApp
from xenconsole.screens.confirm import TooSmallScreen
from xenconsole.settings import Settings

SIZES = [(80, 24), (120, 40)]


def prepared(*steps: str | Callable[[ConsoleApp], object]) -> Callable[[Pilot[Any]], Any]:
    """Take the same ticks every time, then press the keys and do the rest."""

    async def run(pilot: Pilot[Any]) -> None:
        app = pilot.app
        assert isinstance(app, ConsoleApp)
        for _ in range(60):
            await app.tick()
        await pilot.pause()
        for step in steps:
            if isinstance(step, str):
                await pilot.press(step)
            else:
                step(app)
            await pilot.pause()
            for entry in app.screen.query(Input):
                entry.cursor_blink = False
        app.clear_notifications()
        await pilot.pause(0.2)

    return run


def picture(snap_compare: Any, size: tuple[int, int], *steps: str | Callable[[ConsoleApp], object]) -> bool:
    app = ConsoleApp(FakeEngine(), delay=0, settings=Settings())
    return bool(snap_compare(app, terminal_size=size, run_before=prepared(*steps)))


@pytest.mark.parametrize("size", SIZES)
def test_logs(snap_compare: Any, size: tuple[int, int]) -> None:
    assert picture(snap_compare, size, "l")


@pytest.mark.parametrize("size", SIZES)
def test_snapshots(snap_compare: Any, size: tuple[int, int]) -> None:
    assert picture(snap_compare, size, "j", "S", "S", "t")


@pytest.mark.parametrize("size", SIZES)
def test_two_consoles_of_marked_guests(snap_compare: Any, size: tuple[int, int]) -> None:
    assert picture(snap_compare, size, "j", "space", "j", "space", "c")


@pytest.mark.parametrize("size", SIZES)
def test_palette(snap_compare: Any, size: tuple[int, int]) -> None:
    assert picture(snap_compare, size, "j", "ctrl+p", *"cpupool")


@pytest.mark.parametrize("size", SIZES)
def test_prompt(snap_compare: Any, size: tuple[int, int]) -> None:
    assert picture(snap_compare, size, "j", "colon", *"block", "minus", "tab")


@pytest.mark.parametrize("size", SIZES)
def test_quit_asks(snap_compare: Any, size: tuple[int, int]) -> None:
    assert picture(snap_compare, size, "q")


def test_lost_engine_in_a_small_terminal(snap_compare: Any) -> None:
    def lose(app: ConsoleApp) -> None:
        assert isinstance(app.client, FakeEngine)
        app.client.lose()

    assert picture(snap_compare, (80, 24), lose)


def test_too_small(snap_compare: Any) -> None:
    assert picture(snap_compare, (50, 12))


async def test_a_terminal_that_grows_under_a_dialog_shows_the_app_again() -> None:
    app = ConsoleApp(FakeEngine(), delay=0)
    async with app.run_test(size=(50, 12)) as pilot:
        await app.tick()
        assert isinstance(app.screen, TooSmallScreen)
        assert isinstance(app.client, FakeEngine)
        app.client.lose()
        await pilot.pause(0.1)
        await pilot.resize_terminal(100, 30)
        assert app.size == Size(100, 30)
        await pilot.press("escape")
        await pilot.pause(0.1)
        assert not any(isinstance(screen, TooSmallScreen) for screen in app.screen_stack)
