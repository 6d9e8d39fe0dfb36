"""The domain screen: each tab pulls its own parts, keys do what they say, and a domain's death is told calmly."""

from __future__ import annotations

import msgspec
import pytest
from textual.strip import Strip

from emulator.control.views import TraceLine, TraceView
from emulator.errors import UserError
from tests.patience import soon
from tests.ui.domain_bench import bench
from tests.ui.fake_details import RichEngine
from xenconsole.app import ConsoleApp
from xenconsole.screens.domain import DomainScreen
from xenconsole.screens.domain_tabs import PARTS, TABS
from xenconsole.widgets.domain_bar import Banner, DomainBar, ExplainBar
from xenconsole.widgets.domain_summary import CrashPane, LifePane
from xenconsole.widgets.lines import plain
from xenconsole.widgets.pane import Pane
from xenconsole.widgets.ports_panel import PortsPanel
from xenconsole.widgets.snapshots_panel import SnapshotList
from xenconsole.widgets.trace_panel import TracePanel
from xenconsole.widgets.vcpu_panel import RegistersPane, VcpuList


async def test_each_tab_asks_for_its_own_parts_and_no_others() -> None:
    async with bench() as b:
        for at, (name, _) in enumerate(TABS):
            b.engine.asked.clear()
            await b.press(str(at + 1))
            assert b.screen.tab == name
            assert {parts for _, parts in b.engine.asked} == {PARTS[name]}


async def test_brackets_go_round_the_tabs() -> None:
    async with bench() as b:
        await b.press("]")
        assert b.screen.tab == "vcpus"
        await b.press("[", "[")
        assert b.screen.tab == "devices"


@pytest.mark.parametrize("size", [(60, 15), (80, 24), (120, 40), (240, 70)])
async def test_every_tab_has_something_to_show_at_every_size(size: tuple[int, int]) -> None:
    async with bench(size=size) as b:
        for name, _ in TABS:
            b.screen.show_tab(name)
            await b.turn()
            pane = b.screen.front_pane()
            assert pane.has_focus
            assert pane.region.width > 20 and pane.region.height > 3
            assert any(span.text.strip() for spans in pane.lines for span in spans), name
            shown = [p for p in b.screen.query(f"#tab-{name} Pane").results(Pane) if p.region.area]
            assert len(shown) == 1 or size[0] >= 100


async def test_the_summary_tells_life_and_the_last_words() -> None:
    async with bench() as b:
        assert "debian" in b.text("#life") and "256 MiB" in b.text("#life")
        assert "Run /init as init process" in b.text("#tail")
        b.engine.say(4, b"\x1b[32mhello\x1b[0m\r\n")
        await b.turn()
        assert b.text("#tail").endswith("~ # hello")


async def test_a_vcpu_is_chosen_with_the_arrows_and_its_changes_are_marked() -> None:
    async with bench(tab="vcpus") as b:
        assert "ffff88800f800000" in b.text("#registers")
        assert "•" in b.text("#registers")
        await b.press("right")
        assert b.screen.query_one(VcpuList).cursor == 1
        assert "ffff88800f880000" in b.text("#registers")
        assert b.screen.query_one(RegistersPane).border_title == "registers of vCPU 1"


async def test_ports_have_rates() -> None:
    async with bench(tab="events") as b:
        await b.turn(8)
        assert b.screen.query_one(PortsPanel).rates["3"] > 100
        assert "VIRQ_TIMER" in b.text("#ports") and "2 pending" in str(b.screen.query_one(PortsPanel).border_subtitle)


async def test_the_trace_goes_on_at_its_end_and_waits_while_somebody_reads() -> None:
    async with bench(tab="trace") as b:
        trace = b.screen.query_one(TracePanel)
        last = trace.lines[-1]
        await b.turn()
        assert trace.at_end and trace.lines[-1] != last
        await b.press("g")
        top = trace.lines[trace.top]
        await b.turn(3)
        assert trace.lines[trace.top] == top and "held" in str(trace.border_title)
        await b.press("G")
        assert "held" not in str(trace.border_title)


async def test_the_trace_is_filtered_while_the_filter_is_typed_and_esc_takes_it_away() -> None:
    async with bench(tab="trace") as b:
        await b.press("slash", *"EINV")
        assert {"mmu_update"} == {row.split("(")[0].split()[-1] for row in b.text("#trace").splitlines() if "EINV" in row}
        assert "sched_op" not in b.text("#trace")
        await b.press("enter")
        assert b.screen.query_one(TracePanel).has_focus
        await b.press("slash", "escape")
        assert "sched_op" in b.text("#trace")
        assert b.screen.is_current


