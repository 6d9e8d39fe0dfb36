"""Disks as xl.cfg's `disk = [ … ]` and block-attach give them (xl-disk-configuration(5), libxlu_disk_l.l).

    format=raw,vdev=xvda,access=rw,target=/images/root.img
    /images/root.img,raw,xvda,rw                             the same by position
    format=overlay,vdev=xvda,access=rw,base=/images/root.img,target=/images/mine.overlay
    vdev=xvda,access=rw,target=pool:mine                     a disk of the storage pool, in the format it has there

`overlay`, `base=` and `baseformat=` are ours: a copy-on-write image, made over `base` when it does not exist yet. So are `pool:`, and
`persistent`, which offers the guest persistent grants: they save a real Xen the mapping, but here nothing, and cost the guest a copy.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

from emulator.dom0.cfgfile import printable
from emulator.errors import UserError

FORMATS: Final = ("raw", "overlay")
POOL_PREFIX: Final = "pool:"
"""Before the name of a disk in the storage pool."""
MAX_SPEC: Final = 8192
_XVD, _EXTENDED = 202 << 8, 1 << 28
_ACCESS: Final = {"ro": True, "r": True, "rw": False, "w": False, "": False}
_IGNORED: Final = ("direct-io-safe", "trusted", "untrusted", "no-colo")
_PREFIX: Final = re.compile(r"(raw|qcow2?|vhd|file|phy|tap2?|aio|ioemu|tapdisk):(?=/)")
_KEY: Final = re.compile(r"([a-z][-a-z0-9]*)=")


@dataclass(frozen=True, slots=True)
class DiskSpec:
    """One disk of a domain. `vdev` as the guest names it, `devid` its number in xenstore; `text` as it was written."""

    vdev: str
    devid: int
    target: Path
    format: str = "raw"
    readonly: bool = False
    cdrom: bool = False
    discard: bool = True
    persistent: bool = False  # grants that stay mapped are offered
    base: Path | None = None
    base_format: str = "raw"
    text: str = ""


def device_number(vdev: str) -> int | None:
    """xvda → 51712 and so on (libxl__device_disk_dev_number); None when it is no name of a disk."""
    match = re.fullmatch(r"(xvd|hd|sd)([a-z]{1,4})([1-9]\d{0,2})?", vdev) or re.fullmatch(r"(d)(\d{1,7})p(\d{1,3})", vdev)
    if match is None:
        number = re.fullmatch(r"0x[0-9a-fA-F]{1,8}|\d{1,10}", vdev)
        value = int(vdev, 0) if number and (vdev == "0" or vdev[0] != "0" or vdev.startswith("0x")) else -1
        return value if 0 <= value < 1 << 31 else None
    kind, which, part = match.group(1), match.group(2), int(match.group(3) or 0)
    if kind == "d":
        disk = int(which)
    else:
        disk = -1
        for letter in which:
            disk = (disk + 1) * 26 + ord(letter) - ord("a")
    if kind in ("xvd", "d"):
        if disk >= 1 << 20 or part > 255:
            return None
        return _XVD | disk << 4 | part if disk <= 15 and part <= 15 else _EXTENDED | disk << 8 | part
    if kind == "hd":
        return (3 if disk < 2 else 22) << 8 | (disk & 1) << 6 | part if disk <= 3 and part <= 63 else None
    return 8 << 8 | disk << 4 | part if disk <= 15 and part <= 15 else None


def parse_disk(text: str, *, where: str = "", folder: Path | None = None) -> DiskSpec:
    """One specification. `folder`: where relative paths are looked for first. UserError tells the character that is wrong."""
    return _Reader(text, where, folder).read()


def parse_disks(texts: tuple[str, ...], *, where: str, folder: Path | None = None) -> tuple[DiskSpec, ...]:
    """All of a domain's; no two may have the same vdev or write to the same file."""
    disks = tuple(parse_disk(text, where=where, folder=folder) for text in texts)
    for number, disk in enumerate(disks):
        for other in disks[:number]:
            if other.devid == disk.devid:
                raise UserError(f"disk: {disk.vdev} is there twice", why=f"{other.vdev} is the same device", where=where, fix="another vdev=")
            if other.target == disk.target and not (other.readonly and disk.readonly):
                raise UserError(f"disk: {disk.vdev} and {other.vdev} share {disk.target}", where=where,
                                fix="one of them writes: copies, or access=ro for both")  # fmt: skip
    return disks


