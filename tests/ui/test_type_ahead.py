"""Keys in one burst, as a fast typist, a paste or a slow machine has them: each goes to the view it was meant for."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from textual import events
from textual.keys import _character_to_key

from tests.ui.fake_engine import FakeEngine
from tests.ui.test_console_screen import until
from xenconsole.app import ConsoleApp
from xenconsole.screens.overview import OverviewScreen


def burst(app: ConsoleApp, text: str) -> None:
    """All keys at once, as the terminal's driver hands them on."""
    assert app._driver is not None
    for character in text:
        named = {"\r": "enter", "\t": "tab", "\x1b": "escape"}.get(character)
        key = named or (character if character.isalnum() else _character_to_key(character))
        event = events.Key(key, character)
        event.set_sender(app)
        app._driver.process_message(event)


def paused(engine: FakeEngine) -> bool:
    return engine.domains[3].paused


@pytest.mark.parametrize(
    ("typed", "done"),
    [
        (":pause shell\r", paused),
        (":pau\tshell\r", paused),
        ("/shell\rp", paused),
        ("jjDhello\r", lambda engine: 2 not in engine.domains or 1 not in engine.domains),
        (":console shell\rwords for the guest", lambda engine: b"words for the guest" in engine.domains[3].transcript),
    ],
)
async def test_a_burst_of_keys(typed: str, done: Callable[[FakeEngine], bool]) -> None:
    engine = FakeEngine()
    app = ConsoleApp(engine, delay=0)
    async with app.run_test(size=(100, 30)) as pilot:
        await app.tick()
        await pilot.pause()
        if typed.startswith("jjD"):
            typed = typed.replace("hello", app.name_of(app.base_table().order[2]))
            target = app.base_table().order[2]
            burst(app, typed)
            await until(lambda: target not in engine.domains, pilot)
        else:
            burst(app, typed)
            await until(lambda: done(engine), pilot)


async def test_views_opened_and_left_in_one_burst() -> None:
    app = ConsoleApp(FakeEngine(), delay=0)
    async with app.run_test(size=(100, 30)) as pilot:
        await app.tick()
        burst(app, "ji\x1bl\x1b??:\x1bt\x1bie\x1b5\x1b" * 3)
        await until(lambda: not app.type_ahead._waiting, pilot)
        await until(lambda: isinstance(app.screen, OverviewScreen), pilot)


async def test_a_machine_that_stalls_sends_no_key_to_the_wrong_view(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = FakeEngine()
    app = ConsoleApp(engine, delay=0)
    async with app.run_test(size=(100, 30)) as pilot:
        await app.tick()
        await pilot.pause()
        pass_on = app.type_ahead._pass_on

        def stalled(*given: Any) -> None:
            time.sleep(1)  # longer than a lost mark is waited for
            monkeypatch.setattr(app.type_ahead, "_pass_on", pass_on)
            pass_on(*given)

        monkeypatch.setattr(app.type_ahead, "_pass_on", stalled)
        burst(app, ":pause shell\r")
        await until(lambda: paused(engine) or not app.type_ahead._waiting, pilot)
        await until(lambda: paused(engine), pilot)


async def test_a_key_whose_mark_is_lost_holds_up_the_next_for_a_moment_only(monkeypatch: pytest.MonkeyPatch) -> None:
    app = ConsoleApp(FakeEngine(), delay=0)
    async with app.run_test(size=(100, 30)) as pilot:
        await app.tick()
        await pilot.pause()
        cursor = app.base_table().cursor
        monkeypatch.setattr(app.type_ahead, "_pass_on", lambda node, number: None)
        burst(app, "jj")
        await until(lambda: app.base_table().cursor == app.base_table().order[app.base_table().order.index(cursor) + 2], pilot)


async def test_a_dialog_takes_one_answer() -> None:
    app: Any = ConsoleApp(FakeEngine(), delay=0)
    async with app.run_test(size=(100, 30)) as pilot:
        await app.tick()
        await pilot.press("j", "x")
        burst(app, "nnnyyy")
        await pilot.pause(0.3)
        assert app.is_running
        assert len(app.screen_stack) >= 1
