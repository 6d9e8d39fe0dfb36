"""The storage pool: disks made, cloned and removed, who has them, what they are made of, over the control interface's own functions."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from emulator.control.commands import run_command
from emulator.control.host import Host
from emulator.control.messages import CommandResult
from emulator.control.storageviews import BLOCK_KINDS
from emulator.dom0.diskspec import parse_disk
from emulator.dom0.storage import open_image
from emulator.dom0.storage.pool import StoragePool, default_folder, parse_size
from emulator.errors import UserError
from tests.functional.linux_guest import ROOT
from tests.growth import cost, times_dearer

MIB = 1 << 20


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    monkeypatch.setenv("XENCONSOLE_DISKS", str(tmp_path / "disks"))
    host = Host(pool_kib=64 << 10, cpus=1, trace=False)
    host.start()
    yield host
    host.stop()


def do(host: Host, name: str, **args: str | int | bool) -> CommandResult:
    return run_command(host, name, args, lambda text: None)


def test_a_disk_is_made_and_cloned_in_milliseconds_whatever_its_size(host: Host) -> None:
    numbers = iter(range(10))

    def make() -> None:
        number = next(numbers)
        assert do(host, "disk-create", disk=f"d{number}", size="1T" if number else "10G").ok
        do(host, "disk-clone", disk=f"d{number}", new=f"c{number}")

    def make_four() -> None:
        for _ in range(4):
            make()

    assert times_dearer(make, make_four, rounds=1) < 80, "four of 1 TiB are 410 times as much"
    pool = host.storage.pool()
    assert [(disk.name, disk.format, disk.size) for disk in pool.disks[:2]] == [("c0", "overlay", 10 << 30), ("c1", "overlay", 1 << 40)]
    assert pool.disks[0].chain == ("d0",) and pool.disks[5].clones == ("c0",) and pool.free > 0
    assert sum(disk.held for disk in pool.disks) < 64 << 10
    said = do(host, "disk-list").message
    assert "c0" in said and "10 GiB" in said and "1 over it" in said
    assert "lies over  d1" in do(host, "disk-info", disk="c1").message


def test_a_pool_of_hundreds_is_listed_in_no_time(host: Host) -> None:
    """A pool that looked at each disk for each disk would be 64 times dearer."""
    do(host, "disk-create", disk="root", size="64M")
    pool = StoragePool()
    first = pool.clone("root", "c0")
    def listed(clones: int) -> float:
        for number in range(1, clones):
            (first.parent / f"c{number}.overlay").write_bytes(first.read_bytes())
        (root,) = (disk for disk in host.storage.pool().disks if disk.name == "root")
        assert len(root.clones) == clones
        return cost(host.storage.pool)

    assert listed(50) * 25 > listed(400)


@pytest.mark.parametrize("name", ["", ".hidden", "../out", "a/b", "a b", "x" * 64, "a\n"])
def test_a_name_that_will_not_do_is_told(host: Host, name: str) -> None:
    with pytest.raises(UserError, match="will not do"):
        do(host, "disk-create", disk=name, size="1M")
    assert not default_folder().exists()


def test_sizes_are_read_as_people_write_them() -> None:
    assert [parse_size(text) for text in ("512", "1k", "10M", "2GiB", "1T")] == [512, 1024, 10 * MIB, 2 << 30, 1 << 40]
    for text in ("", "0", "513", "-1", "2T", "1e6", "9" * 15 + "T", "1.5G"):
        with pytest.raises(UserError, match="not a disk's size"):
            parse_size(text)


def test_what_is_used_or_lain_over_is_not_removed_and_a_base_is_not_written(host: Host, tmp_path: Path) -> None:
    do(host, "disk-create", disk="root", size="1M")
    do(host, "disk-clone", disk="root", new="mine")
    with pytest.raises(UserError, match="root is the base of mine"):
        do(host, "disk-remove", disk="root")
    with pytest.raises(UserError, match="xvda would write to the base of mine"):
        do(host, "create", text=_cfg("vdev=xvda,target=pool:root"), file="a.cfg")
    with pytest.raises(UserError, match="no disk 'none'"):
        do(host, "create", text=_cfg("vdev=xvda,target=pool:none"), file="a.cfg")
    made = do(host, "create", text=_cfg("vdev=xvda,target=pool:mine", "vdev=xvdb,access=ro,target=pool:root"), file="a.cfg")
    (mine, root) = host.storage.pool().disks
    assert [(use.domid, use.domain, use.vdev, use.readonly) for use in mine.uses] == [(made.domid, "hello", "xvda", False)]
    assert [(use.vdev, use.readonly) for use in root.uses] == [("xvdb", True)]
    with pytest.raises(UserError, match=r"mine is xvda of domain \d+ \(hello\)"):
        do(host, "disk-remove", disk="mine")
    assert "xvda" in do(host, "block-list", domid=made.domid).message
    host.destroy(made.domid)
    assert do(host, "disk-remove", disk="mine").ok and do(host, "disk-remove", disk="root").ok
    assert not host.storage.pool().disks


def test_a_disk_in_use_by_another_process_is_not_removed(host: Host) -> None:
    do(host, "disk-create", disk="root", size="1M")
    image = open_image(default_folder() / "root.img", "raw", readonly=False)
    try:
        with pytest.raises(UserError, match="root is in use"):
            do(host, "disk-remove", disk="root")
    finally:
        image.close()
    assert do(host, "disk-remove", disk="root").ok


def test_a_disk_from_elsewhere_is_seen_while_a_domain_has_it(host: Host, tmp_path: Path) -> None:
    path = tmp_path / "own.img"
    path.write_bytes(b"hello" + bytes(MIB - 5))
    made = do(host, "create", text=_cfg(f"vdev=xvda,target={path}"), file="a.cfg")
    (view,) = host.storage.pool().disks
    assert (view.name, view.pooled, view.uses[0].vdev) == (str(path), False, "xvda")
    assert host.storage.read(str(path), 1, 4, "").data == b"ello"
    host.destroy(made.domid)
    with pytest.raises(UserError, match="no disk"):
        host.storage.read(str(path), 0, 4, "")


def test_the_block_map_tells_own_bytes_from_the_bases_and_from_nothing(host: Host) -> None:
    do(host, "disk-create", disk="root", size="1M")
    folder = default_folder()
    with (folder / "root.img").open("r+b") as file:
        file.write(b"x" * (256 << 10))
    do(host, "disk-clone", disk="root", new="mine")
    mine = open_image(folder / "mine.overlay", "overlay", readonly=False)
    mine.write(128 << 10, b"y" * (64 << 10))
    mine.write(512 << 10, b"z" * 4096)
    mine.discard(0, 64 << 10)
    mine.close()
    view = host.storage.block_map("mine", 16)
    assert view.block == 64 << 10 and len(view.kinds) == len(view.own) == 16
    assert [BLOCK_KINDS[code] for code in view.kinds[:9]] == ["zero", "base", "own", "base", "zero", "zero", "zero", "zero", "own"]
    assert view.own[2] == 255 and view.own[8] == 16 and not any(view.own[9:])
    assert view.totals == {"zero": MIB - (196 << 10), "base": 128 << 10, "own": 68 << 10}
    for cells in (1, 3, 7, 2048, 10**9):
        one = host.storage.block_map("mine", cells)
        assert len(one.kinds) == -(-MIB // one.block) and len(one.kinds) <= max(cells, 1)
        assert one.totals == view.totals
    assert host.storage.block_map("root", 4).kinds == b"\2\0\0\0"


def test_a_disk_is_looked_into_while_its_guest_writes(host: Host) -> None:
    do(host, "disk-create", disk="root", size="1M")
    do(host, "disk-clone", disk="root", new="mine")
    made = do(host, "create", text=_cfg("vdev=xvda,target=pool:mine"), file="a.cfg")
    device = next(iter(host._tools.guests[made.domid].disks.devices.values()))
    device.image.write(8192, b"fresh" + bytes(4091))  # in memory alone: no map on the host's disk names it
    assert host.storage.read("mine", 8192, 5, "").data == b"fresh"
    assert host.storage.block_map("mine", 256).kinds[2] == 2


def test_broken_files_in_the_pool_are_listed_with_what_is_wrong(host: Host) -> None:
    folder = default_folder()
    folder.mkdir()
    (folder / "junk.overlay").write_bytes(os.urandom(8192))
    (folder / "notes.txt").write_text("no disk")
    os.symlink("nowhere", folder / "lost.img")
    do(host, "disk-create", disk="good", size="1M")
    disks = {disk.name: disk for disk in host.storage.pool().disks}
    assert set(disks) == {"junk", "good"} and "no overlay" in disks["junk"].trouble
    assert do(host, "disk-list").ok and "trouble" in do(host, "disk-info", disk="junk").message
    with pytest.raises(UserError, match="no overlay"):
        host.storage.block_map("junk", 4)


def test_a_pools_disk_is_admitted_in_its_own_format(tmp_path: Path) -> None:
    pool = StoragePool(tmp_path)
    pool.create("root", MIB)
    pool.clone("root", "mine")
    spec = pool.admit(parse_disk("format=raw,vdev=xvda,target=pool:mine", folder=Path("/cfg")))
    assert (spec.target, spec.format) == (tmp_path / "mine.overlay", "overlay")
    assert pool.admit(spec) == spec
    assert pool.admit(parse_disk("vdev=xvda,access=ro,target=pool:root")).target == tmp_path / "root.img"


def _cfg(*disks: str) -> str:
    listed = ", ".join(f"'{disk}'" for disk in disks)
    return f'name = "hello"\nkernel = "{ROOT / "guests" / "images" / "hello.elf"}"\nmemory = 8\non_poweroff = "preserve"\ndisk = [ {listed} ]\n'