async def test_a_flood_is_cut_and_the_filter_still_sees_all_of_it() -> None:
    async with bench(tab="trace") as b:
        trace = b.screen.query_one(TracePanel)
        calls = [TraceLine(seq=trace.seq + n, vtime_ns=n, vcpu=0, kind="hypercall", name="iret", detail="", result="") for n in range(1, 3001)]
        calls[7] = msgspec.structs.replace(calls[7], result="-EPERM", reason="only Domain-0 may")
        trace.show(TraceView(lines=tuple(calls), seq=calls[-1].seq))
        assert "2,700 more" in b.text("#trace") and "EPERM" not in b.text("#trace").split("more")[1]
        trace.set_filter("EPERM")
        assert "only Domain-0 may" in b.text("#trace")


async def test_the_chosen_call_has_its_latencies_drawn() -> None:
    async with bench(tab="trace") as b:
        await b.press("right")
        assert b.screen.query_one("#latency", Pane).border_title == "latency of iret"
        assert "6,092 timed" in b.text("#latency")


async def test_a_field_is_explained_with_its_name_in_xens_headers() -> None:
    async with bench(tab="vcpus") as b:
        await b.press("i")
        assert "rax — general register" in b.text("#explain") and "cpu_user_regs" in b.text("#explain")
        await b.press("down")
        assert "rbx" in b.text("#explain")
        await b.press("escape")
        assert not b.screen.query_one(ExplainBar).display
        assert b.screen.is_current


async def test_a_click_on_a_field_explains_it() -> None:
    async with bench(tab="vcpus") as b:
        await b.pilot.click("#registers", offset=(8, 1))
        await b.pilot.pause()
        assert "rax" in b.text("#explain")


async def test_zoom_shows_the_focused_pane_alone() -> None:
    async with bench(tab="memory") as b:
        await b.press("tab", "z")
        assert b.screen.query_one("#legend").region.width == 120
        assert not b.screen.query_one("#map").region.area
        await b.press("escape")
        assert b.screen.query_one("#map").region.area and b.screen.is_current


async def test_another_domain_comes_in_the_same_tab() -> None:
    async with bench(domid=3, tab="vcpus") as b:
        await b.press("greater_than_sign")
        assert (b.screen.domid, b.screen.tab) == (4, "vcpus")
        assert "debian" in plain(b.screen.query_one(DomainBar).lines)
        await b.press("less_than_sign", "less_than_sign")
        assert b.screen.domid == 2


async def test_nothing_is_pulled_while_the_display_is_frozen() -> None:
    engine = RichEngine()
    app = ConsoleApp(engine, delay=0)
    async with app.run_test(size=(120, 40)) as pilot:
        await app.tick()
        screen = DomainScreen(engine, 4, "trace", hertz=20)
        await app.push_screen(screen)
        await soon(lambda: len(engine.asked) > 2)
        await pilot.press("f")
        await soon(lambda: "FROZEN" in plain(screen.query_one(DomainBar).lines))
        await pilot.pause()
        engine.asked.clear()
        await pilot.pause(0.15)
        assert not engine.asked
        assert "FROZEN" in plain(screen.query_one(DomainBar).lines)


# snapshots


async def test_a_snapshot_is_taken_listed_and_deleted() -> None:
    async with bench(tab="snapshots") as b:
        await b.press("S")
        assert ("snapshot", {"domid": 4, "name": "debian-1"}) in b.engine.commands
        assert "debian-1" in b.text("#snapshot-list")
        b.app.settings = type(b.app.settings)(confirm="never")
        await b.press("g", "d")
        assert b.engine.commands[-1] == ("forget", {"domid": 4, "name": "debian-1"})
        assert "debian-1" not in b.text("#snapshot-list")


async def test_a_restore_says_first_that_the_present_is_kept() -> None:
    async with bench(tab="snapshots") as b:
        await b.press("down", "R")
        assert "Go back to before-upgrade?" in b.text("#snapshot-list")
        assert "snapshotted first" in b.text("#snapshot-list")
        assert not b.engine.commands
        await b.press("escape")
        assert "Go back" not in b.text("#snapshot-list") and b.screen.is_current
        await b.press("R", "y")
        assert b.engine.commands == [("restore", {"domid": 4, "name": "before-upgrade"})]
        assert "before restore" in b.text("#snapshot-list")


