"""Pictures of the overview and its dialogs (SVG snapshots; `pytest --snapshot-update` after a wanted change)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import Input

from tests.ui.fake_engine import FakeEngine
from xenconsole.app import ConsoleApp
from xenconsole.commands import COMMANDS
from xenconsole.settings import Settings

SIZES = [(80, 24), (120, 40)]


def prepared(*keys: str, lose: bool = False) -> Callable[[Pilot[Any]], Any]:
    """Take the same ticks every time, then press the keys."""

    async def run(pilot: Pilot[Any]) -> None:
        app = pilot.app
        assert isinstance(app, ConsoleApp)
        for _ in range(60):
            await app.tick()
        await pilot.pause()
        for key in keys:
            await pilot.press(key)
            await pilot.pause()
            for entry in app.screen.query(Input):
                entry.cursor_blink = False
        if lose:
            assert isinstance(app.client, FakeEngine)
            app.client.lose()
        await pilot.pause(0.1)

    return run


def app(theme: str = "dark") -> ConsoleApp:
    return ConsoleApp(FakeEngine(), delay=0, settings=Settings(theme=theme))


@pytest.mark.parametrize("size", SIZES)
def test_overview(snap_compare: Any, size: tuple[int, int]) -> None:
    assert snap_compare(app(), terminal_size=size, run_before=prepared("j", "w"))


@pytest.mark.parametrize("size", SIZES)
def test_help(snap_compare: Any, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    some = ("create", "pause", "unpause", "destroy", "mem-set", "block-list", "snapshot", "capture", "theme")
    # a new command leaves the picture as it is
    monkeypatch.setattr("xenconsole.screens.help.COMMANDS", tuple(command for command in COMMANDS if command.name in some))
    assert snap_compare(app(), terminal_size=size, run_before=prepared("question_mark"))


@pytest.mark.parametrize("size", SIZES)
def test_destroy_asks_for_the_name(snap_compare: Any, size: tuple[int, int]) -> None:
    assert snap_compare(app(), terminal_size=size, run_before=prepared("j", "D"))


def test_lost_engine(snap_compare: Any) -> None:
    assert snap_compare(app("light"), terminal_size=(120, 40), run_before=prepared(lose=True))


def test_prompt_with_completion(snap_compare: Any) -> None:
    assert snap_compare(app("high-contrast"), terminal_size=(80, 24), run_before=prepared("colon", *"vcpu", "minus", "tab"))
