"""A scripted storage pool for the app's tests: StorageClient's API without an engine."""

from __future__ import annotations

from emulator.control.storageviews import (
    DirectoryView,
    DiskBlockMap,
    DiskUseView,
    DiskView,
    FileChunk,
    FileView,
    StoragePoolView,
)
from emulator.errors import UserError

GIB = 1 << 30
DISKS = (
    DiskView("debian", "/disks/debian.img", "raw", 4 * GIB, GIB, 1.7e9, clones=("web", "mail")),
    DiskView("web", "/disks/web.overlay", "overlay", 4 * GIB, GIB // 8, 1.71e9, ("debian",), uses=(DiskUseView(1, "web", "xvda"),)),
    DiskView("mail", "/disks/mail.overlay", "overlay", 4 * GIB, GIB // 32, 1.72e9, ("debian",)),
    DiskView("/srv/old.img", "/srv/old.img", "raw", GIB, GIB, 1.6e9, uses=(DiskUseView(2, "old", "xvda", True),), pooled=False),
)
FILES = (
    FileView("etc", "directory", 4096, 0o755, mtime_unix=1_700_000_000),
    FileView("vmlinuz", "link", 30, 0o777, target="boot/vmlinuz-6.1.0"),
    FileView("hello\\x1b[31m", "file", 300, 0o644, 1000, 1000, 1_700_000_100),
)


class FakeStorage:
    def __init__(self) -> None:
        self.disks = {disk.name: disk for disk in DISKS}

    def _disk(self, name: str) -> DiskView:
        if name not in self.disks:
            raise UserError(f"no disk {name!r}")
        return self.disks[name]

    async def pool(self) -> StoragePoolView:
        return StoragePoolView("/disks", tuple(self.disks.values()), 100 * GIB, 60 * GIB)

    async def block_map(self, disk: str, cells: int = 4096) -> DiskBlockMap:
        view = self._disk(disk)
        kinds = bytes((0, 1 if view.chain else 2, 2)[index * 7 // cells % 3] for index in range(cells))
        own = bytes(200 if kind == 2 else 0 for kind in kinds)
        block = view.size // cells
        totals = {name: kinds.count(code) * block for code, name in enumerate(("zero", "base", "own"))}
        return DiskBlockMap(disk, view.size, block, kinds, own, totals)

    async def directory(self, disk: str, path: str = "/") -> DirectoryView:
        view = self._disk(disk)
        if path == "/":
            return DirectoryView(disk, "/", "gpt", "", view.size, entries=(FileView("p1", "partition", view.size - (2 << 20), target="Linux root"),))
        if not path.startswith("/p1"):
            raise UserError(f"cannot show {path}", where=view.path, why="no partition there")
        return DirectoryView(disk, path, "ext4", "root", view.size, view.size // 2, FILES if path == "/p1" else ())

    async def read(self, disk: str, offset: int, size: int, path: str = "") -> FileChunk:
        whole = 300 if path else self._disk(disk).size
        return FileChunk(disk, path, offset, bytes((offset + index) & 0xFF for index in range(max(0, min(size, whole - offset)))), whole)
