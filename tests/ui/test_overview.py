"""The overview and the app's shell: table, commands, dialogs, prompt, views, the engine's loss."""

from __future__ import annotations

from typing import Any

import pytest
from textual.widgets._footer import FooterKey

from tests.patience import soon
from tests.ui.desk import desk
from xenconsole.screens.confirm import ConfirmScreen
from xenconsole.screens.domain import DomainScreen
from xenconsole.screens.overview import OverviewScreen
from xenconsole.screens.prompt import PromptScreen
from xenconsole.settings import Settings
from xenconsole.widgets.domain_table import DomainTable


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


async def test_the_log_tells_who_a_domain_was_that_is_gone() -> None:
    async with desk() as at:
        at.engine.log(77, "info", "ended: poweroff", "rogue")
        at.engine.log(78, "info", "of an older engine")
        await at.tick()
        assert [entry.source for entry in at.app.events.entries][-2:] == ["rogue", "domain 78"]


async def test_domain_zero_has_no_console() -> None:
    async with desk() as at:
        await at.press("g", "c")
        assert isinstance(at.front(), OverviewScreen)
        assert any("no console" in str(toast.message) for toast in at.app._notifications)


async def test_the_keys_of_help_and_quit_are_seen_in_the_narrowest_terminal() -> None:
    async with desk(size=(60, 20)) as at:
        shown = [key.description for key in at.front().query(FooterKey) if key.display]
        assert shown[-2:] == ["help", "quit"] and "pause" not in shown
        await at.pilot.resize_terminal(120, 30)
        assert all(key.display for key in at.front().query(FooterKey))


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
        await soon(lambda: at.sent("snapshot"))
        assert at.sent("snapshot") == [{"domid": 1, "name": "hello-1"}]


async def test_snapshot_and_restore_by_keys() -> None:
    async with desk() as at:
        await at.press("j", "S", "S")
        assert [args["name"] for args in at.sent("snapshot")] == ["hello-1", "hello-2"]
        await at.press("R")
        await soon(lambda: isinstance(at.front(), DomainScreen))
        await at.pilot.pause(0.5)
        front = at.front()
        assert isinstance(front, DomainScreen) and (front.domid, front.tab) == (1, "snapshots")
        await at.press("R")
        assert not at.sent("restore"), "it asks first"
        await at.press("y")
        await soon(lambda: at.sent("restore"))
        assert [args["name"] for args in at.sent("restore")] in (["hello-1"], ["hello-2"])
        await at.press("escape")
        assert isinstance(at.front(), OverviewScreen)


async def test_a_dialog_takes_away_the_messages_that_would_lie_over_it() -> None:
    async with desk() as at:
        await at.press("colon", *"nonsense", "enter")
        assert any("no command" in note.message for note in at.app._notifications)
        await at.press("j", "D")
        assert not list(at.app._notifications)
