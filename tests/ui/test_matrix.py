"""The matrix of what domains share: who with whom, and what lies behind a cell."""

from __future__ import annotations

from typing import Any

import pytest

from emulator.control.views import LinkView
from tests.ui.desk import desk
from tests.ui.fake_details import RichEngine
from tests.ui.fake_engine import FakeDomain
from tests.ui.host_bench import SIZES, host_bench, host_picture
from xenconsole.explain import explain
from xenconsole.screens.domain import DomainScreen
from xenconsole.screens.matrix import MatrixScreen
from xenconsole.text_filter import TextFilter
from xenconsole.widgets.lines import plain
from xenconsole.widgets.link_matrix import CELL, NAME, LinkMatrix, axes, cell_spans, with_domain0
from xenconsole.widgets.pane import Pane


async def test_m_and_6_open_it_esc_leaves_and_minus_comes_back() -> None:
    async with desk(RichEngine()) as at:
        for key in ("m", "6"):
            await at.press(key)
            assert isinstance(at.front(), MatrixScreen), key
            await at.press("escape")
        await at.press("m", "l", "minus")
        assert isinstance(at.front(), MatrixScreen)


async def test_a_cell_tells_channels_pending_grants_and_rate() -> None:
    async with host_bench(MatrixScreen, (200, 55)) as b:
        await b.turn(8)
        rows = b.text("#links").splitlines()
        assert "0 Domain-0" in rows[0] and "3 shell" in rows[0]
        debian = next(row for row in rows if "4 debian" in row and "!" in row)
        assert debian.split()[2:6] == ["2", "!1", "3/16", "608"]
        assert "two" not in debian and "1/1" in next(row for row in rows[2:] if "3 shell" in row)


async def test_the_pair_under_the_cursor_is_spelled_out() -> None:
    async with host_bench(MatrixScreen) as b:
        await b.press("down", "down", "down")
        await b.turn(2)
        assert b.screen.domid == 4 and "4 debian with 0 Domain-0" in str(b.screen.query_one("#link", Pane).border_title)
        text = b.text("#link")
        assert "(xvda)" in text and "VIRQ_TIMER" not in text and "16 granted" in text
        assert "domain 0: 1 reading" in text
        while b.pane(LinkMatrix).column != 3:
            await b.press("right")
        await b.turn()
        assert "part of a page" in b.text("#link") and "host, read-only" in b.text("#link") and "(xvda)" not in b.text("#link")
        await b.press("enter")
        assert isinstance(b.app.screen, DomainScreen) and b.app.screen.domid == 4


async def test_domain_0_has_a_row_of_its_back_ends_and_what_they_use() -> None:
    async with host_bench(MatrixScreen, (200, 55)) as b:
        await b.turn(8)
        row = next(row for row in b.text("#links").splitlines()[2:] if "0 Domain-0" in row)
        assert "in 3" in row and "608" in row, "the other end of debian's channels: as many events, three of its frames in use"
        await b.press("up", "down", "up", *["right"] * 4)
        await b.turn()
        assert b.pane(LinkMatrix).row == 0 and b.pane(LinkMatrix).column == 4
        text = b.text("#link")
        assert "far ends of debian's channels" in text and "(xvda)" in text and "6 frames of debian in use" in text
        assert "part of a page" not in text, "granted to another"
        await b.press(*["left"] * 8)
        await b.turn()
        assert "Domain-0 with itself" in b.text("#link")


def test_of_domain_0_only_the_far_ends_are_made() -> None:
    there = (LinkView(3, 0, 2, 1, 1, 50, 9, 4), LinkView(3, 4, 1, mapped=2))
    assert with_domain0(there) == {(3, 0): there[0], (3, 4): there[1], (0, 3): LinkView(0, 3, 2, events=50, mapped=4)}


async def test_the_cursor_stays_on_its_domain_while_others_come_and_go() -> None:
    async with host_bench(MatrixScreen) as b:
        await b.press("down", "down", "down")
        del b.engine.domains[2]
        await b.turn()
        assert b.screen.domid == 4
        del b.engine.domains[4]
        await b.turn()
        assert b.screen.domid == 5, "the next one, as its own is gone"


