"""In place of a disk where a recording is replayed: of that disk's size, and nothing in it. What the disk answered is in the log."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from emulator.dom0.storage.image import Image, Usage
from emulator.dom0.storage.layout import Layout
from emulator.errors import UserError


class RecordedImage:
    """An Image that was plugged in while the run was recorded. Nothing reaches it: a device that is not live asks nothing of its disk."""

    def __init__(self, path: str, size: int, readonly: bool) -> None:
        self.path, self.size, self.readonly = path, size, readonly

    def read(self, offset: int, size: int) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    def read_cached(self, offset: int, size: int) -> bytes | bytearray | None:
        return None

    def read_into(self, offset: int, size: int, views: list[memoryview]) -> bool:
        return False

    def write(self, offset: int, data: bytes) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    def write_from(self, offset: int, size: int, views: list[memoryview]) -> bool:
        return False

    def flush(self) -> None:
        pass

    def discard(self, offset: int, size: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    def usage(self) -> Usage:
        return Usage(self.size, 0, 0)

    def look(self) -> Callable[[], Image]:
        raise self._nothing()

    def layout(self) -> Layout:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    def mark(self) -> object:
        raise self._nothing()

    def rewind(self, mark: object) -> None:
        raise self._nothing()

    def _nothing(self) -> UserError:
        return UserError(f"{self.path} is a recording's", why="its contents are not here")

    def close(self) -> None:
        pass
