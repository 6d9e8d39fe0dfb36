"""The network screen: who is on which network, what flows, what is lost and why, and the last frames."""

from __future__ import annotations

from typing import Any

import pytest

from emulator.control.networkviews import DropView, NetworksView, NetworkView, VifView
from tests.patience import soon
from tests.ui.desk import desk
from tests.ui.fake_details import RichEngine
from tests.ui.host_bench import SIZES, host_bench, host_picture
from xenconsole.explain import explain
from xenconsole.screens.domain import DomainScreen
from xenconsole.screens.networks import NetworksScreen
from xenconsole.widgets.lines import plain
from xenconsole.widgets.network_list import NetworkList
from xenconsole.widgets.network_panes import PacketsPane, drop_lines
from xenconsole.widgets.pane import Pane

PANES = ("#networks", "#vif", "#addresses", "#packets")


class Quiet(RichEngine):
    """No network at all."""

    async def networks(self) -> NetworksView:
        return NetworksView()


async def test_n_and_7_open_it() -> None:
    async with desk(RichEngine()) as at:
        for key in ("n", "7"):
            await at.press(key)
            assert isinstance(at.front(), NetworksScreen), key
            await at.press("escape")


async def test_interfaces_stand_under_their_network_with_rates_and_losses() -> None:
    async with host_bench(NetworksScreen) as b:
        text = b.text("#networks")
        rows = text.splitlines()
        assert [row.split()[0] for row in rows[1:]] == ["net0", "▸", "4", "quiet", "4"], text
        assert "684K" in rows[2] and "●" in rows[2] and "uplink 10.0.2.0/24" in rows[1]
        assert "77" in rows[3] and "!" in rows[3]
        assert "closing/connected"[:9] in rows[5]


async def test_slash_narrows_the_frames() -> None:
    async with host_bench(NetworksScreen) as b:
        every = b.text("#packets")
        word = next(word for word in ("ICMP", "ARP", "UDP", "tcp") if word in every)
        await b.press("slash", *word.lower(), "enter")
        matching = b.text("#packets").splitlines()
        assert matching and all(word in line for line in matching if line.strip()) and f"/{word.lower()}" in str(b.pane(PacketsPane).border_title)
        await b.press("escape")
        assert b.text("#packets") == every and isinstance(b.app.screen, NetworksScreen)


async def test_the_chosen_interface_is_told_with_its_drops_and_why() -> None:
    async with host_bench(NetworksScreen) as b:
        assert "vif3.0" in str(b.screen.query_one("#vif", Pane).border_title) and "● records" in b.text("#vif")
        await b.press("down")
        await b.turn()
        text = b.text("#vif")
        assert "stalled: frames wait" in text and "77 no receive buffers" in text and "122 KiB/s, waits for credit now" in text
        assert b.screen.domid == 4
        await b.press("enter")
        assert isinstance(b.app.screen, DomainScreen) and (b.app.screen.domid, b.app.screen.tab) == (4, "rings")


async def test_a_networks_line_shows_uplink_leases_services_and_flows() -> None:
    async with host_bench(NetworksScreen) as b:
        await b.press("g")
        await b.turn()
        text = b.text("#vif")
        assert "10.0.2.2" in text and "127.0.0.1:8000" in text and "ESTABLISHED" in text and b.screen.domid == -1
        await b.press("C")
        assert not b.engine.commands, "a network's own line has no interface to capture"


async def test_the_table_tells_what_is_fixed_and_what_was_learned_and_who_forged() -> None:
    async with host_bench(NetworksScreen) as b:
        text = b.text("#addresses")
        assert "its own" in text and "02:00:00:00:00:99" in text and "9 s ago" in text and "31 vif4.0: from another's address" in text


async def test_frames_are_told_once_each_and_follow_the_chosen_interface() -> None:
    async with host_bench(NetworksScreen) as b:
        await b.turn(2)
        text = b.text("#packets")
        assert text.count("ICMP echo request") == 1 and "to uplink" in text
        await b.press("down")
        await b.turn()
        assert "ICMP" not in b.text("#packets") and "from another's address" in b.text("#packets")


async def test_one_key_captures() -> None:
    async with host_bench(NetworksScreen) as b:
        await b.press("C")
        await soon(lambda: b.engine.commands)
        await b.pilot.pause()
        assert b.engine.commands == [("capture", {"domid": 3, "vif": "0"})]
        assert b.app.command_journal.entries[-1].text.startswith("tcpdump -i vif3.0")


async def test_history_grows_and_the_wait_is_a_mean_of_what_came() -> None:
    class Waiting(RichEngine):
        async def networks(self) -> NetworksView:
            seconds = self.now_ns // 250_000_000
            return NetworksView((NetworkView("net0"),), (VifView(3, 0, "vif3.0", network="net0", waited=10 * seconds, wait_ns=2_000_000 * seconds),))

    async with host_bench(NetworksScreen, engine=Waiting()) as b:
        await b.turn(3)
        assert " 200 µs" in b.text("#networks")
        assert b.pane(NetworkList).history.of("vif3.0", "wait_us")[-3:] == (200.0, 200.0, 200.0)


async def test_without_a_network_it_says_how_to_make_one() -> None:
    async with host_bench(NetworksScreen, engine=Quiet()) as b:
        assert "no network yet" in b.text("#networks") and "bridge=net0" in b.text("#networks")
        await b.press("down", "enter", "C", "tab", "i", "escape")


async def test_the_cursor_stays_on_its_interface() -> None:
    class Shrinks(RichEngine):
        gone = False

        async def networks(self) -> NetworksView:
            view = await super().networks()
            return NetworksView(view.networks, view.vifs[1:]) if self.gone else view

    engine = Shrinks()
    async with host_bench(NetworksScreen, engine=engine) as b:
        await b.press("down")
        engine.gone = True
        await b.turn()
        assert b.pane(NetworkList).vif.name == "vif4.0"
        await b.press("G", "k")
        assert b.pane(NetworkList).network.name == "quiet"


def test_reasons_stand_with_the_most_frequent_first_and_without_control_characters() -> None:
    text = plain(drop_lines((DropView("few\x1b[2J", 3), DropView("many", 40_000)), 60))
    assert text.splitlines()[0].strip() == "40,000 many" and "\x1b" not in text


@pytest.mark.parametrize("size", [(60, 15), (80, 24), (240, 70)])
async def test_every_field_is_explained_at_every_size(size: tuple[int, int]) -> None:
    async with host_bench(NetworksScreen, size) as b:
        for key in ("j", "g", "G"):
            await b.press(key)
            for name in PANES:
                pane = b.screen.query_one(name, Pane)
                assert all(explain(span.field) for spans in pane.lines for span in spans if span.field), name
                assert "\x1b" not in plain(pane.shown())
        await b.press("tab", "tab", "tab", "tab", "i")
        assert b.explained


@pytest.mark.parametrize("size", SIZES)
def test_picture(snap_compare: Any, size: tuple[int, int]) -> None:
    assert host_picture(snap_compare, NetworksScreen, size, "down")


def test_picture_of_an_uplink_in_light_colours(snap_compare: Any) -> None:
    assert host_picture(snap_compare, NetworksScreen, (120, 40), "g", theme="light")
