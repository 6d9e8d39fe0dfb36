"""blkcheck on the engine: every word of a disk written, read back and compared, over rings of every shape."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from emulator.dom0.config import parse_config
from emulator.dom0.guest import Guest, build_guest
from emulator.dom0.storage import clone, open_image
from emulator.dom0.xenstore import Store
from emulator.hypervisor.mailbox import ToBackend
from tests.functional.test_our_guests import GUESTS, Session

MIB = 1 << 20


def check(disk: str, extra: str, meddle: Callable[[Guest], None] = lambda guest: None) -> str:
    """What blkcheck says of a disk."""
    text = (GUESTS / "blkcheck.cfg").read_text()
    text = re.sub(r"(?m)^disk = .*$", f"disk = [ '{disk}' ]", re.sub(r"(?m)^extra = .*$", f'extra = "{extra}"', text))
    guest = build_guest(parse_config(text, file=str(GUESTS / "blkcheck.cfg")), 1, Store())
    domain = guest.domain
    guest.connection.on_output = lambda: domain.post(ToBackend("xenstore", b""))
    meddle(guest)
    try:
        said = Session(guest).run_until(r"sectors wrong|read-only, \d+ errors")
        assert not domain.crash_reason, said
        return said
    finally:
        guest.close()


@pytest.mark.parametrize(("shape", "extra", "grants"), [
    ("1 queues of 32 slots", "order=0 kib=4 depth=32 queues=1", "persistent"),
    ("1 queues of 128 slots", "order=2 kib=40 depth=32", ""),
    ("1 queues of 64 slots", "order=1 kib=200 depth=8", "persistent"),
    ("2 queues of 128 slots", "order=2 kib=44 depth=32 queues=2", "persistent"),
    ("4 queues of 64 slots", "order=1 kib=12 depth=32 queues=4", ""),
])  # fmt: skip
def test_every_word_of_a_disk_is_written_and_read_back(tmp_path: Path, shape: str, extra: str, grants: str) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(4 * MIB + 512))
    said = check(f"vdev=xvda,{grants}{',' * bool(grants)}target={path}", extra)
    assert f"{shape}, up to 256 segments, {grants}{', ' * bool(grants)}flush" in said and "0 errors, 0 sectors wrong" in said, said
    assert path.read_bytes().count(bytes(512)) == 0


def test_an_overlay_holds_what_blkcheck_wrote_and_its_base_nothing(tmp_path: Path) -> None:
    base, mine = tmp_path / "base.img", tmp_path / "mine.overlay"
    base.write_bytes(bytes(2 * MIB))
    clone(base, mine)
    said = check(f"vdev=xvda,format=overlay,target={mine}", "kib=44 passes=1")
    assert "0 errors, 0 sectors wrong" in said and base.read_bytes() == bytes(2 * MIB)
    image = open_image(mine, "overlay", readonly=True)
    assert image.usage().own == 2 * MIB
    image.close()


def test_a_read_only_disk_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(MIB))
    assert "read-only, 0 errors" in check(f"vdev=xvda,access=ro,target={path}", "")
    assert path.read_bytes() == bytes(MIB)


def test_blkcheck_finds_a_single_bit(tmp_path: Path) -> None:
    """Or the tests above would tell nothing."""
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(MIB))

    def meddle(guest: Guest) -> None:
        image = next(iter(guest.disks.devices.values())).image
        write = image.write

        def bent(offset: int, data: bytes) -> None:
            write(offset, bytes([data[0] ^ 1]) + data[1:] if offset <= 333 * 512 < offset + len(data) else data)

        image.write = bent  # type: ignore[method-assign]
        image.write_from = lambda offset, size, views: False  # type: ignore[method-assign]

    said = check(f"vdev=xvda,target={path}", "kib=44", meddle)
    assert "instead of" in said and "0 errors, 1 sectors wrong" in said, said
