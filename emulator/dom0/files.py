"""Reading the files a user names, whatever they turn out to be: at most so many bytes, never a pipe or a device."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from emulator.errors import UserError

MAX_FILE: Final = 512 << 20
"""Bytes of a kernel or ramdisk file that are read at all."""


def user_path(text: str, what: str) -> Path:
    """A path as a person types it, ~ and ~user for homes; `what` it is wanted for. UserError for what is none."""
    if not text or "\0" in text:
        raise UserError(f"{what}: {ascii(text)[:80]} names no file")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise UserError(f"{what}: no such user", where=text) from None


def read_file(path: Path, what: str, limit: int = MAX_FILE) -> bytes:
    """A regular file's bytes; `what` is the field it stands for. UserError when missing, unreadable, special or too large."""
    where = str(path)
    try:
        # Without O_NONBLOCK a FIFO would keep us waiting for its writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise UserError(f"{what}: not a regular file", where=where)
            if status.st_size > limit:
                raise UserError(f"{what}: too large", where=where, why=f"{status.st_size} bytes, at most {limit} are read")
            with open(descriptor, "rb", closefd=False) as file:
                data = file.read(limit + 1)
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as bad:
        why = bad.strerror or str(bad) if isinstance(bad, OSError) else str(bad)
        raise UserError(f"{what}: cannot be read", where=where, why=why) from bad
    if len(data) > limit:
        raise UserError(f"{what}: too large", where=where, why=f"more than {limit} bytes")
    return data
