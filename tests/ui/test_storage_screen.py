"""The storage screen: the pool as a tree, the map of a disk, its files and its bytes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
from textual.widgets import Static

from emulator.control.storageviews import BLOCK_KINDS, DiskUseView, DiskView, FileView, StoragePoolView
from tests.ui.desk import desk
from tests.ui.fake_details import RichEngine
from tests.ui.host_bench import SIZES, host_bench, host_picture
from xenconsole.explain import explain
from xenconsole.screens.domain import DomainScreen
from xenconsole.screens.storage import StorageScreen
from xenconsole.widgets.disk_list import DiskList, tree, usage_by_domain
from xenconsole.widgets.disk_panes import FilesPane, HexPane
from xenconsole.widgets.lines import plain
from xenconsole.widgets.pane import Pane

PANES = ("#disks", "#disk-map", "#files", "#hex")


def empty() -> RichEngine:
    engine = RichEngine()
    engine.storage.disks.clear()
    return engine


def noted(asked: list[str], name: str, real: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    async def ask(*arguments: object) -> object:
        asked.append(name)
        return await real(*arguments)

    return ask


async def test_b_and_8_open_it() -> None:
    async with desk(RichEngine()) as at:
        for key in ("b", "8"):
            await at.press(key)
            assert isinstance(at.front(), StorageScreen), key
            await at.press("escape")


async def test_clones_stand_under_their_base_with_their_users() -> None:
    async with host_bench(StorageScreen) as b:
        rows = b.text("#disks").splitlines()
        assert [row.replace("▸", " ").split()[:2] for row in rows[1:5]] == [["debian", "raw"], ["└", "mail"], ["└", "web"], ["old.img", "raw"]]
        assert "base of 2" in rows[1] and "1 web xvda" in rows[3] and "2 old xvda ro" in rows[4]
        assert "nobody's" in b.text("#disks") and "60G of 100G free" in b.pane(DiskList).subtitle()


async def test_what_is_shown_of_a_quiet_disk_is_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async with host_bench(StorageScreen) as b:
        storage = b.engine.storage
        asked: list[str] = []
        for name in ("block_map", "directory", "read"):
            monkeypatch.setattr(storage, name, noted(asked, name, getattr(storage, name)))
        await b.turn(8)
        assert not asked, "nothing was written to it"
        before = storage.disks["debian"]
        storage.disks["debian"] = msgspec.structs.replace(before, changed_unix=before.changed_unix + 60)
        await b.turn()
        assert asked == ["block_map", "directory", "read"]
        await b.turn(4)
        assert len(asked) == 3
        await b.turn(40)
        assert len(asked) in (6, 9), "and after ten seconds, for what a file does not tell"


async def test_the_map_tells_own_base_and_empty_apart_without_colour() -> None:
    async with host_bench(StorageScreen) as b:
        await b.press("down", "down")
        await b.turn()
        text = b.text("#disk-map")
        assert "█" in text and "░" in text and "·" in text
        assert "web ← debian" in text and "one cell =" in text and "its own" in text


async def test_a_piece_of_the_map_is_shown_in_bytes() -> None:
    async with host_bench(StorageScreen) as b:
        await b.press("tab", "right", "right", "right")
        await b.turn()
        view = b.screen.query_one("#disk-map", Pane).view  # type: ignore[attr-defined]
        assert b.text("#hex").split()[0] == f"{2 * view.block:x}"
        assert b.pane(HexPane).chunk.offset == 2 * view.block


async def test_files_are_walked_through_and_shown() -> None:
    async with host_bench(StorageScreen, (160, 50)) as b:
        await b.press("tab", "tab")
        assert "p1/ Linux root" in b.text("#files")
        await b.press("enter")
        await b.turn()
        assert "etc/" in b.text("#files") and "lrwxrwxrwx" in b.text("#files") and "→ boot/vmlinuz" in b.text("#files")
        assert "ext4 “root”" in b.pane(FilesPane).subtitle()
        await b.press("G", "enter")
        await b.turn()
        assert b.pane(HexPane).chunk.path == "/p1/hello\\x1b[31m" and "\x1b" not in b.text("#hex")
        await b.press("g", "enter")
        await b.turn()
        assert "an empty directory" in b.text("#files")
        await b.press("backspace", "backspace")
        await b.turn()
        assert b.pane(FilesPane).view.path in ("/p1", "/")


async def test_the_bytes_move_by_pages_to_both_ends_and_read_as_text() -> None:
    async with host_bench(StorageScreen) as b:
        await b.press("shift+tab")
        assert b.screen.focused is b.pane(HexPane)
        await b.press("pagedown")
        await b.turn()
        assert 0 < b.pane(HexPane).chunk.offset < 1024
        await b.press("G")
        await b.turn()
        chunk = b.pane(HexPane).chunk
        assert chunk.offset + len(chunk.data) == chunk.size
        await b.press("g", "space")
        await b.turn()
        assert b.pane(HexPane).chunk.offset == 0 and "00 01 02" not in b.text("#hex")


async def test_enter_on_a_disk_opens_the_domain_that_has_it() -> None:
    async with host_bench(StorageScreen) as b:
        await b.press("enter")
        assert isinstance(b.front(), StorageScreen), "nobody has the base"
        await b.press("down", "down", "enter")
        front = b.front()
        assert isinstance(front, DomainScreen) and front.domid == 1


async def test_without_a_disk_it_says_how_to_make_one() -> None:
    async with host_bench(StorageScreen, engine=empty()) as b:
        assert "no disk yet" in b.text("#disks") and ":disk-create" in b.text("#disks")
        await b.press("down", "enter", "tab", "right", "down", "tab", "enter", "backspace", "tab", "pagedown", "G", "space", "i")
        await b.turn()
        assert isinstance(b.app.screen, StorageScreen)


async def test_a_disk_that_goes_leaves_the_screen_calm() -> None:
    async with host_bench(StorageScreen) as b:
        await b.press("down", "down")
        await b.turn()
        del b.engine.storage.disks["web"]
        await b.turn(2)
        assert b.pane(DiskList).chosen.name != "web" and "nothing new" not in b.text("#banner")


async def test_a_disk_without_a_file_system_says_so() -> None:
    engine = RichEngine()

    async def refused(disk: str, path: str = "/") -> Any:
        from emulator.errors import UserError

        raise UserError("no file system known here", where=disk)

    engine.storage.directory = refused  # type: ignore[method-assign]
    async with host_bench(StorageScreen, engine=engine) as b:
        assert "no file system known here" in b.text("#files") and b.text("#hex")


async def test_o_goes_to_an_offset_and_says_what_it_cannot_read() -> None:
    async with host_bench(StorageScreen) as b:
        await b.press("tab", "tab", "tab", "o", *"1m", "enter")
        await b.turn()
        assert b.text("#hex").split()[0] == "100000"
        await b.press("o", *"0x2z")
        assert str(b.app.screen.query_one("#hint", Static).render()) == "a number of bytes, as 0x1c00, 7168 or 7k"
        await b.press("escape", "o", *"9t", "enter")
        await b.turn()
        assert b.text("#hex").split()[0] == "100000" and "the last byte is at" in next(iter(b.app._notifications)).message


def test_a_circle_of_bases_is_listed_all_the_same() -> None:
    disks = (DiskView("a", chain=("b",)), DiskView("b", chain=("a",)), DiskView("c", chain=("c",)))
    assert {disk.name for _, disk in tree(disks)} == {"a", "b", "c"}


def test_usage_is_summed_by_domain() -> None:
    mine = (DiskUseView(1, "w", "xvda"),)
    disks = (DiskView("a", held=5, uses=mine), DiskView("b", held=7, uses=mine), DiskView("c", held=1))
    assert usage_by_domain(disks) == {"1 w": 12, "": 1}


async def test_names_on_disks_and_kinds_of_a_newer_engine_do_no_harm() -> None:
    engine = RichEngine()
    engine.storage.disks = {"x": DiskView("x\x1b[2J", size=1 << 20, trouble="damaged\x07")}

    async def pool() -> StoragePoolView:
        return StoragePoolView("/d\x1b", tuple(engine.storage.disks.values()))

    engine.storage.pool = pool  # type: ignore[method-assign]
    async with host_bench(StorageScreen, engine=engine) as b:
        assert "\x1b" not in plain(b.pane(DiskList).shown()) and "damaged·" in plain(b.pane(DiskList).shown())
    entry = FilesPane._entry(FileView("f\x1b", "new kind", -1, 0o7777777, -5, 1 << 40, 1 << 60), 20)
    assert "\x1b" not in plain([entry])
    assert BLOCK_KINDS


@pytest.mark.parametrize("size", [(60, 15), (80, 24), (240, 70)])
async def test_every_field_is_explained_at_every_size(size: tuple[int, int]) -> None:
    async with host_bench(StorageScreen, size) as b:
        for keys in ((), ("down", "down"), ("tab", "right", "tab", "enter")):
            await b.press(*keys)
            await b.turn()
            for name in PANES:
                pane = b.screen.query_one(name, Pane)
                assert all(explain(span.field) for spans in pane.lines for span in spans if span.field), name
        await b.press("i")
        assert b.explained.startswith("file:")


@pytest.mark.parametrize("size", SIZES)
def test_picture(snap_compare: Any, size: tuple[int, int]) -> None:
    assert host_picture(snap_compare, StorageScreen, size, "down", "down")


def test_picture_of_a_map_alone(snap_compare: Any) -> None:
    assert host_picture(snap_compare, StorageScreen, (80, 24), "down", "tab", "right")
