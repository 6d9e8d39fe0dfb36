"""The storage pool: a folder of virtual disks, each a file that its name tells the format of.

    NAME.img        raw: the file's bytes are the disk's
    NAME.overlay    a copy-on-write overlay over another disk of the pool, or over any image

A new disk is a file with a hole, a clone an overlay: both take milliseconds whatever the size. A disk that others lie over is never
written to again; that is refused where a guest's disks are opened (`admit`). Callable from any thread; UserError.
"""

from __future__ import annotations

import fcntl
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from emulator.dom0.diskspec import POOL_PREFIX, DiskSpec
from emulator.dom0.storage import clone
from emulator.dom0.storage.image import MAX_SIZE, SECTOR
from emulator.dom0.storage.overlayfile import Header, may_lie_over, read_header
from emulator.errors import UserError, sendable
from emulator.folders import user_folder

SUFFIXES: Final = {".img": "raw", ".overlay": "overlay"}
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_SIZE: Final = re.compile(r"(\d{1,15})([kKmMgGtT]?)(?:i?[bB])?")
_MAX_CHAIN: Final = 17


@dataclass(frozen=True, slots=True)
class PoolDisk:
    """A disk as its files tell, nobody asked. `size`: bytes of the disk, 0 when it cannot be told; `held`: bytes that the file takes of
    the host's disk; `chain`: the images below it, nearest first; `trouble`: why it is of no use."""

    name: str
    path: Path
    format: str
    size: int = 0
    held: int = 0
    changed_unix: float = 0.0
    chain: tuple[Path, ...] = ()
    trouble: str = ""


def default_folder() -> Path:
    """$XENCONSOLE_DISKS, else xenconsole/disks in the user's data folder ($XDG_DATA_HOME, ~/.local/share). Raises UserError."""
    return user_folder("data", "disks", what="disks", variable="XENCONSOLE_DISKS")


def parse_size(text: str) -> int:
    """Bytes from `10G`, `512M`, `64k` or a plain number of bytes. Raises UserError."""
    match = _SIZE.fullmatch(text)
    size = int(match.group(1)) << 10 * " kmgt".index(match.group(2).lower() or " ") if match else 0
    if not SECTOR <= size <= MAX_SIZE or size % SECTOR:
        raise UserError(f"{ascii(text)[:40]} is not a disk's size", fix=f"512M, 10G, …; a multiple of {SECTOR} bytes, at most {MAX_SIZE >> 40}T")
    return size


def image_size(path: Path, fmt: str) -> int:
    """Bytes of the disk in an image; from an overlay its header alone is read. Raises UserError, OSError."""
    return _header(path).size if fmt == "overlay" else os.stat(path).st_size // SECTOR * SECTOR


def base_chain(path: Path, fmt: str) -> tuple[Path, ...]:
    """The images below one, nearest first, as far as the files may be opened (`may_lie_over`). Raises UserError, OSError."""
    chain: list[Path] = []
    while fmt == "overlay":
        header = _header(path)
        if not header.base:
            break
        below = Path(os.fsdecode(header.base))
        chain.append(below)
        if not may_lie_over(path, str(below), None):
            break
        path, fmt = below, header.base_format
        if len(chain) > _MAX_CHAIN:
            raise UserError("overlay: lies over itself, or too deep", where=str(path))
    return tuple(chain)


def _header(path: Path) -> Header:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        return read_header(descriptor, str(path))
    finally:
        os.close(descriptor)


