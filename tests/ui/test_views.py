"""The whole app: views and the way between them, leaving, a lost engine, sizes, hostile names."""

from __future__ import annotations

from pathlib import Path

from textual.color import Color

from tests.ui.desk import desk
from tests.ui.fake_engine import FakeDomain, FakeEngine
from xenconsole.screens.confirm import ConfirmScreen, LostScreen, TooSmallScreen
from xenconsole.screens.console import ConsoleScreen
from xenconsole.screens.domain import DomainScreen
from xenconsole.screens.help import HelpScreen
from xenconsole.screens.logs import LogsScreen
from xenconsole.screens.overview import OverviewScreen
from xenconsole.settings import Settings
from xenconsole.widgets.domain_table import DomainTable


async def test_views_open_go_back_and_to_the_last() -> None:
    async with desk() as at:
        await at.press("j", "i")
        assert isinstance(at.front(), DomainScreen)
        assert at.app.chosen == 1
        await at.press("escape")
        assert isinstance(at.front(), OverviewScreen)
        await at.press("l")
        assert isinstance(at.front(), LogsScreen)
        await at.press("minus")
        assert isinstance(at.front(), DomainScreen)
        await at.press("escape", "l", "1")
        assert isinstance(at.front(), OverviewScreen)


async def test_alt_digit_goes_to_a_console_from_anywhere() -> None:
    async with desk() as at:
        await at.press("alt+3")
        assert isinstance(at.front(), ConsoleScreen)
        kept = at.front()
        await at.press("alt+2")
        assert isinstance(at.front(), ConsoleScreen)
        assert at.front() is not kept
        await at.press("alt+3")
        assert at.front() is kept
        assert len(at.app.screen_stack) == 2
        await at.press("q", "colon", "ctrl+p")
        assert at.front() is kept
        at.app.back()
        await at.press("question_mark", "alt+2")
        assert isinstance(at.front(), ConsoleScreen)


async def test_help_shows_the_live_keys() -> None:
    async with desk(settings=Settings(keys={"toggle-pause": "ctrl+t"})) as at:
        await at.press("question_mark")
        shown = at.front()
        assert isinstance(shown, HelpScreen)
        keys = {text: key for _, key, text in shown._keys}
        assert keys["pause or unpause"] == "^t"
        await at.press("escape", "j", "ctrl+t")
        assert at.sent("pause") == [{"domid": 1}]
        await at.press("p")
        assert len(at.engine.commands) == 1


async def test_quit_asks_while_guests_run() -> None:
    async with desk() as at:
        await at.press("q")
        assert isinstance(at.front(), ConfirmScreen)
        await at.press("n")
        assert at.app.is_running
        await at.press("q", "y")
        assert at.app.return_value == 0


async def test_quit_does_not_ask_without_guests() -> None:
    async with desk(FakeEngine([FakeDomain(0, "Domain-0")])) as at:
        await at.press("q")
        assert at.app.return_value == 0


async def test_a_lost_engine_is_told_once_and_can_be_started_again() -> None:
    other = FakeEngine([FakeDomain(0, "Domain-0"), FakeDomain(1, "fresh")])

    async def restart() -> FakeEngine:
        return other

    async with desk(restart=restart) as at:
        await at.press("i")
        at.engine.lose("killed by signal 9")
        await at.tick(3)
        assert isinstance(at.front(), LostScreen)
        assert sum(isinstance(s, LostScreen) for s in at.app.screen_stack) == 1
        await at.press("escape")
        assert "engine lost: killed by signal 9" in at.app._overview_screen.query_one("#host").render_line(1).text
        await at.press("escape", "j", "p")
        assert at.engine.commands == []
        await at.press("colon")
        await at.type("restart-engine")
        await at.press("enter")
        await at.tick(2)
        assert at.engine.closed
        assert [view.name for view in at.app.overview.domains] == ["Domain-0", "fresh"]


