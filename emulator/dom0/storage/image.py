"""What every disk image can do. Offsets and sizes in bytes, multiples of 512; callers stay inside `size`."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final, Protocol

from emulator.dom0.storage.layout import Layout
from emulator.errors import UserError

MAX_SIZE: Final = 1 << 40
"""Bytes of the largest disk."""
SECTOR: Final = 512
_PUNCH_HOLE_KEEP_SIZE: Final = 3  # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE


@dataclass(frozen=True, slots=True)
class Usage:
    """`held`: bytes of the host's disk that the image takes; `own`: bytes of the disk's contents that are the image's own."""

    size: int
    held: int
    own: int


class Image(Protocol):
    """Reads may come from any thread, at any time; writes, flushes and discards from one thread at a time. Errors are OSError."""

    path: str
    size: int
    readonly: bool

    def read(self, offset: int, size: int) -> bytes: ...

    def read_cached(self, offset: int, size: int) -> bytes | bytearray | None:
        """The bytes if the host has them in memory, without waiting; else None."""

    def read_into(self, offset: int, size: int, views: list[memoryview]) -> bool:
        """The same into memory of `size` bytes together; false, and anything in it, when the host would have to wait."""

    def write(self, offset: int, data: bytes) -> None: ...

    def write_from(self, offset: int, size: int, views: list[memoryview]) -> bool:
        """The same from memory of `size` bytes together; false, and any part of it written, when the host would have to wait."""

    def flush(self) -> None:
        """Everything written so far survives whatever comes, once this returns."""

    def discard(self, offset: int, size: int) -> None:
        """These bytes are of no use any more; they may read as anything that was there, or zeros."""

    def usage(self) -> Usage: ...

    def look(self) -> Callable[[], Image]:
        """What opens a second, read-only image of the present contents, with descriptors of its own and no lock; what is written later
        may be seen in it or not. To be called while nobody closes this one; UserError comes from the opening."""

    def layout(self) -> Layout:
        """What the contents are made of. Errors are OSError."""

    def mark(self) -> object:
        """Remember the contents as they are, for `rewind`. UserError when this kind of image cannot."""

    def rewind(self, mark: object) -> None:
        """Back to the contents at `mark`; later marks stay good."""

    def close(self) -> None: ...


def open_file(path: str | Path, *, readonly: bool, what: str = "disk", locked: bool = True) -> int:
    """A descriptor of a regular file or block device, locked against a second writer unless told not to. UserError says what is wrong."""
    where = str(path)
    flags = os.O_CLOEXEC | os.O_NONBLOCK | (os.O_RDONLY if readonly else os.O_RDWR)
    try:
        descriptor = os.open(path, flags)
    except (OSError, ValueError) as bad:
        why = (bad.strerror or str(bad)) if isinstance(bad, OSError) else str(bad)
        raise UserError(f"{what}: cannot be opened", where=where, why=why) from bad
    try:
        mode = os.fstat(descriptor).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
            raise UserError(f"{what}: neither a file nor a block device", where=where)
        if locked:
            _lock(descriptor, readonly, where, what)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _lock(descriptor: int, readonly: bool, where: str, what: str) -> None:
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if readonly else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as bad:
        why = "a domain writes to it" if readonly else "another domain uses it"
        raise UserError(f"{what}: in use", where=where, why=why, fix="one writer alone, or access=ro for all") from bad


def size_of(descriptor: int, where: str, what: str = "disk") -> int:
    """Whole sectors of an open file or device, in bytes. UserError when there are none, or too many."""
    size = os.lseek(descriptor, 0, os.SEEK_END) // SECTOR * SECTOR
    if not size:
        raise UserError(f"{what}: empty", where=where, fix="a disk has at least one sector of 512 bytes")
    if size > MAX_SIZE:
        raise UserError(f"{what}: too large", where=where, why=f"{size} bytes, at most {MAX_SIZE}")
    return size


def read_exactly(descriptor: int, offset: int, size: int) -> bytes:
    """`size` bytes; zeros where the file is shorter by now."""
    data = os.pread(descriptor, size, offset)
    if len(data) == size:
        return data
    parts = [data]
    got = len(data)
    while got < size:
        data = os.pread(descriptor, size - got, offset + got)
        if not data:
            parts.append(bytes(size - got))
            break
        parts.append(data)
        got += len(data)
    return b"".join(parts)


def read_nowait(descriptor: int, offset: int, size: int) -> bytearray | None:
    """`size` bytes if they are in the page cache, else None."""
    buffer = bytearray(size)
    try:
        if os.preadv(descriptor, [buffer], offset, os.RWF_NOWAIT) == size:
            return buffer
    except OSError as bad:
        if bad.errno not in (errno.EAGAIN, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
    return None


def read_into_nowait(descriptor: int, offset: int, size: int, views: list[memoryview]) -> bool:
    """Whether `views`, `size` bytes together, were filled from the page cache."""
    try:
        return os.preadv(descriptor, views, offset, os.RWF_NOWAIT) == size
    except OSError as bad:
        if bad.errno not in (errno.EAGAIN, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
    return False


def scatter(data: bytes | bytearray, views: list[memoryview]) -> None:
    """One piece of bytes over memory in pieces."""
    source, at = memoryview(data), 0
    for view in views:
        view[:] = source[at : at + len(view)]
        at += len(view)


def write_exactly(descriptor: int, offset: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view = view[written:]
        offset += written


@cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    return libc


def punch_hole(descriptor: int, offset: int, size: int) -> None:
    """Give the host its blocks back; where the file system cannot, nothing happens."""
    if size and _libc().fallocate(descriptor, _PUNCH_HOLE_KEEP_SIZE, offset, size):
        code = ctypes.get_errno()
        if code not in (errno.EOPNOTSUPP, errno.ENOSYS, errno.ENODEV):
            raise OSError(code, os.strerror(code))