async def test_restore_from_another_tab_asks_on_the_snapshots_tab() -> None:
    async with bench(tab="vcpus") as b:
        await b.press("R")
        assert b.screen.tab == "snapshots"
        assert "Go back to before restore of fresh?" in b.text("#snapshot-list")


async def test_the_cursor_stays_on_its_snapshot_when_a_newer_one_comes() -> None:
    async with bench(tab="snapshots") as b:
        await b.press("down")
        chosen = b.screen.query_one(SnapshotList).chosen
        await b.press("S")
        assert b.screen.query_one(SnapshotList).chosen == chosen


# death


async def test_a_crashed_guest_shows_its_report() -> None:
    async with bench(domid=5) as b:
        assert b.screen.query_one(CrashPane).region.area
        text = b.text("#crash")
        assert "triple fault" in text and "rip" in text and "rogue: lidt" in text
        await b.press("2")
        assert "crashed" in plain(b.screen.query_one(Banner).lines)


async def test_a_domain_that_is_gone_keeps_its_last_view_and_says_why() -> None:
    async with bench(domid=3, tab="vcpus") as b:
        before = b.text("#registers")
        b.engine.end(3, "poweroff")
        await b.turn(2)
        assert "this domain is gone: powered off" in plain(b.screen.query_one(Banner).lines)
        assert b.text("#registers") == before
        assert "GONE" in plain(b.screen.query_one(DomainBar).lines)
        await b.press("escape")
        assert not b.screen.is_attached


async def test_a_domain_that_crashed_and_is_gone_shows_the_report_that_was_kept() -> None:
    async with bench(domid=3, tab="memory") as b:
        b.engine.end(3, "crash", crash="page fault in the upcall handler")
        await b.turn(2)
        assert b.screen.tab == "summary"
        assert "page fault in the upcall handler" in b.text("#crash")
        assert "gone: crashed" in plain(b.screen.query_one(Banner).lines)


async def test_enter_follows_a_domain_that_was_restarted() -> None:
    async with bench(domid=3) as b:
        b.engine.end(3, "reboot", restarted_as=4)
        await b.turn(2)
        assert "runs again as domain 4" in plain(b.screen.query_one(Banner).lines)
        await b.press("enter")
        assert b.screen.domid == 4 and not b.screen.gone
        assert not b.screen.query_one(Banner).display
        assert "debian" in plain(b.screen.query_one(LifePane).lines)


async def test_a_refusal_is_told_and_the_next_pull_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    async with bench() as b:

        async def refuse(domid: int, parts: tuple[str, ...], since_trace: int = 0) -> None:
            raise UserError("busy", where="domain 4")

        with monkeypatch.context() as patch:
            patch.setattr(b.engine, "detail", refuse)
            await b.turn()
            assert "domain 4: busy" in plain(b.screen.query_one(Banner).lines)
        await b.turn()
        assert not b.screen.query_one(Banner).display and not b.screen.gone


async def test_a_lost_engine_leaves_the_last_view() -> None:
    async with bench(tab="memory") as b:
        before = b.text("#legend")
        b.engine.lose()
        await b.screen.pull()
        await b.pilot.pause()
        assert b.text("#legend") == before


async def test_what_a_guest_names_itself_is_shown_and_never_obeyed() -> None:
    async with bench(domid=3) as b:
        b.engine.domains[3].name = "[red]\x1b[2Jx[/]"
        await b.turn()
        assert "[red]·[2Jx[/]" in plain(b.screen.query_one(DomainBar).shown())
        assert "[red]·[2Jx[/]" in plain(b.screen.query_one(LifePane).shown())


async def test_only_changed_lines_are_painted_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async with bench(tab="vcpus") as b:
        pane = b.screen.query_one(RegistersPane)
        painted: list[int] = []
        inner = pane.render_line

        def paint(y: int) -> Strip:
            painted.append(y)
            return inner(y)

        monkeypatch.setattr(pane, "render_line", paint)
        await b.screen.pull()
        await b.pilot.pause()
        assert not painted, "the same view twice"
        await b.turn()
        assert 0 < len(set(painted)) < 12
