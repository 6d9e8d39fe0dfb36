"""The storage pool as consoles see it: verbs and views. Thread-safe; raises UserError for what the user can mend."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from emulator.control.storageviews import (
    BLOCK_KINDS,
    MAX_CELLS,
    MAX_CHUNK,
    DirectoryView,
    DiskBlockMap,
    DiskUseView,
    DiskView,
    FileChunk,
    FileView,
    StoragePoolView,
)
from emulator.dom0 import storageverbs
from emulator.dom0.storage.browse import list_directory, read_file
from emulator.dom0.storage.layout import OWN
from emulator.dom0.storage.pool import parse_size
from emulator.dom0.toolstack import Toolstack
from emulator.errors import UserError, sendable


class HostStorage:
    def __init__(self, tools: Toolstack) -> None:
        self._tools = tools

    # --- verbs ---------------------------------------------------------------------------------------------------------------

    def create(self, name: str, size: str) -> DiskView:
        """A new disk, all zeros; `size` as in 512M or 10G."""
        self._tools.storage.create(name, parse_size(size))
        return self._told(name, "created")

    def clone(self, source: str, name: str) -> DiskView:
        """A new disk over another, which is never written to again."""
        self._tools.storage.clone(source, name)
        return self._told(name, f"cloned from {source}")

    def remove(self, name: str) -> None:
        storageverbs.remove(self._tools, name)
        self._tools.say("info", 0, f"disk {name} removed")
        self._tools.tell("storage", 0)

    def _told(self, name: str, what: str) -> DiskView:
        self._tools.say("info", 0, f"disk {name} {what}")
        self._tools.tell("storage", 0)
        return self.disk(name)

    # --- views ---------------------------------------------------------------------------------------------------------------

    def pool(self) -> StoragePoolView:
        """Every disk, and how full the host's file system is."""
        folder = self._tools.storage.folder
        total = free = 0
        if os.path.isdir(folder):
            status = os.statvfs(folder)
            total, free = status.f_blocks * status.f_frsize, status.f_bavail * status.f_frsize
        reports = storageverbs.reports(self._tools)
        names = {os.path.realpath(one.disk.path): one.disk.name for one in reports}
        return StoragePoolView(sendable(str(folder)), tuple(_disk_view(one, names) for one in reports), total, free)

    def disk(self, name: str) -> DiskView:
        found = next((disk for disk in self.pool().disks if disk.name == name), None)
        if found is None:
            storageverbs.report(self._tools, name)
            raise UserError(f"no disk {ascii(name)[:80]}")
        return found

    def block_map(self, name: str, cells: int) -> DiskBlockMap:
        """What a disk is made of, in at most `cells` pieces."""
        with storageverbs.opened(self._tools, name) as image:
            try:
                layout = image.layout()
            except OSError as bad:
                raise UserError(f"{name} cannot be read", where=image.path, why=bad.strerror or str(bad)) from bad
        pieces = max(1, min(cells, MAX_CELLS))
        block = -(-layout.size // (pieces * 512)) * 512
        counts = np.stack([layout.bytes_of(kind, block) for kind in range(len(BLOCK_KINDS))])
        kinds = np.where(counts[1:].any(axis=0), 1 + counts[1:].argmax(axis=0), 0).astype(np.uint8)
        own = -(-counts[OWN] * 255 // np.maximum(counts.sum(axis=0), 1))
        totals = dict(zip(BLOCK_KINDS, (int(total) for total in counts.sum(axis=1)), strict=True))
        return DiskBlockMap(name, layout.size, block, kinds.tobytes(), own.astype(np.uint8).tobytes(), totals)

    def directory(self, name: str, path: str) -> DirectoryView:
        """What is in a directory of a disk, by its partition tables and file systems."""
        with storageverbs.opened(self._tools, name) as image:
            listing = list_directory(image, path)
        entries = tuple(FileView(one.name, one.kind, one.size, one.mode, one.uid, one.gid, one.mtime_unix, one.target) for one in listing.entries)
        return DirectoryView(name, listing.path, listing.filesystem, listing.label, listing.total, listing.free, entries, listing.cut)

    def read(self, name: str, offset: int, size: int, path: str) -> FileChunk:
        """Bytes of a disk, or with `path` of a file on it; fewer at the end."""
        offset, size = max(0, offset), max(0, min(size, MAX_CHUNK))
        with storageverbs.opened(self._tools, name) as image:
            if path:
                entry, data = read_file(image, path, offset, size)
                return FileChunk(name, path, offset, data, entry.size)
            size = max(0, min(size, image.size - offset))
            first, last = offset // 512 * 512, -(-(offset + size) // 512) * 512
            try:
                data = bytes(image.read(first, last - first))[offset - first : offset - first + size] if size else b""
            except OSError as bad:
                raise UserError(f"{name} cannot be read", where=image.path, why=bad.strerror or str(bad)) from bad
            return FileChunk(name, "", offset, data, image.size)


def _disk_view(report: storageverbs.DiskReport, names: dict[str, str]) -> DiskView:
    disk = report.disk
    uses = tuple(DiskUseView(use.domid, use.domain, use.vdev, use.readonly) for use in report.uses)
    chain = tuple(_name_of(path, names) for path in disk.chain)
    return DiskView(disk.name, sendable(str(disk.path)), disk.format, disk.size, disk.held, disk.changed_unix, chain, report.clones, uses,
                    report.pooled, disk.trouble)  # fmt: skip


def _name_of(path: Path, names: dict[str, str]) -> str:
    return names.get(os.path.realpath(path)) or sendable(str(path))
