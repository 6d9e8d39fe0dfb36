"""Pictures of the domain screen (SVG snapshots; `pytest --snapshot-update` after a wanted change)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from textual.pilot import Pilot

from tests.ui.fake_details import RichEngine
from xenconsole.app import ConsoleApp
from xenconsole.screens.domain import DomainScreen
from xenconsole.settings import Settings


def prepared(engine: RichEngine, domid: int, tab: str, *keys: str) -> Callable[[Pilot[Any]], Any]:
    """Take the same ticks every time with the tab in front, then press the keys."""

    async def run(pilot: Pilot[Any]) -> None:
        app = pilot.app
        assert isinstance(app, ConsoleApp)
        for _ in range(60):
            await app.tick()
        screen = DomainScreen(engine, domid, tab, hertz=0, clock=lambda: engine.now_ns / 1e9)
        await app.push_screen(screen)
        await pilot.pause()
        for _ in range(6):
            await app.tick()
            await screen.pull()
            await pilot.pause()
        for key in keys:
            await pilot.press(key)
            await pilot.pause()
        await screen.pull()
        await pilot.pause(0.1)

    return run


def picture(snap_compare: Any, size: tuple[int, int], domid: int, tab: str, *keys: str, theme: str = "dark") -> bool:
    engine = RichEngine()
    app = ConsoleApp(engine, delay=0, settings=Settings(theme=theme))
    return bool(snap_compare(app, terminal_size=size, run_before=prepared(engine, domid, tab, *keys)))


@pytest.mark.parametrize("tab", ["summary", "vcpus", "memory", "rings", "trace"])
@pytest.mark.parametrize("size", [(80, 24), (120, 40)])
def test_tab(snap_compare: Any, size: tuple[int, int], tab: str) -> None:
    assert picture(snap_compare, size, 4, tab)


def test_a_disk_ring_in_light_colours(snap_compare: Any) -> None:
    assert picture(snap_compare, (120, 40), 4, "rings", theme="light")


def test_events_in_high_contrast(snap_compare: Any) -> None:
    assert picture(snap_compare, (120, 40), 4, "events", theme="high-contrast")


@pytest.mark.parametrize("size", [(80, 24), (120, 40)])
def test_a_frame_is_looked_at(snap_compare: Any, size: tuple[int, int]) -> None:
    assert picture(snap_compare, size, 4, "memory", "right", "right", "down")


def test_a_crash_report(snap_compare: Any) -> None:
    assert picture(snap_compare, (120, 40), 5, "summary")


def test_a_restore_is_asked_for(snap_compare: Any) -> None:
    assert picture(snap_compare, (120, 40), 4, "snapshots", "down", "R")


def test_a_register_is_explained(snap_compare: Any) -> None:
    assert picture(snap_compare, (120, 40), 4, "vcpus", "i", "down", "down")
