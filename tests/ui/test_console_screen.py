"""Guest consoles through Pilot, on the fake engine and the smallest app that a screen needs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from textual import events
from textual.app import App
from textual.binding import Binding

from emulator.control.views import HostView, Overview
from tests.patience import PATIENCE_SECONDS, soon
from tests.ui.fake_engine import FakeEngine, replaced
from xenconsole.app_protocol import OverviewArrived
from xenconsole.screens.console import ConsoleScreen, hub_of
from xenconsole.settings import Settings
from xenconsole.terminal.core import line_text
from xenconsole.widgets.terminal_view import TerminalView


class ConsoleOnly(App[None], inherit_bindings=False):
    """An app with nothing but consoles; Ctrl+Q and F1 are bound as a careless app would, without priority."""

    ENABLE_COMMAND_PALETTE = False
    BINDINGS = [Binding("ctrl+q", "note('quit')"), Binding("f1", "note('help')"), Binding("ctrl+c", "note('copy')")]  # noqa: RUF012

    def __init__(self, engine: FakeEngine, settings: Settings | None = None) -> None:
        super().__init__()
        self.client = engine
        self.settings = settings or Settings()
        self.overview = Overview(host=HostView())
        self.read_only = False
        self.switched: list[int] = []
        self.notes: list[str] = []

    def get_theme_variable_defaults(self) -> dict[str, str]:
        states = [f"state-{name}" for name in ("running", "blocked", "paused", "down", "crashed")]
        return dict.fromkeys(["dim", "trouble", "notice", "rule", *states], "#a0a0a0")

    def action_note(self, text: str) -> None:
        self.notes.append(text)

    async def tick(self) -> None:
        self.overview = await self.client.overview()
        self.screen.post_message(OverviewArrived(self.overview))

    def switch_console(self, domid: int) -> None:
        self.switched.append(domid)
        self.switch_screen(ConsoleScreen(self.client, [domid]))

    def back(self) -> None:
        self.pop_screen()


async def until(condition: Callable[[], Any], pilot: Any) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():
            await pilot.pause(0.01)


def picture(view: TerminalView) -> str:
    """What the widget draws, not what the core holds."""
    return "\n".join(view.render_line(y).text.rstrip() for y in range(view.size.height)).rstrip()


def title(app: App[Any], tile: int = 0) -> str:
    return str(list(app.screen.query("TitleLine"))[tile].render()).strip()


def typed(engine: FakeEngine, domid: int) -> bytes:
    """The fake guest echoes what it is sent, Enter aside."""
    return bytes(engine.domains[domid].transcript)


async def opened(app: ConsoleOnly, pilot: Any, *domids: int) -> TerminalView:
    await app.tick()
    await app.push_screen(ConsoleScreen(app.client, domids))
    view = app.screen.query(TerminalView).first()
    await until(lambda: all(s.pending == 0 and s._received > 0 for s in hub_of(app.screen).sessions.values()), pilot)
    await pilot.pause()
    return view


async def test_what_the_guest_said_before_is_there_and_typing_reaches_it() -> None:
    app = ConsoleOnly(FakeEngine())
    async with app.run_test(size=(80, 24)) as pilot:
        view = await opened(app, pilot, 3)
        assert picture(view) == "xenconsole monitor, type help\n>"
        await pilot.press("l", "s", "enter")
        await until(lambda: picture(view).endswith("> ls\n>"), pilot)


async def test_every_key_is_the_guests() -> None:
    engine = FakeEngine()
    app = ConsoleOnly(engine)
    async with app.run_test(size=(80, 24)) as pilot:
        await opened(app, pilot, 1)
        before = len(typed(engine, 1))
        await pilot.press(
            "ctrl+c", "ctrl+z", "ctrl+q", "ctrl+p", "tab", "shift+tab", "escape", "f1", "f10", "alt+x", "up", "ctrl+@"
        )
        expected = b"\x03\x1a\x11\x10\t\x1b[Z\x1b\x1bOP\x1b[21~\x1bx\x1b[A\x00"
        await until(lambda: typed(engine, 1)[before:] == expected, pilot)
        assert app.notes == []
        assert isinstance(app.screen, ConsoleScreen)


async def test_the_escape_key_returns_and_the_console_survives_it() -> None:
    engine = FakeEngine()
    app = ConsoleOnly(engine)
    async with app.run_test(size=(80, 24)) as pilot:
        view = await opened(app, pilot, 3)
        screen = app.screen
        app.install_screen(screen, "kept")
        await pilot.press("ctrl+right_square_bracket")
        await until(lambda: app.screen is not screen, pilot)
        engine.say(3, b"while away")
        await app.push_screen("kept")
        await until(lambda: "while away" in picture(view), pilot)


async def test_alt_and_a_digit_switch_to_that_domain() -> None:
    app = ConsoleOnly(FakeEngine())
    async with app.run_test(size=(80, 24)) as pilot:
        await opened(app, pilot, 1)
        await pilot.press("alt+2")
        await until(lambda: app.switched == [2] and "counter" in title(app), pilot)
        assert app.screen.query(TerminalView).first().has_focus


async def test_both_keys_are_rebindable_and_then_the_old_ones_are_the_guests() -> None:
    engine = FakeEngine()
    app = ConsoleOnly(engine, Settings(keys={"console.escape": "ctrl+^", "to-console-2": "f2"}))
    async with app.run_test(size=(80, 24)) as pilot:
        await opened(app, pilot, 1)
        assert "Ctrl-^ back" in title(app)
        before = len(typed(engine, 1))
        await pilot.press("ctrl+right_square_bracket", "alt+2")
        await until(lambda: typed(engine, 1)[before:] == b"\x1d\x1b2", pilot)
        await pilot.press("f2")
        await until(lambda: app.switched == [2], pilot)
        await pilot.press("ctrl+circumflex_accent")
        await until(lambda: not isinstance(app.screen, ConsoleScreen), pilot)


async def test_the_title_names_guest_state_and_keys() -> None:
    app = ConsoleOnly(FakeEngine())
    async with app.run_test(size=(100, 24)) as pilot:
        await opened(app, pilot, 2)
        assert title(app).startswith("counter · running · domain 2")
        assert title(app).endswith("Ctrl-] back · Alt+1…9 switch")


async def test_a_flood_does_not_block_keys_and_its_losses_are_marked() -> None:
    engine = FakeEngine()
    app = ConsoleOnly(engine)
    async with app.run_test(size=(80, 24)) as pilot:
        view = await opened(app, pilot, 3)
        session = view.session
        for turn in range(40):
            engine.say(3, b"".join(b"\x1b[3%dmflood %d %d\x1b[0m%s\r\n" % (n % 8, turn, n, b"." * 60) for n in range(1000)))
            await asyncio.sleep(0)
        app.post_message(events.Key("x", "x"))
        await soon(lambda: engine.domains[3].typed, pause=0.001)
        assert session.pending > 0, "it overtook what was still to be shown"
        await until(lambda: session.pending == 0, pilot)
        core = session.core
        lines = [line_text(core.history(n)) for n in range(core.history_start, core.history_end)]
        assert session.lost_bytes > 0
        assert any("of output not shown" in line for line in lines)
        assert "flood 39 999" in picture(view)
        assert picture(view).endswith("x")


async def test_a_flood_out_of_sight_costs_the_visible_guest_nothing() -> None:
    engine = FakeEngine()
    app = ConsoleOnly(engine)
    async with app.run_test(size=(80, 24)) as pilot:
        view = await opened(app, pilot, 3)
        other = hub_of(app.screen).session(1)
        await pilot.pause(0.05)
        flood = b"y\r\n" * 200_000
        for _ in range(4):
            engine.say(1, flood)
        await pilot.press("o", "k")
        await until(lambda: picture(view).endswith("ok"), pilot)
        assert other.pending > 0


async def test_scrollback_by_keys_and_wheel_and_a_key_returns_to_the_guest() -> None:
    engine = FakeEngine()
    app = ConsoleOnly(engine)
    async with app.run_test(size=(80, 24)) as pilot:
        view = await opened(app, pilot, 1)
        engine.say(1, b"".join(b"line %d\r\n" % n for n in range(100)))
        await until(lambda: "line 99" in picture(view), pilot)
        await pilot.press("shift+pageup")
        assert view.scrolled == 22
        assert "line 99" not in picture(view)
        assert "↑ 22 of" in title(app)
        top = picture(view).splitlines()[0]
        engine.say(1, b"more\r\n")
        await pilot.pause(0.05)
        assert picture(view).splitlines()[0] == top
        await pilot.press("a")
        assert view.scrolled == 0
        view.post_message(events.MouseScrollUp(view, 1, 1, 0, -1, 0, False, False, False))
        await until(lambda: view.scrolled == 3, pilot)
        await pilot.press("shift+pagedown")
        assert view.scrolled == 0


async def test_a_selection_is_copied_when_the_button_is_let_go() -> None:
    app = ConsoleOnly(FakeEngine())
    async with app.run_test(size=(80, 24)) as pilot:
        view = await opened(app, pilot, 1)
        await pilot.mouse_down(view, offset=(11, 0))
        await pilot.hover(view, offset=(5, 1))
        await pilot.mouse_up(view, offset=(5, 1))
        assert app.clipboard == "domain 1, greeting 1\nhello"
        await pilot.double_click(view, offset=(1, 2))
        assert app.clipboard == "hello"


async def test_the_mouse_is_the_guests_when_it_asked() -> None:
    engine = FakeEngine()
    app = ConsoleOnly(engine)
    async with app.run_test(size=(80, 24)) as pilot:
        view = await opened(app, pilot, 1)
        engine.say(1, b"\x1b[?1000h\x1b[?1006h")
        await until(lambda: view.session.core.modes.mouse_sgr, pilot)
        before = len(typed(engine, 1))
        await pilot.click(view, offset=(4, 2))
        await until(lambda: typed(engine, 1)[before:] == b"\x1b[<0;5;3M\x1b[<0;5;3m", pilot)


async def test_a_paste_reaches_the_guest_in_brackets_only_when_asked() -> None:
    engine = FakeEngine()
    app = ConsoleOnly(engine)
    async with app.run_test(size=(80, 24)) as pilot:
        view = await opened(app, pilot, 1)
        before = len(typed(engine, 1))
        view.post_message(events.Paste("a\x1b[201~b"))
        await until(lambda: typed(engine, 1)[before:] == b"a[201~b", pilot)
        engine.say(1, b"\x1b[?2004h")
        await until(lambda: view.session.core.modes.bracketed_paste, pilot)
        before = len(typed(engine, 1))
        view.post_message(events.Paste("c"))
        await until(lambda: typed(engine, 1)[before:] == b"\x1b[200~c\x1b[201~", pilot)


async def test_questions_in_the_old_transcript_are_not_answered_new_ones_are() -> None:
    engine = FakeEngine()
    engine.domains[1].transcript += b"\x1b[c\x1b[6n"
    app = ConsoleOnly(engine)
    async with app.run_test(size=(80, 24)) as pilot:
        await opened(app, pilot, 1)
        await pilot.pause(0.05)
        assert engine.domains[1].typed == 0
        engine.say(1, b"\x1b[c")
        await until(lambda: typed(engine, 1).endswith(b"\x1b[?62;22c"), pilot)


async def test_a_guest_that_ends_leaves_its_screen_and_any_key_returns() -> None:
    engine = FakeEngine()
    app = ConsoleOnly(engine)
    async with app.run_test(size=(80, 24)) as pilot:
        view = await opened(app, pilot, 1)
        await engine.command("destroy", domid=1)
        await app.tick()
        await until(lambda: "hello · destroyed · domain 1" in title(app), pilot)
        assert "greeting 5" in picture(view)
        epitaph = app.screen.query(".epitaph").first()
        await until(lambda: epitaph.display, pilot)
        assert "Any key returns" in str(epitaph.render())
        await pilot.press("q")
        await until(lambda: not isinstance(app.screen, ConsoleScreen), pilot)


async def test_a_crash_is_told_with_its_cause() -> None:
    app = ConsoleOnly(FakeEngine())
    async with app.run_test(size=(80, 24)) as pilot:
        await opened(app, pilot, 5)
        assert "rogue · crashed · domain 5" in title(app)
        assert "triple fault at 0xffffffff81001234" in str(app.screen.query(".epitaph").first().render())
        await pilot.press("enter")
        await until(lambda: not isinstance(app.screen, ConsoleScreen), pilot)


async def test_a_restarted_domain_is_followed() -> None:
    engine = FakeEngine()
    app = ConsoleOnly(engine)
    async with app.run_test(size=(80, 24)) as pilot:
        await opened(app, pilot, 1)
        await engine.command("destroy", domid=1)
        result = await engine.command("create", file="hello.cfg")
        engine.say(result.domid, b"born again\r\n")
        await pilot.pause(0.05)
        await app.tick()
        view = app.screen.query(TerminalView).first()
        await until(lambda: "born again" in picture(view), pilot)
        assert f"domain {result.domid} " in title(app)
        assert not app.screen.query(".epitaph").first().display
        await pilot.press("z")
        await until(lambda: picture(view).endswith("z"), pilot)


async def test_a_lost_engine_is_told_and_a_key_returns() -> None:
    engine = FakeEngine()
    app = ConsoleOnly(engine)
    async with app.run_test(size=(100, 24)) as pilot:
        await opened(app, pilot, 1)
        engine.lose()
        await until(lambda: "engine lost" in title(app), pilot)
        await pilot.press("a")
        await until(lambda: not isinstance(app.screen, ConsoleScreen), pilot)


async def test_four_tiles_each_with_its_guest_and_alt_digits_go_between() -> None:
    engine = FakeEngine()
    app = ConsoleOnly(engine)
    async with app.run_test(size=(120, 40)) as pilot:
        await opened(app, pilot, 1, 2, 3, 4)
        views = list(app.screen.query(TerminalView))
        assert [(v.size.width, v.size.height) for v in views] == [(59, 19), (60, 19)] * 2
        await pilot.press("alt+3", "h", "i")
        await until(lambda: picture(views[2]).endswith("> hi"), pilot)
        await pilot.press("alt+5")
        await until(lambda: app.screen.domids == (1, 2, 5, 4), pilot)  # type: ignore[attr-defined]
        assert app.switched == []
        await pilot.press("alt+7")
        assert app.switched == [7]


async def test_two_tiles_stand_one_above_the_other_on_a_narrow_terminal() -> None:
    app = ConsoleOnly(FakeEngine())
    async with app.run_test(size=(80, 24)) as pilot:
        await opened(app, pilot, 1, 2)
        assert [(v.size.width, v.size.height) for v in app.screen.query(TerminalView)] == [(80, 11)] * 2
        await pilot.resize_terminal(140, 24)
        await until(lambda: [(v.size.width, v.size.height) for v in app.screen.query(TerminalView)] == [(69, 23), (70, 23)], pilot)


async def test_a_read_only_display_does_not_type() -> None:
    engine = FakeEngine()
    app = ConsoleOnly(engine)
    app.read_only = True
    async with app.run_test(size=(100, 24)) as pilot:
        await opened(app, pilot, 1)
        await pilot.press("a", "enter")
        await pilot.pause(0.05)
        assert engine.domains[1].typed == 0
        assert "read-only" in title(app)


async def test_pulling_the_window_about_during_a_flood_is_safe() -> None:
    engine = FakeEngine()
    app = ConsoleOnly(engine)
    async with app.run_test(size=(80, 24)) as pilot:
        view = await opened(app, pilot, 2)
        for turn in range(12):
            engine.say(2, "漢字 flood ".encode() * 500 + b"\r\n\x1b[?1049%c" % (b"hl"[turn % 2]))
            await pilot.resize_terminal(10 + turn * 13 % 90, 3 + turn * 7 % 30)
        await until(lambda: view.session.pending == 0, pilot)
        await pilot.pause()
        assert picture(view) is not None
        assert view.session.core.faults == 0


async def test_a_hostile_name_stays_in_the_title() -> None:
    engine = FakeEngine()
    app = ConsoleOnly(engine)
    async with app.run_test(size=(100, 24)) as pilot:
        await opened(app, pilot, 1)
        view = replaced(app.overview.domains[1], name="[b]x[/]\x1b[31m\n")
        app.overview = Overview(host=app.overview.host, domains=(view,))
        app.screen.post_message(OverviewArrived(app.overview))
        await until(lambda: "[b]x[/][31m · " in title(app), pilot)