async def test_without_a_guest_it_says_what_to_do() -> None:
    engine = RichEngine()
    for domid in [d for d in engine.domains if d]:
        del engine.domains[domid]
    async with host_bench(MatrixScreen, engine=engine) as b:
        assert "no guest runs" in b.text("#links") and ":create" in b.text("#links")
        await b.press("down", "right", "enter", "i", "G")
        assert isinstance(b.app.screen, MatrixScreen)


async def test_a_thousand_domains_build_only_what_is_seen() -> None:
    engine = RichEngine()
    for domid in range(6, 1001):
        engine.domains[domid] = FakeDomain(domid, f"small-{domid}")
    async with host_bench(MatrixScreen, engine=engine) as b:
        matrix = b.pane(LinkMatrix)
        assert len(matrix.lines) < 40
        await b.press("G")
        assert b.screen.domid == 1000 and "▸ 1000 small-1000" in b.text("#links")
        await b.press("end", "pageup", "g")
        assert b.screen.domid == 0


async def test_slash_narrows_the_rows_and_esc_takes_the_filter_away() -> None:
    async with host_bench(MatrixScreen) as b:
        await b.press("slash", "s", "h", "e", "l", "enter")
        rows = b.text("#links").splitlines()[2:]
        assert "3 shell" in rows[0] and not any("debian" in row for row in rows)
        assert b.screen.domid == 3 and "/shel" in str(b.pane(LinkMatrix).border_title)
        await b.turn()
        assert "3 shell with" in str(b.screen.query_one("#link", Pane).border_title)
        await b.press("slash", "q", "enter")
        assert "no domain matches" in b.text("#links")
        await b.turn()
        await b.press("escape")
        assert isinstance(b.app.screen, MatrixScreen) and "4 debian" in b.text("#links")


def test_columns_that_are_shared_with_come_first_when_not_all_fit() -> None:
    names = {n: str(n) for n in range(50)}
    links = [LinkView(3, 0), LinkView(3, 7), LinkView(9, 1234)]
    rest = [n for n in range(50) if n not in (0, 7)]
    assert axes(links, names, 10, TextFilter()) == (list(range(50)), [0, 7, 1234, *rest]), "Domain-0's row reaches all of them"
    assert axes(links, {0: "", 3: ""}, 10, TextFilter()) == ([0, 3], [0, 3])


@pytest.mark.parametrize("link", [LinkView(1, 0), LinkView(1, 2, 4000, 0, 4000, 1 << 40, 32768, 32768, 9), LinkView(1, 2, 0, 7)])
def test_a_cell_keeps_its_width_whatever_a_guest_does(link: LinkView) -> None:
    assert sum(len(span.text) for span in cell_spans(link, 123456.0)) <= CELL + 8
    assert all(not span.field or explain(span.field) for span in cell_spans(link, 5.0))


@pytest.mark.parametrize("size", [(60, 15), (80, 24), (240, 70)])
async def test_every_field_is_explained_at_every_size(size: tuple[int, int]) -> None:
    async with host_bench(MatrixScreen, size) as b:
        for name in ("#links", "#link"):
            assert all(explain(span.field) for spans in b.screen.query_one(name, Pane).lines for span in spans if span.field)
        await b.press("i")
        assert b.explained.startswith("link:")
        await b.press("escape", "tab", "z", "z", "escape")
        assert not isinstance(b.app.screen, MatrixScreen)


async def test_a_click_chooses_a_pair() -> None:
    async with host_bench(MatrixScreen) as b:
        await b.pilot.click("#links", offset=(2 + NAME + CELL + 1 + 4, 1 + 2 + 4))
        matrix = b.pane(LinkMatrix)
        assert (matrix.row, matrix.column) == (4, 2)
        assert not matrix.explaining


async def test_names_that_guests_chose_cannot_steer_the_terminal() -> None:
    engine = RichEngine()
    engine.domains[3].name = "\x1b[2Jevil"
    async with host_bench(MatrixScreen, engine=engine) as b:
        assert "\x1b" not in plain(b.pane(LinkMatrix).shown()) and "evil" in b.text("#links")


@pytest.mark.parametrize("size", SIZES)
def test_picture(snap_compare: Any, size: tuple[int, int]) -> None:
    assert host_picture(snap_compare, MatrixScreen, size, "down", "down", "down")