async def test_a_terminal_too_small_says_so_and_recovers() -> None:
    async with desk() as at:
        await at.pilot.resize_terminal(50, 12)
        await at.pilot.pause()
        assert isinstance(at.front(), TooSmallScreen)
        await at.pilot.resize_terminal(80, 24)
        await at.pilot.pause()
        assert isinstance(at.front(), OverviewScreen)
        assert not at.app.screen.query_one("#logs").display
        await at.pilot.resize_terminal(120, 40)
        await at.pilot.pause()
        assert at.app.screen.query_one("#logs").display


async def test_resizing_under_a_dialog_keeps_the_dialog() -> None:
    async with desk() as at:
        await at.press("j", "x")
        for size in ((50, 10), (90, 30), (40, 40), (240, 70)):
            await at.pilot.resize_terminal(*size)
            await at.pilot.pause()
        assert isinstance(at.front(), ConfirmScreen)
        await at.press("y")
        assert at.sent("shutdown") == [{"domid": 1}]


async def test_thousands_of_rows_scroll_and_keep_the_cursor_in_view() -> None:
    engine = FakeEngine([FakeDomain(n, f"guest{n}" if n else "Domain-0") for n in range(3000)])
    async with desk(engine) as at:
        await at.press("G")
        assert at.table.cursor == 2999
        assert "guest2999" in at.line(at.table.size.height - 1)
        await at.press("g", "pagedown")
        assert 0 < at.table.cursor < 40
        await at.press("k")
        assert "▌" in "".join(at.line(y) for y in range(1, at.table.size.height))


async def test_a_click_chooses_and_a_double_click_opens() -> None:
    async with desk() as at:
        await at.pilot.click(DomainTable, offset=(8, 4))
        assert at.table.cursor == 3
        await at.pilot.click(DomainTable, offset=(8, 3), times=2)
        await at.pilot.pause()
        assert isinstance(at.front(), ConsoleScreen)
        assert at.app.chosen == 2


async def test_a_hostile_name_stays_text() -> None:
    engine = FakeEngine([FakeDomain(0, "Domain-0"), FakeDomain(1, "[red]\x1b[2J\x07名前")])
    async with desk(engine) as at:
        assert "\x1b" not in at.line(2)
        assert "[red]" in at.line(2)
        await at.press("j", "p", "x")
        assert isinstance(at.front(), ConfirmScreen)


async def test_problems_of_the_start_are_reported() -> None:
    problems = ("config.toml: skipped colour: no such setting",)
    async with desk(problems=problems, settings=Settings(theme="mauve", keys={"quit": "p"})) as at:
        told = [entry.text for entry in at.app.events.entries if entry.source == "console"]
        assert told[0] == problems[0]
        assert any("theme 'mauve' skipped" in text for text in told)
        assert any("keys.quit = 'p': already means toggle-pause" in text for text in told)
        assert at.app.theme == "dark"


async def test_a_changed_theme_file_is_taken_live(tmp_path: Path) -> None:
    async with desk() as at:
        folder = tmp_path / "config" / "xenconsole" / "themes"
        folder.mkdir(parents=True)
        text = 'name = "dark"\n[colors]\nprimary="#fe0000"\nforeground="#fff"\nbackground="#000"\nsurface="#000"\npanel="#111"\n'
        (folder / "dark.toml").write_text(text)
        (folder / "broken.toml").write_text("nonsense")
        at.app._watch_themes()
        await at.pilot.pause()
        assert Color.parse(at.app.theme_variables["primary"]).hsl.s > 0.95  # the shipped theme's is a quiet blue
        assert any("broken.toml skipped" in entry.text for entry in at.app.events.entries)


async def test_start_files_are_created_and_failures_told(tmp_path: Path) -> None:
    async with desk(files=(tmp_path / "one.cfg", tmp_path / "two.cfg")) as at:
        await at.tick()
        assert [Path(str(args["file"])).name for args in at.sent("create")] == ["one.cfg", "two.cfg"]
