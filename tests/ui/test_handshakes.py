"""The devices tab: two lanes of states a device, and a sentence on who waits for whom."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from emulator.control.handshakeviews import HandshakeStepView, HandshakeView
from tests.ui.domain_bench import bench
from tests.ui.fake_handshakes import handshake_views
from tests.ui.test_domain_pictures import picture
from xenconsole.explain import explain
from xenconsole.widgets.handshake_panel import HandshakePane, lanes, sentence
from xenconsole.widgets.lines import plain, width_of
from xenconsole.widgets.pane import Pane

DISK, CARD, BAD = handshake_views(4, 0)
NOW = DISK.since_unix + 40


def test_the_sentence_names_the_drivers_and_how_long() -> None:
    assert sentence(DISK, NOW) == ("both ends are content, for 40 s", "ok")
    said, style = sentence(CARD, CARD.since_unix + 125)
    assert said.startswith("netback waits for netfront to grant a ring") and said.endswith(", for 2 min") and style == "notice"
    assert sentence(BAD, NOW)[1] == "trouble"
    assert sentence(HandshakeView("x", "new", 0, backend="closed"), 0.0) == ("nobody waits: the device is closed", "dim")


def test_lanes_show_each_state_from_its_moment_on() -> None:
    front, back, marks = plain(lanes(DISK, NOW, 110)).splitlines()
    names = [piece for piece in front.replace("─", " ").replace("▏", " ").split() if piece]
    assert names == ["frontend", "initialising", "initialised", "connected"]
    assert [p for p in back.replace("─", " ").replace("▏", " ").split() if p] == ["backend", "initiali…", "init-wait", "connected"]
    assert back.index("▏connected") < front.index("▏connected"), "the back end was there first"
    assert front.index("▏initialised") > back.index("▏init-wait") and "4 ms" in marks and "1.2 s" in marks


@pytest.mark.parametrize("width", range(1, 130, 7))
def test_lanes_keep_their_width_however_many_steps_there_are(width: int) -> None:
    flapping = tuple(HandshakeStepView(n * 0.5, ("frontend", "backend")[n % 2], "connected", "closing") for n in range(64))
    for view in (DISK, CARD, BAD, msgspec.structs.replace(DISK, steps=flapping), HandshakeView("x", "vbd", 1)):
        for at in (0.0, NOW):
            assert all(width_of(spans) <= max(width, 24) for spans in lanes(view, at, width))


async def test_the_tab_tells_of_every_device_and_spells_out_the_chosen_one() -> None:
    async with bench(4, "devices") as b:
        text = b.text("#device-list")
        assert "blkfront – blkback  both ends are content" in text and "netback waits for netfront" in text
        steps = b.text("#handshake")
        assert "front ──▸  initialising → initialised" in steps and "ring-ref=8  event-channel=20" in steps
        await b.pilot.press("down", "down")
        await b.pilot.pause()
        steps = b.text("#handshake")
        assert "closed: req_prod 0x901" in steps and "3 earlier steps" in steps and "\x1b" not in steps


async def test_a_domain_without_devices_says_how_to_get_one() -> None:
    async with bench(3, "devices") as b:
        assert "no device" in b.text("#device-list")
        assert "no device is chosen" in plain(b.screen.query_one(HandshakePane).lines)
        await b.pilot.press("down", "i", "tab", "z")


@pytest.mark.parametrize("size", [(60, 15), (80, 24), (240, 70)])
async def test_every_field_is_explained(size: tuple[int, int]) -> None:
    async with bench(4, "devices", size) as b:
        for name in ("#device-list", "#handshake"):
            for spans in b.screen.query_one(name, Pane).lines:
                assert all(explain(span.field) for span in spans if span.field)


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (200, 55)])
def test_picture(snap_compare: Any, size: tuple[int, int]) -> None:
    assert picture(snap_compare, size, 4, "devices", "down")

