"""A frame is picked in the memory map: what it is, who maps it where, and the host's pool."""

from __future__ import annotations

from emulator.control.memoryviews import FrameView
from tests.ui.domain_bench import bench
from xenconsole.explain import explain
from xenconsole.widgets.frame_panel import FramePane, frame_lines, summary
from xenconsole.widgets.lines import plain
from xenconsole.widgets.memory_map import MemoryMap


async def test_a_frame_is_picked_with_the_arrows_and_let_go_with_esc() -> None:
    async with bench(tab="memory") as b:
        chart = b.screen.query_one(MemoryMap)
        assert chart.has_focus and chart.picked == -1
        await b.press("right", "right", "down", "full_stop")
        await b.app.workers.wait_for_complete([w for w in b.app.workers if w.group == "frame"])
        await b.pilot.pause()
        assert chart.picked > 1 and chart.picked % 2 == 1
        shown = b.text("#frame")
        assert f"pfn {chart.picked:x} → mfn {chart.picked + 0x200:x}" in shown
        assert "L1 table ×1" in shown and "references 3" in shown and "pinned" in shown
        assert f"{0xFFFF888000000000 + (chart.picked << 12):016x}" in shown and "and 68 more" in shown
        assert b.screen.query_one(FramePane).region.area and not b.screen.query_one("#scatter").region.area
        await b.press("escape")
        assert chart.picked == -1 and b.app.screen is b.screen
        assert b.screen.query_one("#scatter").region.area


async def test_in_a_narrow_terminal_the_last_line_tells_of_it_and_tab_leads_to_the_rest() -> None:
    async with bench(tab="memory", size=(80, 24)) as b:
        await b.press("right")
        await b.app.workers.wait_for_complete([w for w in b.app.workers if w.group == "frame"])
        await b.pilot.pause()
        assert "named by 70" in b.text("#map")
        await b.press("tab", "tab")
        assert b.screen.query_one(FramePane).has_focus


async def test_the_pool_is_shown_and_every_field_is_explained() -> None:
    async with bench(tab="memory") as b:
        assert "pool" in b.text("#legend") and "free of 2G" in b.text("#legend")
        await b.press("right")
        await b.app.workers.wait_for_complete([w for w in b.app.workers if w.group == "frame"])
        await b.pilot.pause()
        keys = {span.field for spans in b.screen.query_one(FramePane).lines for span in spans if span.field}
        assert keys and all(explain(key) for key in keys), keys


def test_a_hole_is_told_as_one() -> None:
    view = FrameView(0x9000, owner="nobody")
    assert "hole" in summary(view) and "hole" in plain(frame_lines(view, 60))