class _Reader:
    def __init__(self, text: str, where: str, folder: Path | None) -> None:
        self._text, self._where, self._folder = text, where, folder
        self._set: dict[str, str] = {}
        self._cdrom: bool | None = None
        self._discard, self._persistent = True, False
        self._prefixed = False
        self._at = 0

    def _fail(self, what: str, fix: str = "") -> NoReturn:
        raise UserError(f"disk '{printable(self._text, 60)}': character {self._at + 1}: {what}", where=self._where, fix=fix)

    def read(self) -> DiskSpec:
        text = self._text
        if len(text) > MAX_SPEC or not text.isprintable():
            self._fail("not printable" if len(text) <= MAX_SPEC else "too long")
        while self._at < len(text):
            if text[self._at] in " \t":
                self._at += 1
                continue
            end = text.find(",", self._at)
            end = len(text) if end < 0 else end
            item = text[self._at : end]
            key = _KEY.match(item)
            if key and key.group(1) == "target":  # eats the rest of the string, commas and all
                end = len(text)
                item = text[self._at :].removesuffix(",")
            if key:
                self._named(key.group(1), item[key.end() :])
            else:
                self._bare(item)
            self._at = end + 1
        self._at = len(text)
        return self._spec()

    def _put(self, key: str, value: str) -> None:
        if key in self._set:
            self._fail(f"{key} is there twice")
        self._set[key] = value

    def _named(self, key: str, value: str) -> None:
        if key == "format":
            self._format(value)
        elif key == "access":
            self._access(value)
        elif key in ("vdev", "target", "base", "baseformat"):
            self._put(key, value)
        elif key == "devtype":
            if value not in ("disk", "cdrom"):
                self._fail(f"unknown value for type: '{printable(value)}'", "disk or cdrom")
            self._cdrom = value == "cdrom"
        elif key == "backendtype":
            if value not in ("phy", "qdisk", "standalone"):
                self._fail(f"unknown value for backendtype: '{printable(value)}'", "phy or qdisk, which are the same here")
        elif key == "backend":
            if value not in ("0", "Domain-0"):
                self._fail("disks come from Domain-0 alone", "leave backend= out")
        elif key == "specification":
            if value != "xen":
                self._fail(f"specification '{printable(value)}' is not offered", "xen")
        else:
            self._fail(f"unknown parameter '{key}'" if key != "script" else "scripts are not run here")

    def _bare(self, item: str) -> None:
        if item in ("cdrom", "discard", "no-discard", "persistent", "no-persistent", *_IGNORED):
            if item == "cdrom":
                self._cdrom = True
            elif item in ("persistent", "no-persistent"):
                self._persistent = item == "persistent"
            elif item not in _IGNORED:
                self._discard = item == "discard"
            return
        prefix = _PREFIX.match(item)
        if prefix and "target" not in self._set:
            self._prefixed = True
            if prefix.group(1) in ("raw", "qcow", "qcow2", "vhd"):
                self._format(prefix.group(1))
            item = item[prefix.end() :]
        if "=" in item:
            self._fail("bad disk syntax")
        if "target" not in self._set:
            self._put("target", item)
        elif not self._prefixed and "format" not in self._set:
            self._format(item)
        elif "vdev" not in self._set:
            name, colon, kind = item.rpartition(":")
            if colon:
                if kind not in ("disk", "cdrom"):
                    self._fail(f"unknown deprecated type '{printable(kind)}'")
                self._cdrom = kind == "cdrom"
            self._put("vdev", name if colon else item)
        elif "access" not in self._set:
            self._access(item)
        else:
            self._fail("too many positional parameters")

    def _format(self, value: str) -> None:
        value = value or "raw"
        if value not in FORMATS:
            self._fail(f"unknown value for format: '{printable(value)}'", f"{' or '.join(FORMATS)}; qemu-img convert makes a raw image of others")
        self._put("format", value)

    def _access(self, value: str) -> None:
        if value not in _ACCESS:
            self._fail(f"unknown value for access: '{printable(value)}'", "ro or rw")
        self._put("access", value)

    def _spec(self) -> DiskSpec:
        given = self._set
        vdev = given.get("vdev", "")
        if not vdev:
            self._fail("no vdev was given", "vdev=xvda")
        devid = device_number(vdev)
        if devid is None:
            self._fail(f"'{printable(vdev)}' is no virtual device", "xvda, xvdb1, sda, hda, …")
        if not given.get("target"):
            self._fail("no target was given", "target=/path/to/image")
        fmt, base_format = given.get("format", "raw"), given.get("baseformat", "raw")
        if base_format not in FORMATS:
            self._fail(f"unknown value for baseformat: '{printable(base_format)}'", " or ".join(FORMATS))
        if fmt != "overlay" and ("base" in given or "baseformat" in given):
            self._fail("base= is for format=overlay")
        readonly = _ACCESS[given["access"]] if "access" in given else bool(self._cdrom)
        base = self._path(given["base"]) if given.get("base") else None
        return DiskSpec(vdev, devid, self._path(given["target"]), fmt, readonly or bool(self._cdrom), bool(self._cdrom), self._discard,
                        self._persistent, base, base_format, self._text)  # fmt: skip

    def _path(self, text: str) -> Path:
        path = Path(text)
        return path if path.is_absolute() or text.startswith(POOL_PREFIX) or self._folder is None else self._folder / path
