"""Grants and refusals in the events tab: who uses what, why something was refused, and the filter."""

from __future__ import annotations

from emulator.control.views import GrantsView, GrantView, RefusalView
from tests.ui.domain_bench import bench
from xenconsole.explain import explain
from xenconsole.widgets.grants_panel import GrantsPane, RefusalsPane, grant_lines, refusal_lines
from xenconsole.widgets.lines import plain


async def test_the_events_tab_tells_of_grants_and_refusals_newest_first() -> None:
    async with bench(tab="events") as b:
        grants, refusals = b.text("#grants"), b.text("#refusals")
        assert "0 Domain-0" in grants and "read-only" in grants and "domain 0: 1 writing" in grants
        assert "3 shell" in grants and "host, read-only" in grants
        assert refusals.index("-ENOENT") < refusals.index("-ENOMEM") < refusals.index("-EINVAL")
        assert "maps a page-table frame writable" in " ".join(refusals.split())


async def test_refusals_are_filtered_while_the_filter_is_typed() -> None:
    async with bench(tab="events", size=(80, 24)) as b:
        await b.press("slash", *"eperm")
        assert b.screen.front_pane().id == "refusals"
        assert b.text("#refusals").count("EPERM") == 2 and "EINVAL" not in b.text("#refusals")
        await b.press("enter")
        assert b.screen.query_one(RefusalsPane).has_focus and b.text("#refusals").count("EPERM") == 2
        await b.press("slash", "escape")
        assert "EINVAL" in b.text("#refusals")


async def test_in_a_narrow_terminal_tab_leads_to_the_grants() -> None:
    async with bench(tab="events", size=(80, 24)) as b:
        await b.press("tab")
        assert b.screen.query_one(GrantsPane).has_focus and b.screen.query_one(GrantsPane).region.width >= 78


def test_what_a_guest_writes_does_not_break_the_lines() -> None:
    view = GrantsView(given=(GrantView(1 << 31, 0x7FF0, "access", -1, "x" * 200),))
    assert all(len(row) <= 40 for row in plain(grant_lines(view, 40, str)).splitlines())
    entry = RefusalView(5, "mmu_update", "EINVAL", "word " * 60)
    for width in (30, 76, 140):
        assert all(len(row) <= width for row in plain(refusal_lines(entry, width)).splitlines())


async def test_every_new_field_is_explained() -> None:
    async with bench(tab="events") as b:
        for name in ("#grants", "#refusals"):
            pane = b.screen.query_one(name, GrantsPane if name == "#grants" else RefusalsPane)
            keys = {span.field for spans in pane.lines for span in spans if span.field}
            assert keys and all(explain(key) for key in keys), keys


async def test_a_run_of_refusals_that_differ_in_numbers_alone_is_one_line_until_it_is_filtered() -> None:
    async with bench(tab="events") as b:
        pane = b.screen.query_one(RefusalsPane)
        asked = tuple(RefusalView(n, "vcpu_op", "ENOENT", f"vCPU {n} does not exist") for n in range(400))
        pane.show((*asked, RefusalView(500, "xenpmu_op", "ENOSYS", "hypercall 40 is not there")))
        assert "and 399 like it" in b.text("#refusals") and b.text("#refusals").count("ENOENT") == 1
        pane.set_filter("ENOENT")
        assert b.text("#refusals").count("ENOENT") == 400
