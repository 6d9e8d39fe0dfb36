"""What the readers of partition tables and file systems share: bounded reads of an image that nobody vouches for.

A guest wrote these bytes and may have meant harm: every number is taken from one copy, checked before it is used, and the whole of a
question is paid from one purse of reads, so that loops and giant counts end it with an error of one line.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

MAX_ENTRIES: Final = 10_000
"""Entries of one directory that are listed."""
MAX_READS: Final = 40_000
MAX_READ_BYTES: Final = 256 << 20
MAX_STEPS: Final = 1 << 20
"""Entries of tables, trees and chains that are looked at for one question: a second or two."""


class Damaged(Exception):
    """What the disk says makes no sense; the text is one line for people."""


class Absent(Damaged):
    """There is no such file system here."""


class Spent(Damaged):
    """The purse is empty."""


class Source:
    """A range of a disk. `read(offset, size)` of the image; a part shares its purse with the whole."""

    def __init__(self, read: Callable[[int, int], bytes | bytearray], size: int, *, offset: int = 0, purse: list[int] | None = None) -> None:
        self._read, self.size, self._offset = read, size, offset
        self._purse = purse if purse is not None else [MAX_READS, MAX_READ_BYTES, MAX_STEPS]

    def part(self, offset: int, size: int) -> Source:
        if offset < 0 or size <= 0 or offset + size > self.size:
            raise Damaged(f"a part of {size} bytes at {offset} is not on a disk of {self.size} bytes")
        return Source(self._read, size, offset=self._offset + offset, purse=self._purse)

    def read(self, offset: int, size: int) -> bytes:
        """Exactly these bytes. Raises Damaged when they are not all there, or when too much was read already."""
        if offset < 0 or size < 0 or offset + size > self.size:
            raise Damaged(f"{size} bytes at {offset} are named, the {'part' if self._offset else 'disk'} has {self.size}")
        self._purse[0] -= 1
        self._purse[1] -= size
        self.spend(1)
        at = self._offset + offset
        first, last = at // 512 * 512, -(-(at + size) // 512) * 512
        data = self._read(first, last - first)
        return bytes(data[at - first : at - first + size])


    def spend(self, steps: int) -> None:
        """Pay for work that reads nothing new. Raises Spent."""
        self._purse[2] -= steps
        if min(self._purse) < 0:
            raise Spent("too much to read: what it says goes in circles or is vast")


@dataclass(frozen=True, slots=True)
class Entry:
    """A directory's entry. `name`: printable, unique in its directory as far as names there are; `where`: the reader's own word for it."""

    name: str
    kind: str  # file directory link device fifo socket partition unknown
    size: int = 0
    mode: int = 0  # permission bits
    uid: int = 0
    gid: int = 0
    mtime_unix: int = 0
    target: str = ""  # of a link
    where: int = 0


class FileSystem(Protocol):
    """A file system on a Source. All raise Damaged."""

    kind: str
    label: str
    total: int
    free: int

    def root(self) -> Entry: ...

    def entries(self, directory: Entry) -> list[Entry]:
        """Without . and .., at most MAX_ENTRIES."""

    def read(self, file: Entry, offset: int, size: int) -> bytes:
        """Fewer bytes at the file's end."""


def shown(name: bytes) -> str:
    """A name as one printable word: what cannot be shown, and / and the backslash, become \\xNN."""
    text = name.decode("utf-8", "surrogateescape")
    return "".join(char if _plain(char) else "".join(f"\\x{byte:02x}" for byte in char.encode("utf-8", "surrogateescape")) for char in text)


def _plain(char: str) -> bool:
    return char not in "/\\" and char.isprintable() and unicodedata.category(char) not in ("Cf", "Co", "Cn", "Cs")
