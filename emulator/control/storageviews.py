"""Frozen views of the storage pool: its disks, what each is made of, and what is in it. Sizes and offsets in bytes.

Disks are named as in the pool, those that a domain has from elsewhere by their path. What a guest wrote comes as printable text (names of
files, labels) or as bytes that the console shows in hex.
"""

from __future__ import annotations

import msgspec

from emulator.control.views import View

BLOCK_KINDS: tuple[str, ...] = ("zero", "base", "own")
"""Meaning of the codes in `DiskBlockMap.kinds`: nothing there yet, the base's bytes, bytes of the disk's own."""
MAX_CELLS = 1 << 16
MAX_CHUNK = 1 << 20


class DiskUseView(View, frozen=True):
    """A domain that has the disk."""

    domid: int
    domain: str = ""
    vdev: str = ""
    readonly: bool = False


class DiskView(View, frozen=True):
    """One disk."""

    name: str
    path: str = ""
    format: str = "raw"  # raw overlay
    size: int = 0
    held: int = 0  # of the host's disk
    changed_unix: float = 0.0
    chain: tuple[str, ...] = ()  # what it lies over, nearest first: names in the pool, paths of others
    clones: tuple[str, ...] = ()  # disks that lie right over it: it is never written to
    uses: tuple[DiskUseView, ...] = ()
    pooled: bool = True  # in the pool's folder
    trouble: str = ""  # why it is of no use


class StoragePoolView(View, frozen=True):
    """All disks."""

    folder: str = ""
    disks: tuple[DiskView, ...] = ()
    total: int = 0  # of the file system that the folder is on
    free: int = 0


class DiskBlockMap(View, frozen=True):
    """A disk in `cells` equal pieces of `block` bytes (the last may be short)."""

    name: str
    size: int = 0
    block: int = 0
    kinds: bytes = b""  # one code a piece: of what the most of it is, but zero only when all of it is
    own: bytes = b""  # how much of each piece is the disk's own: 0 none, 255 all
    totals: dict[str, int] = msgspec.field(default_factory=dict)  # bytes by kind


class FileView(View, frozen=True):
    """An entry of a directory, or a partition."""

    name: str
    kind: str = "file"  # file directory link device fifo socket partition unknown
    size: int = 0
    mode: int = 0  # permission bits
    uid: int = 0
    gid: int = 0
    mtime_unix: int = 0
    target: str = ""  # of a link; of a partition its type and label; of an unknown entry what is wrong


class DirectoryView(View, frozen=True):
    """A directory of a disk; of a disk with a partition table, the partitions at /, each a directory p1, p2, …"""

    disk: str
    path: str = "/"
    filesystem: str = ""  # ext2 ext3 ext4 FAT12 FAT16 FAT32, or gpt mbr for a table
    label: str = ""
    total: int = 0
    free: int = -1  # -1: not known
    entries: tuple[FileView, ...] = ()
    cut: bool = False  # there are more


class FileChunk(View, frozen=True):
    """Bytes of a disk (`path` is empty) or of a file on it, from `offset` on."""

    disk: str
    path: str = ""
    offset: int = 0
    data: bytes = b""
    size: int = 0  # of the disk or file