class StoragePool:
    """See the module. Without a folder it is the user's own; the folder is made with the first disk."""

    def __init__(self, folder: Path | None = None) -> None:
        self._given = folder

    @property
    def folder(self) -> Path:
        return self._given or default_folder()

    def disks(self) -> tuple[PoolDisk, ...]:
        """All, by name."""
        try:
            with os.scandir(self.folder) as entries:
                paths = [Path(entry.path) for entry in entries if entry.is_file() and os.path.splitext(entry.name)[1] in SUFFIXES]
        except FileNotFoundError:
            return ()
        except OSError as bad:
            raise UserError("the storage pool cannot be read", where=str(self.folder), why=bad.strerror or str(bad)) from bad
        return tuple(self._disk(path) for path in sorted(paths))

    @staticmethod
    def _disk(path: Path) -> PoolDisk:
        disk = PoolDisk(sendable(path.stem), path, SUFFIXES[path.suffix])
        try:
            status = os.stat(path)
            disk = replace(disk, held=status.st_blocks * 512, changed_unix=status.st_mtime)
            disk = replace(disk, size=image_size(path, disk.format))
            return replace(disk, chain=base_chain(path, disk.format))
        except OSError as bad:
            return replace(disk, trouble=f"cannot be read: {bad.strerror or bad}")
        except UserError as bad:
            return replace(disk, trouble=bad.line())

    def find(self, name: str) -> PoolDisk:
        """A disk by its name. Raises UserError."""
        found = [disk for disk in self.disks() if disk.name == name]
        if len(found) == 1:
            return found[0]
        if found:
            raise UserError(f"two disks are called {name}", where=str(self.folder), fix="rename one of the files")
        raise UserError(f"no disk {ascii(name)[:80]} in the pool", where=str(self.folder), fix="disk-list lists them")

    def create(self, name: str, size: int) -> Path:
        """A new disk of `size` bytes, all zeros."""
        path = self._new(name, ".img")
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                os.ftruncate(descriptor, size)
            finally:
                os.close(descriptor)
        except OSError as bad:
            raise UserError("the disk cannot be made", where=str(path), why=bad.strerror or str(bad)) from bad
        return path

    def clone(self, source: str, name: str) -> Path:
        """A new disk with the contents of another, which must not be written to from now on."""
        base = self.find(source)
        path = self._new(name, ".overlay")
        clone(base.path, path, base.format)
        return path

    def _new(self, name: str, suffix: str) -> Path:
        if not _NAME.fullmatch(name):
            raise UserError(f"{ascii(name)[:80]} will not do as a disk's name", fix="letters, digits, . _ and -, at most 63")
        if any(disk.name == name for disk in self.disks()):
            raise UserError(f"a disk called {name} exists", where=str(self.folder))
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as bad:
            raise UserError("no folder for disks", where=str(self.folder), why=bad.strerror or str(bad)) from bad
        return self.folder / f"{name}{suffix}"

    def remove(self, name: str) -> Path:
        """Delete a disk that nobody uses and no other lies over."""
        disk = self.find(name)
        if clones := self.clones(disk.path):
            raise UserError(f"{name} is the base of {', '.join(clones)}", fix="remove those first")
        try:
            descriptor = os.open(disk.path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(disk.path)
            finally:
                os.close(descriptor)
        except BlockingIOError as bad:
            raise UserError(f"{name} is in use", where=str(disk.path), fix="block-detach it, or end the domain that has it") from bad
        except OSError as bad:
            raise UserError(f"{name} cannot be removed", where=str(disk.path), why=bad.strerror or str(bad)) from bad
        return disk.path

    def clones(self, path: Path) -> tuple[str, ...]:
        """Names of the pool's disks that lie right over an image."""
        real = os.path.realpath(path)
        return tuple(disk.name for disk in self.disks() if disk.chain and os.path.realpath(disk.chain[0]) == real)

    # --- guests' disks ---------------------------------------------------------------------------------------------------------

    def admit(self, spec: DiskSpec) -> DiskSpec:
        """A guest's disk with `pool:NAME` resolved; refused when it would write to what others lie over. Raises UserError."""
        target = str(spec.target)
        if target.startswith(POOL_PREFIX):
            disk = self.find(target.removeprefix(POOL_PREFIX))
            spec = replace(spec, target=disk.path, format=disk.format)
        real = Path(os.path.realpath(spec.target))
        if not spec.readonly and real.suffix in SUFFIXES and real.is_relative_to(os.path.realpath(self.folder)):
            clones = self.clones(spec.target)
            if clones:
                raise UserError(f"disk: {spec.vdev} would write to the base of {', '.join(clones)}", where=str(spec.target),
                                fix=f"disk-clone {spec.target.stem} NEW and use that, or access=ro")  # fmt: skip
        return spec
