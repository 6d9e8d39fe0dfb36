"""Consoles within the whole app: what the app binds stays out of the guest's way, and what they look like."""

from __future__ import annotations

import gc
from typing import Any

import pytest

from emulator.control.process import EngineOptions
from tests.ui.fake_engine import FakeEngine
from tests.ui.test_console_screen import picture, title, until
from xenconsole.app import ConsoleApp, run
from xenconsole.screens.console import ConsoleScreen
from xenconsole.screens.overview import OverviewScreen
from xenconsole.widgets.terminal_view import TerminalView

SHOWPIECE = (
    "\r\n\x1b[31mred\x1b[1;32mgreen\x1b[0;44mblue\x1b[0m \x1b[38;5;208morange\x1b[38;2;90;200;250m true\x1b[0m 漢字 e\u0301 "
    "\x1b[7mreverse\x1b[0m \x1b[4munder\x1b[0m \x1b(0lqqk\x1b(B\x1b]2;top\x07\r\n# "
).encode()


async def showing(app: ConsoleApp, pilot: Any, domid: int) -> TerminalView:
    await app.tick()
    app.switch_console(domid)
    await until(lambda: isinstance(app.screen, ConsoleScreen) and app.screen.domids == (domid,) and bool(app.screen.tiles), pilot)
    view = app.screen.query(TerminalView).first()
    await until(lambda: view.session._received > 0 and not view.session.pending, pilot)
    await app.tick()
    await pilot.pause()
    return view


async def test_no_key_of_the_app_is_taken_from_the_guest() -> None:
    engine = FakeEngine()
    app = ConsoleApp(engine, delay=0)
    async with app.run_test(size=(100, 30)) as pilot:
        view = await showing(app, pilot, 1)
        before = len(engine.domains[1].transcript)
        commands = len(engine.commands)
        await pilot.press(
            "q", "p", "x", "D", "colon", "slash", "question_mark", "ctrl+p", "ctrl+q", "ctrl+c", "escape", "f1", "3", "minus"
        )
        expected = b"qpxD:/?\x10\x11\x03\x1b\x1bOP3-"
        await until(lambda: bytes(engine.domains[1].transcript[before:]) == expected, pilot)
        assert len(engine.commands) == commands
        assert view.has_focus


async def test_switching_and_coming_back_keep_each_console() -> None:
    engine = FakeEngine()
    app = ConsoleApp(engine, delay=0)
    async with app.run_test(size=(100, 30)) as pilot:
        first = await showing(app, pilot, 1)
        await pilot.press("a", "alt+3")
        await until(lambda: "shell" in title(app), pilot)
        await pilot.press("b", "alt+1")
        await until(lambda: "hello" in title(app), pilot)
        assert app.screen.query(TerminalView).first() is first
        await pilot.press("c")
        await until(lambda: picture(first).endswith("ac"), pilot)
        await pilot.press("ctrl+right_square_bracket")
        await until(lambda: isinstance(app.screen, OverviewScreen), pilot)


@pytest.mark.parametrize("size", [(80, 24), (120, 40)])
def test_picture_of_a_console(snap_compare: Any, size: tuple[int, int]) -> None:
    engine = FakeEngine()
    engine.domains[4].transcript += SHOWPIECE
    app = ConsoleApp(engine, delay=0)

    async def prepare(pilot: Any) -> None:
        await showing(app, pilot, 4)

    assert snap_compare(app, terminal_size=size, run_before=prepare)


def test_picture_of_a_crash(snap_compare: Any) -> None:
    app = ConsoleApp(FakeEngine(), delay=0)

    async def prepare(pilot: Any) -> None:
        await showing(app, pilot, 5)

    assert snap_compare(app, terminal_size=(80, 24), run_before=prepare)


def test_picture_of_four_tiles(snap_compare: Any) -> None:
    engine = FakeEngine()
    app = ConsoleApp(engine, delay=0)

    async def prepare(pilot: Any) -> None:
        await app.tick()
        await app.push_screen(ConsoleScreen(engine, [1, 2, 4, 3]))
        views = list(app.screen.query(TerminalView))
        await until(lambda: all(v.session._received > 0 and not v.session.pending for v in views), pilot)
        await app.tick()
        await pilot.pause()

    assert snap_compare(app, terminal_size=(120, 40), run_before=prepare)


async def test_the_program_itself_is_not_searched_for_garbage_while_keys_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    frozen: list[int] = []

    async def engine(options: EngineOptions, version: str) -> FakeEngine:
        return FakeEngine()

    async def shown(app: ConsoleApp) -> int:
        frozen.append(gc.get_freeze_count())
        return 0

    monkeypatch.setattr("xenconsole.app.start_engine", engine)
    monkeypatch.setattr(ConsoleApp, "run_async", shown)
    before = gc.get_freeze_count()
    try:
        assert await run((), EngineOptions()) == 0
    finally:
        gc.unfreeze()
    assert frozen[0] - before > 10_000
