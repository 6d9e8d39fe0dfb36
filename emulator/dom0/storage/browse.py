"""A disk as a tree: partitions where there is a table (p1, p2, …), directories and files where there is a file system we read.

Paths begin with /; names in them are as `entries` gave them. UserError says what is not there or makes no sense.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from emulator.dom0.storage.ext import ExtFileSystem
from emulator.dom0.storage.fat import FatFileSystem
from emulator.dom0.storage.image import Image
from emulator.dom0.storage.partitions import Partition, read_partitions
from emulator.dom0.storage.reader import MAX_ENTRIES, Absent, Damaged, Entry, FileSystem, Source
from emulator.errors import UserError

MAX_PATH: Final = 4096
MAX_TEXT: Final = 1 << 20
"""Characters of names and links' targets in one listing: it must go over the wire."""
_MAX_STEPS: Final = 128
_Opened = tuple[FileSystem | None, str, tuple[Partition, ...], list[str]]


@dataclass(frozen=True)
class Listing:
    """A directory, or a disk's partitions. `filesystem`: its kind, or gpt or mbr for a table; bytes, -1 where not known."""

    path: str
    filesystem: str
    label: str
    total: int
    free: int
    entries: tuple[Entry, ...]
    cut: bool  # there are more


def list_directory(image: Image, path: str) -> Listing:
    """What is in a directory of a disk. Raises UserError."""
    try:
        return _Tree(image).listing(_words(path))
    except (Damaged, OSError) as bad:
        raise _mistake(image, path, bad) from bad


def read_file(image: Image, path: str, offset: int, size: int) -> tuple[Entry, bytes]:
    """A part of a file, and its entry. Raises UserError."""
    try:
        return _Tree(image).file(_words(path), offset, size)
    except (Damaged, OSError) as bad:
        raise _mistake(image, path, bad) from bad


def _words(path: str) -> list[str]:
    words = [word for word in path.split("/") if word]
    if len(path) > MAX_PATH or len(words) > _MAX_STEPS:
        raise UserError("too long a path", fix=f"at most {MAX_PATH} characters and {_MAX_STEPS} directories")
    return words


def _mistake(image: Image, path: str, bad: Exception) -> UserError:
    why = (bad.strerror or str(bad)) if isinstance(bad, OSError) else str(bad)
    return UserError(f"cannot show {ascii(path)[1:-1][:200] or '/'}", where=image.path, why=why)


class _Tree:
    """One look at a disk: all its reads are paid from one purse."""

    def __init__(self, image: Image) -> None:
        self._disk = Source(image.read, image.size)

    def listing(self, words: list[str]) -> Listing:
        system, table, partitions, rest = self._open(words)
        if system is None:
            entries = tuple(Entry(f"p{one.number}", "partition", one.size, target=" ".join(filter(None, (one.kind, one.label))), where=one.offset)
                            for one in partitions)  # fmt: skip
            return Listing("/", table, "", self._disk.size, -1, entries, False)
        directory = self._walk(system, rest)
        if directory.kind != "directory":
            raise Damaged(f"it is a {directory.kind}")
        found = system.entries(directory)
        text = itertools.accumulate(len(one.name) + len(one.target) for one in found)
        kept = tuple(one for one, so_far in zip(found, text, strict=True) if so_far <= MAX_TEXT)
        cut = len(found) >= MAX_ENTRIES or len(kept) < len(found)
        return Listing("/" + "/".join(words), system.kind, system.label, system.total, system.free, kept, cut)

    def file(self, words: list[str], offset: int, size: int) -> tuple[Entry, bytes]:
        system, _, _, rest = self._open(words)
        if system is None:
            raise Damaged("it is a disk with partitions")
        entry = self._walk(system, rest)
        if entry.kind not in ("file", "link"):
            raise Damaged(f"it is a {entry.kind}")
        return entry, system.read(entry, offset, size)

    def _open(self, words: list[str]) -> _Opened:
        """The file system that a path leads into, and the rest of the path; none for the table itself."""
        system = _file_system(self._disk, (FatFileSystem,))
        if system is None:
            # Before ext, whose superblock leaves the first sector alone: what lies behind a table may be of an older life.
            table, partitions = read_partitions(self._disk)
            if table:
                return self._partition(words, table, partitions)
            system = _file_system(self._disk, (ExtFileSystem,))
        if system is None:
            raise Damaged("neither a partition table nor a file system that is read here")
        return system, "", (), words

    def _partition(self, words: list[str], table: str, partitions: tuple[Partition, ...]) -> _Opened:
        if not words:
            return None, table, partitions, words
        for one in partitions:
            if words[0] == f"p{one.number}":
                system = _file_system(self._disk.part(one.offset, one.size), (FatFileSystem, ExtFileSystem))
                if system is None:
                    raise Damaged(f"no file system that is read here ({one.kind})")
                return system, "", (), words[1:]
        raise Damaged(f"no partition {ascii(words[0])[:20]}")

    @staticmethod
    def _walk(system: FileSystem, words: list[str]) -> Entry:
        entry = system.root()
        for word in words:
            if entry.kind != "directory":
                raise Damaged(f"{entry.name} is a {entry.kind}")
            found = next((one for one in system.entries(entry) if one.name == word), None)
            if found is None:
                raise Damaged(f"no {ascii(word)[:100]} there")
            entry = found
        return entry


def _file_system(source: Source, kinds: tuple[Callable[[Source], FileSystem], ...]) -> FileSystem | None:
    for kind in kinds:
        try:
            return kind(source)
        except Absent:
            continue
    return None
