"""The overview and the app's shell: table, commands, dialogs, prompt, views, the engine's loss."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from textual.color import Color
from textual.pilot import Pilot
from textual.screen import Screen

from tests.ui.fake_engine import FakeDomain, FakeEngine
from xenconsole.app import ConsoleApp
from xenconsole.screens.confirm import ConfirmScreen, LostScreen, TooSmallScreen
from xenconsole.screens.console import ConsoleScreen
from xenconsole.screens.domain import DomainScreen
from xenconsole.screens.help import HelpScreen
from xenconsole.screens.logs import LogsScreen
from xenconsole.screens.overview import OverviewScreen
from xenconsole.screens.prompt import PromptScreen
from xenconsole.screens.snapshots import SnapshotsScreen
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


async def test_every_domain_has_a_row_with_xls_state_letters() -> None:
    async with desk() as at:
        await at.tick(40)
        rows = [at.line(y) for y in range(1, 7)]
        assert [r.split()[1] if r[0] == " " else r.split()[2] for r in rows] == [
            "Domain-0",
            "hello",
            "counter",
            "shell",
            "debian",
            "rogue",
        ]
        assert "r-----" in rows[2]
        assert "----c-" in rows[5]
        assert "98.0" in rows[2]
        assert "256 MiB" in rows[4]


async def test_a_tick_repaints_only_rows_that_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    async with desk() as at:
        painted: list[int] = []
        render = DomainTable.render_line

        def watched(self: DomainTable, y: int) -> Any:
            painted.append(y)
            return render(self, y)

        await at.tick(300)
        monkeypatch.setattr(DomainTable, "render_line", watched)
        at.engine.step_ns = 1
        await at.tick()
        painted.clear()
        await at.tick()
        assert painted == []
        at.engine.domains[3].state = "--p---"
        await at.tick()
        assert set(painted) == {4}


async def test_sorting_by_keys_and_by_a_click_on_the_header() -> None:
    async with desk() as at:
        await at.tick(40)
        await at.press("P")
        assert at.order()[0] == 2
        await at.press("P")
        assert at.order()[-1] == 2
        await at.press("M")
        assert set(at.order()[:2]) == {0, 4}
        await at.press("N")
        assert at.order()[0] == 2
        column = next(p for p in at.table._columns().columns if p.column.key == "id")
        await at.pilot.click(DomainTable, offset=(column.x + 1, 0))
        assert at.order() == (0, 1, 2, 3, 4, 5)
        await at.press("s")
        assert at.table.sort_key == "name"


async def test_the_cursor_stays_on_its_domain_when_rows_move() -> None:
    async with desk() as at:
        await at.press("j", "j", "j")
        assert at.table.cursor == 3
        await at.press("P")
        assert at.table.cursor == 3
        del at.engine.domains[1]
        await at.tick()
        assert at.table.cursor == 3
        del at.engine.domains[3]
        await at.tick()
        assert at.table.cursor in at.order()


async def test_filter_by_regex_inverse_and_escape() -> None:
    async with desk() as at:
        await at.press("slash")
        await at.type("^\\d+ (hello|shell)")
        assert at.order() == (1, 3)
        await at.press("enter")
        assert isinstance(at.front(), OverviewScreen)
        assert at.order() == (1, 3)
        await at.press("escape")
        assert len(at.order()) == 6
        at.table.set_filter("!o")
        assert at.order() == (3, 4)
        assert "no regular expression" in at.table.set_filter("(")
        assert at.order() == (3, 4)


async def test_cancelling_the_filter_brings_the_old_one_back() -> None:
    async with desk() as at:
        at.table.set_filter("hello")
        await at.press("slash")
        await at.type("zzz")
        assert at.order() == ()
        assert "no domain matches" in at.line(1)
        await at.press("escape")
        assert at.order() == (1,)


async def test_pause_acts_at_once_and_shows_the_xl_line() -> None:
    async with desk() as at:
        await at.press("j", "p")
        assert at.sent("pause") == [{"domid": 1}]
        assert at.logged == ["xl pause hello"]
        await at.tick()
        assert "--p---" in at.line(2)
        await at.press("p")
        assert at.sent("unpause") == [{"domid": 1}]


async def test_a_command_goes_to_all_marked_domains() -> None:
    async with desk() as at:
        await at.press("j", "space", "space", "p")
        assert at.sent("pause") == [{"domid": 1}, {"domid": 2}]
        await at.press("escape", "p")
        assert at.sent("pause")[-1] == {"domid": 3}


async def test_shutdown_asks_and_destroy_wants_the_name() -> None:
    async with desk() as at:
        await at.press("j", "x")
        assert isinstance(at.front(), ConfirmScreen)
        await at.press("n")
        assert at.sent("shutdown") == []
        await at.press("x", "y")
        assert at.sent("shutdown") == [{"domid": 1}]
        await at.tick()
        await at.press("D")
        victim = at.table.cursor
        await at.press("y", "enter")
        assert isinstance(at.front(), ConfirmScreen)
        assert at.sent("destroy") == []
        await at.press("backspace")
        await at.type(at.app.name_of(victim))
        await at.press("enter")
        assert at.sent("destroy") == [{"domid": victim}]


async def test_the_order_is_held_and_the_target_kept_while_a_dialog_is_open() -> None:
    async with desk() as at:
        await at.press("P", "j")
        await at.tick(20)
        order = at.order()
        await at.press("D")
        assert isinstance(at.front(), ConfirmScreen)
        for domain in at.engine.domains.values():
            domain.load = 100 - domain.load
        chosen = at.table.cursor
        await at.tick(30)
        assert at.order() == order
        assert at.table.cursor == chosen


@pytest.mark.parametrize(("confirm", "asks"), [("always", True), ("destructive", False), ("never", False)])
async def test_how_much_is_asked_is_a_setting(confirm: str, asks: bool) -> None:
    async with desk(settings=Settings(confirm=confirm)) as at:
        await at.press("j", "p")
        assert isinstance(at.front(), ConfirmScreen) is asks
        if confirm == "never":
            await at.press("D")
            assert at.sent("destroy") == [{"domid": 1}]


async def test_read_only_refuses_changes_and_is_shown() -> None:
    async with desk() as at:
        await at.press("w", "j", "p", "D")
        assert at.engine.commands == []
        assert "READ-ONLY" in at.app.screen.query_one("#host").render_line(0).text
        await at.press("w", "p")
        assert at.sent("pause") == [{"domid": 1}]


async def test_freeze_keeps_the_picture_and_the_log() -> None:
    async with desk() as at:
        await at.press("f")
        before = [at.line(y) for y in range(7)]
        at.engine.log(1, "info", "while frozen")
        await at.tick(40)
        assert [at.line(y) for y in range(7)] == before
        await at.press("f")
        await at.tick()
        assert "while frozen" in [entry.text for entry in at.app.events.entries]


async def test_domain_zero_is_nobodys_target() -> None:
    async with desk() as at:
        await at.press("p", "D", "x")
        assert at.engine.commands == []
        assert isinstance(at.front(), OverviewScreen)


async def test_the_prompt_completes_runs_and_remembers() -> None:
    async with desk() as at:
        await at.press("colon")
        await at.type("unp")
        await at.press("tab")
        await at.type("cou")
        await at.press("tab", "enter")
        assert at.sent("unpause") == [{"domid": 2}]
        await at.press("colon", "up", "enter")
        assert len(at.sent("unpause")) == 2
        await at.press("colon")
        await at.type("frobnicate")
        await at.press("enter")
        assert isinstance(at.front(), OverviewScreen)
        await at.press("colon", "escape")
        assert isinstance(at.front(), OverviewScreen)


async def test_the_prompt_takes_the_missing_argument() -> None:
    async with desk() as at:
        await at.press("F")
        assert isinstance(at.front(), PromptScreen)
        await at.type("mem")
        await at.press("enter")
        assert at.table.sort_key == "mem"


async def test_the_palette_finds_a_command_for_the_chosen_domain() -> None:
    async with desk() as at:
        await at.press("j", "ctrl+p")
        await at.type("snapshot hello")
        await at.pilot.pause(0.3)
        await at.press("enter")
        await at.pilot.pause(0.1)
        assert at.sent("snapshot") == [{"domid": 1, "name": "hello-1"}]


async def test_snapshot_and_restore_by_keys() -> None:
    async with desk() as at:
        await at.press("j", "S", "S")
        assert [args["name"] for args in at.sent("snapshot")] == ["hello-1", "hello-2"]
        await at.press("R")
        await at.pilot.pause()
        assert isinstance(at.front(), SnapshotsScreen)
        await at.press("enter")
        assert at.sent("restore") == [{"domid": 1, "name": "hello-1"}] or at.sent("restore") == [{"domid": 1, "name": "hello-2"}]
        await at.press("escape")
        assert isinstance(at.front(), OverviewScreen)


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
