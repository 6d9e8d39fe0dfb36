"""The overlay's file: its header, and how a new one is made. See overlay for what lies behind the header."""

from __future__ import annotations

import os
import secrets
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from emulator.dom0.storage.image import MAX_SIZE, SECTOR, write_exactly
from emulator.errors import UserError

MAGIC: Final = b"XCOVERLY"
VERSION: Final = 1
HEADER: Final = struct.Struct("<8sIIQQQQHH")
"""magic, version, cluster bytes, disk bytes, data offset, base bytes, base mtime in ns, base's format (0 raw, 1 overlay), length of
the base's path that follows."""
BASE_FORMATS: Final = ("raw", "overlay")
HEADER_SIZE: Final = 4096
MAP_AT: Final = HEADER_SIZE
MAP_PIECE: Final = 1024  # entries of the map that are written at once: 4 KiB
_MAX_MAP_ENTRIES: Final = 1 << 22


@dataclass(frozen=True, slots=True)
class Header:
    """What an overlay says of itself. Sizes in bytes; `changed`: the base's time of change in ns; `base` is empty for none."""

    cluster: int
    size: int
    data_at: int
    base: bytes
    base_format: str
    base_size: int
    changed: int

    @property
    def entries(self) -> int:
        """Of the map."""
        return -(-self.size // self.cluster)


def read_header(descriptor: int, where: str) -> Header:
    """The header of an open overlay, checked. Raises UserError; OSError from the host's disk."""
    header = os.pread(descriptor, HEADER_SIZE, 0)
    if len(header) < HEADER_SIZE or header[:8] != MAGIC:
        raise UserError("no overlay", where=where, fix="format=raw, or make it with base=…")
    _, version, cluster, size, data_at, base_size, changed, base_format, length = HEADER.unpack_from(header)
    if version != VERSION:
        raise UserError(f"an overlay of version {version}", where=where, why=f"{VERSION} is known")
    if zlib.crc32(header[:-4]) != int.from_bytes(header[-4:], "little"):
        raise UserError("overlay: its header is damaged", where=where)
    entries = -(-size // cluster) if cluster else 0
    sizes_fit = 4096 <= cluster <= 1 << 20 and not cluster & cluster - 1 and SECTOR <= size <= MAX_SIZE and not size % SECTOR
    map_fits = entries <= _MAX_MAP_ENTRIES and sizes_fit and not data_at % cluster and MAP_AT + entries * 4 <= data_at <= MAX_SIZE
    if not map_fits or length > 3000 or base_format >= len(BASE_FORMATS):
        raise UserError("overlay: its header makes no sense", where=where)
    base = header[HEADER.size : HEADER.size + length]
    return Header(cluster, size, data_at, base, BASE_FORMATS[base_format], base_size, changed)


def may_lie_over(path: str | Path, base: str, named: str | Path | None) -> bool:
    """Whether an overlay at `path` may show a guest what is in the file `base` that its header names: one that lies beside it, or the one
    that the user has `named`. The header may be a stranger's, and any file of the host's be written in it; links are followed first."""
    real = os.path.realpath(base)
    return os.path.dirname(real) == os.path.dirname(os.path.realpath(path)) or (named is not None and real == os.path.realpath(named))


def cluster_size(size: int) -> int:
    """Of a new overlay: 4 KiB, doubled until the map fits 16 MiB."""
    cluster = 4096
    while -(-size // cluster) > _MAX_MAP_ENTRIES:
        cluster *= 2
    return cluster


def create_overlay(path: str | Path, *, base: str | Path | None = None, base_format: str = "raw", base_size: int = 0, size: int = 0) -> None:
    """Make an overlay's file, which must not exist: over `base` (of `base_size` bytes), or over nothing, `size` bytes of zeros."""
    where = str(path)
    size = size or base_size
    if not SECTOR <= size <= MAX_SIZE or size % SECTOR:
        raise UserError("overlay: not a disk's size", where=where, why=f"{size} bytes", fix=f"a multiple of 512, at most {MAX_SIZE}")
    cluster = cluster_size(size)
    name = os.fsencode(os.path.abspath(base)) if base is not None else b""
    if len(name) > 3000:
        raise UserError("overlay: the base's path is too long", where=where)
    entries = -(-size // cluster)
    data_at = -(-(MAP_AT + entries * 4) // cluster) * cluster
    changed = os.stat(base).st_mtime_ns if base is not None else 0
    fields = HEADER.pack(MAGIC, VERSION, cluster, size, data_at, base_size if base is not None else 0, changed,
                         BASE_FORMATS.index(base_format), len(name)) + name  # fmt: skip
    header = fields.ljust(HEADER_SIZE - 4, b"\0")
    header += zlib.crc32(header).to_bytes(4, "little")
    aside = f"{where}.{secrets.token_hex(4)}.new"
    try:
        descriptor = os.open(aside, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            write_exactly(descriptor, 0, header)
            os.ftruncate(descriptor, data_at)
            os.fdatasync(descriptor)
            os.link(aside, where)  # unlike a rename it fails when the name is taken
        finally:
            os.close(descriptor)
            os.unlink(aside)
    except OSError as bad:
        raise UserError("overlay: cannot be made", where=where, why=bad.strerror or str(bad)) from bad
