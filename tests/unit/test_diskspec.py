"""Disk specifications: xl's forms, and where a mistake is."""

from __future__ import annotations

from pathlib import Path

import pytest

from emulator.dom0.diskspec import device_number, parse_disk, parse_disks
from emulator.errors import UserError


@pytest.mark.parametrize(
    ("vdev", "number"),
    [("xvda", 51712), ("xvda1", 51713), ("xvdb", 51728), ("xvdp15", 51967), ("xvdq", (1 << 28) | 16 << 8), ("xvda16", (1 << 28) | 16),
     ("xvdaa", (1 << 28) | 26 << 8), ("d0p0", 51712), ("sda", 2048), ("sda1", 2049), ("hda", 768), ("hdd3", 22 << 8 | 64 | 3), ("51712", 51712),
     ("0xca00", 51712), ("xvd", None), ("xvda0", None), ("hde", None), ("sdq", None), ("vda", None), ("xvda256", None), ("", None)],
)  # fmt: skip
def test_device_numbers_are_libxls(vdev: str, number: int | None) -> None:
    assert device_number(vdev) == number


@pytest.mark.parametrize(
    "text",
    ["format=raw,vdev=xvda,access=rw,target=/i/root.img", "/i/root.img,raw,xvda,rw", "/i/root.img,,xvda,w", "phy:/i/root.img,xvda,w",
     "file:/i/root.img,xvda,rw", "raw:/i/root.img,xvda,w", " vdev=xvda, /i/root.img", "/i/root.img,raw,xvda:disk",
     "xvda,vdev=xvda,target=/i/root.img"],
)  # fmt: skip
def test_every_form_says_the_same(text: str) -> None:
    if text.startswith("xvda,"):
        with pytest.raises(UserError, match="target is there twice"):
            parse_disk(text)
        return
    disk = parse_disk(text)
    assert (disk.vdev, disk.devid, disk.target, disk.format, disk.readonly) == ("xvda", 51712, Path("/i/root.img"), "raw", False)


def test_target_takes_the_rest_and_relative_paths_start_at_the_cfg() -> None:
    disk = parse_disk("vdev=xvdb,ro,access=ro,target=a,b=c.img".replace("ro,", "", 1), folder=Path("/cfg"))
    assert disk.target == Path("/cfg/a,b=c.img") and disk.readonly
    disk = parse_disk("format=overlay,vdev=xvdc,base=root.img,no-discard,target=mine", folder=Path("/cfg"))
    assert (disk.format, disk.base, disk.discard) == ("overlay", Path("/cfg/root.img"), False)
    assert parse_disk("/iso,raw,hdc,devtype=cdrom").readonly


@pytest.mark.parametrize(
    ("text", "said"),
    [("/a,qcow2,xvda,w", "character 4: unknown value for format: 'qcow2'"), ("/a,raw,xvda,wr", "character 13: unknown value for access: 'wr'"),
     ("/a,raw,vda", "character 11: 'vda' is no virtual device"), ("/a,raw", "no vdev"), ("vdev=xvda", "no target"),
     ("/a,raw,xvda,w,more", "character 15: too many positional parameters"),
     ("vdev=xvda,colour=red,target=/a", "character 11: unknown parameter 'colour'"),
     ("vdev=xvda,vdev=xvdb,target=/a", "vdev is there twice"), ("vdev=xvda,script=x,target=/a", "scripts are not run"),
     ("vdev=xvda,base=/b,target=/a", "base= is for format=overlay"), ("a\x1bb", "not printable")],
)  # fmt: skip
def test_a_mistake_names_its_character(text: str, said: str) -> None:
    with pytest.raises(UserError) as bad:
        parse_disk(text, where="guest.cfg:7")
    assert said in bad.value.line() and bad.value.line().startswith("guest.cfg:7: disk '")


def test_two_disks_cannot_be_the_same() -> None:
    with pytest.raises(UserError, match="0xca00 is there twice"):
        parse_disks(("/a,raw,xvda", "/b,raw,0xca00,r"), where="g:1")
    with pytest.raises(UserError, match="share /a"):
        parse_disks(("/a,raw,xvda", "/a,raw,xvdb,ro"), where="g:1")
    assert len(parse_disks(("/a,raw,xvda,ro", "/a,raw,xvdb,ro"), where="g:1")) == 2
