"""The rings of a domain: which is shown, what is remembered of them."""

from __future__ import annotations

from emulator.control.views import RingView
from tests.ui.domain_bench import bench
from xenconsole.screens.domain import DomainScreen
from xenconsole.widgets.ring_wheel import RingList, RingWheel


async def test_a_console_shows_both_its_wheels_and_a_disk_one() -> None:
    async with bench(tab="rings") as b:
        assert b.screen.query_one("#wheel", RingWheel).ring is not None
        assert "in the backend's hands" in b.text("#wheel"), "a device's ring first: those of console and xenstore mostly stand still"
        assert not b.screen.query_one("#wheel-pair").display
        await b.press("right")
        assert "STALLED" in b.text("#wheel")
        await b.press("g")
        names = [wheel.ring.name for wheel in b.screen.query(RingWheel) if wheel.ring is not None]
        assert names == ["console out", "console in"]


def test_the_chosen_ring_is_kept_when_others_come_and_go() -> None:
    rings = tuple(RingView(name=name, kind=kind) for name, kind in (("console out", "console-out"), ("xvda", "block"), ("xvdb", "block")))
    chooser = RingList()
    chooser.show(rings[:1], {})
    assert chooser.cursor == 0
    chooser.show(rings, {})
    assert chooser.cursor == 1, "a device's has come, and nobody chose"
    chooser._held = "xvdb"
    chooser.show((rings[0], rings[2]), {})
    assert chooser.cursor == 1
    chooser.show(rings, {})
    assert chooser.cursor == 2


async def test_a_producer_goes_round_and_its_rate_is_shown() -> None:
    async with bench(tab="rings") as b:
        await b.press("g")
        before = b.text("#wheel")
        await b.turn(8)
        assert b.text("#wheel") != before
        assert "moving" in b.text("#wheel")
        assert b.screen.query_one(RingList).rates["console out"] > 200


async def test_the_history_of_a_device_outlives_the_screen() -> None:
    async with bench(tab="rings") as b:
        await b.turn(8)
        device = b.screen.tabs.flow_views[0].device
        points = b.app.flows.of(4).history.of(device, "done")
        assert len(points) >= 3
        await b.press("escape")
        assert not isinstance(b.app.screen, DomainScreen)
        again = DomainScreen(b.engine, 4, "rings", hertz=0, clock=lambda: b.engine.now_ns / 1e9)
        await b.app.push_screen(again)
        b.screen = again
        await b.turn(4)
        assert again.tabs.flows.history.of(device, "done")[: len(points)] == points
        b.engine.domains.pop(4)
        await b.app.tick()
        assert not b.app.flows.of(4).history.of(device, "done"), "a new domain of that ID begins anew"
