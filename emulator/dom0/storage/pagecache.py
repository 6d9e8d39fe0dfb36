"""Writes that the host's page cache takes at once, done while a guest stands still.

A file system that knows RWF_NOWAIT for writes says when it would have to wait. Others (ext4, tmpfs) say nothing: there a write goes to the
cache as well, in microseconds, but may wait for a page to be read, for the journal, or until less is dirty. The first is looked for before.
The rest cannot be foreseen, so a write that took long ends such writes for a while, and for twice as long each time: a host that is busy with its
disk holds a guest up once in ten seconds at the most.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from typing import Final

_PAGE: Final = 4096
SLOW_NS: Final = 20_000_000
"""A write into memory is done long before, whoever else wants the CPU. Less than a domain's turn by credit."""
FIRST_REST_NS: Final = 50_000_000
LONGEST_REST_NS: Final = 10_000_000_000


class PageCache:
    """For one file. Errors are OSError; after one it is not known what was written."""

    def __init__(self, descriptor: int, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._descriptor, self._clock = descriptor, clock
        self._tells = True  # the file system takes RWF_NOWAIT, as far as is known
        self._resume = 0
        self._rest = FIRST_REST_NS

    @property
    def ready(self) -> bool:
        """Whether no write was slow of late."""
        return not self._resume or self._clock() >= self._resume

    def write(self, offset: int, size: int, views: list[memoryview]) -> bool:
        """Whether `views`, `size` bytes together, were written; if not, any part of them may have been."""
        if self._tells:
            try:
                return os.pwritev(self._descriptor, views, offset, os.RWF_NOWAIT) == size
            except OSError as bad:
                if bad.errno == errno.EAGAIN:
                    return False
                if bad.errno not in (errno.EOPNOTSUPP, errno.ENOSYS):
                    raise
                self._tells = False
        if not self.ready or ((offset | size) % _PAGE and not self._edges_cached(offset, offset + size)):
            return False
        began = self._clock()
        written = os.pwritev(self._descriptor, views, offset)
        self.took(self._clock() - began)
        return written == size

    def took(self, ns: int) -> None:
        """How long a write was in the making that could not say so itself."""
        if ns > SLOW_NS:
            self._resume = self._clock() + self._rest
            self._rest = min(2 * self._rest, LONGEST_REST_NS)
        elif self._resume and self._clock() - self._resume > self._rest:
            self._resume, self._rest = 0, FIRST_REST_NS

    def _edges_cached(self, start: int, end: int) -> bool:
        """Whether the pages that are written in part need no reading: in memory, or behind the file's end."""
        byte = bytearray(1)
        try:
            for edge in (start, end):
                if edge % _PAGE:
                    os.preadv(self._descriptor, [byte], edge // _PAGE * _PAGE, os.RWF_NOWAIT)
        except OSError as bad:
            if bad.errno not in (errno.EAGAIN, errno.EOPNOTSUPP, errno.ENOSYS):
                raise
            return False
        return True
