"""A raw image: the file's bytes are the disk's."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from emulator.dom0.storage.image import Image, Usage, open_file, punch_hole, read_exactly, read_into_nowait, read_nowait, size_of, write_exactly
from emulator.dom0.storage.layout import Layout, file_layout
from emulator.dom0.storage.pagecache import PageCache
from emulator.errors import UserError


class RawImage:
    """See image.Image. The lock is held until `close`; without `locked` there is none: for looking only."""

    def __init__(self, path: str | Path, *, readonly: bool, locked: bool = True) -> None:
        self.path, self.readonly = str(path), readonly
        self.descriptor = open_file(path, readonly=readonly, locked=locked)
        self._cache = PageCache(self.descriptor)
        try:
            self.size = size_of(self.descriptor, self.path)
        except BaseException:
            os.close(self.descriptor)
            raise

    def read(self, offset: int, size: int) -> bytes:
        return read_exactly(self.descriptor, offset, size)

    def read_cached(self, offset: int, size: int) -> bytearray | None:
        return read_nowait(self.descriptor, offset, size)

    def read_into(self, offset: int, size: int, views: list[memoryview]) -> bool:
        return read_into_nowait(self.descriptor, offset, size, views)

    def write(self, offset: int, data: bytes) -> None:
        write_exactly(self.descriptor, offset, data)

    def write_from(self, offset: int, size: int, views: list[memoryview]) -> bool:
        return self._cache.write(offset, size, views)

    def flush(self) -> None:
        if not self.readonly:
            os.fdatasync(self.descriptor)

    def discard(self, offset: int, size: int) -> None:
        punch_hole(self.descriptor, offset, size)

    def usage(self) -> Usage:
        held = os.fstat(self.descriptor).st_blocks * 512
        return Usage(self.size, held, held)

    def look(self) -> Callable[[], Image]:
        return lambda: RawImage(self.path, readonly=True, locked=False)

    def layout(self) -> Layout:
        return file_layout(self.descriptor, self.size)

    def mark(self) -> object:
        if not self.readonly:
            raise UserError("a raw disk cannot go back in time", where=self.path, fix="format=overlay,base=… can")
        return None

    def rewind(self, mark: object) -> None:
        """Nothing was written since: a read-only disk has but one content."""

    def close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
