"""A copy-on-write overlay: one file that holds what differs from a base image.

    0        header, 4096 bytes: magic, version, cluster and disk size, where the data begins, the base's path, size and
             time of change, CRC-32 of it all
    4096     map: a u32 a cluster: 0 the base's, 1 zeros, n + 2 the n-th cluster of the data
    data     clusters, in the order in which they were first written

The order on the disk is: data, then the map that names it. `flush` writes the data out (fdatasync), then the changed pieces of the
map, then waits for these. A map on disk therefore never names a cluster whose data isn't there, and after a flush names all;
what was written since the last one may be lost with the process, as on a disk with a cache. Clusters in use that no map on
disk names are free again after such a loss.

A cluster named by the map is written in place unless a mark (a snapshot's) still needs it; then it moves.

Clusters are 4 KiB, a file system's block, so that most writes replace a whole one; on disks above 16 GiB larger.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from emulator.dom0.storage.image import Usage, open_file, read_exactly, read_into_nowait, read_nowait, scatter, write_exactly
from emulator.dom0.storage.layout import BASE, OWN, ZERO, Layout, over
from emulator.dom0.storage.overlayfile import MAP_AT, MAP_PIECE, may_lie_over, read_header
from emulator.dom0.storage.pagecache import PageCache
from emulator.errors import UserError

if TYPE_CHECKING:
    from emulator.dom0.storage.image import Image

_MAX_DEPTH: Final = 16
_BASE, _ZERO, _FIRST = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Mark:
    """The map at one moment. It holds good as long as the image is open."""

    table: NDArray[np.uint32]


class OverlayImage:
    """See image.Image. `depth`: how many overlays lie over this one. Without `locked` it is for looking only: a writer may come. A base that
    does not lie beside its overlay is refused unless it is `named`."""

    def __init__(self, path: str | Path, *, readonly: bool, depth: int = 0, locked: bool = True, named: str | Path | None = None) -> None:
        from emulator.dom0.storage import open_base

        self.path, self.readonly = str(path), readonly
        if depth > _MAX_DEPTH:
            raise UserError("overlay: lies over itself, or too deep", where=self.path, why=f"more than {_MAX_DEPTH} bases")
        self.size = self._cluster = self._data_at = self._entries = 0
        self._lock = threading.Lock()
        self._descriptor = open_file(path, readonly=readonly, locked=locked)
        self._allowed = named
        self._cache = PageCache(self._descriptor)
        self._base: Image | None = None
        try:
            header = read_header(self._descriptor, self.path)
            self.size, self._cluster, self._data_at, self._entries = header.size, header.cluster, header.data_at, header.entries
            if header.base:
                name = os.fsdecode(header.base)
                if not may_lie_over(self.path, name, named):
                    raise UserError("overlay: its base is elsewhere", where=self.path, why=f"it names {ascii(name)[:200]}, which a guest would see",
                                    fix="if that is meant, say base=PATH in the disk's line")  # fmt: skip
                self._base = open_base(header.base, header.base_format, depth + 1, locked=locked, named=named)
                if self._base.size != header.base_size or os.stat(header.base).st_mtime_ns != header.changed:
                    raise UserError("overlay: its base has changed since", where=self.path, why=name,
                                    fix="what the overlay holds means nothing without the base as it was")  # fmt: skip
            self._table, self._used = self._read_map()
        except OSError as bad:
            self.close()
            raise UserError("overlay: cannot be read", where=self.path, why=bad.strerror or str(bad)) from bad
        except BaseException:
            self.close()
            raise
        self._dirty: set[int] = set()  # pieces of the map that the file has not
        taken = np.zeros(self._used, dtype=np.bool_)
        taken[self._table[self._table >= _FIRST] - _FIRST] = True
        self._free: list[int] = [int(number) for number in np.flatnonzero(~taken)[::-1]]  # data clusters that no map names, lowest last
        self._freed: list[int] = []  # those that the map on disk may still name
        self._frozen = 0  # data clusters below this belong to marks: never written in place

    def _read_map(self) -> tuple[NDArray[np.uint32], int]:
        table = np.frombuffer(read_exactly(self._descriptor, MAP_AT, self._entries * 4), dtype="<u4").astype(np.uint32)
        used = int(table.max(initial=0)) + 1 - _FIRST
        end = os.fstat(self._descriptor).st_size
        if used > 0 and self._data_at + (used - 1) * self._cluster >= end:
            raise UserError("overlay: its map names data beyond its end", where=self.path)
        held = table[table >= _FIRST]
        if len(np.unique(held)) != len(held):
            raise UserError("overlay: its map names data twice", where=self.path)
        return table, max(0, used)

    # --- reading -------------------------------------------------------------------------------------------------------------

    def _runs(self, offset: int, size: int) -> list[tuple[int, int, int]]:
        """(place, disk offset, bytes): pieces that lie together. Place: -2 the base, -1 zeros, else the file's offset."""
        first, last = offset // self._cluster, (offset + size - 1) // self._cluster
        cluster, runs = self._cluster, []
        at, end = offset, offset + size
        place = length = begin = 0
        for number, entry in enumerate(self._table[first : last + 1].tolist(), start=first):
            inside = at - number * cluster
            count = min(cluster - inside, end - at)
            here = entry - _FIRST if entry < _FIRST else self._data_at + (entry - _FIRST) * cluster + inside
            if length and (here == place if here < 0 else place >= 0 and here == place + length):
                length += count
            else:
                if length:
                    runs.append((place, begin, length))
                place, begin, length = here, at, count
            at += count
        runs.append((place, begin, length))
        return runs

    def read(self, offset: int, size: int) -> bytes:
        with self._lock:  # a cluster may move meanwhile: its old place stays as it was, or is written by this disk's own guest
            runs = self._runs(offset, size)
        return b"".join([self._read_run(*run) for run in runs])

    def _read_run(self, place: int, at: int, count: int) -> bytes:
        if place >= 0:
            return read_exactly(self._descriptor, place, count)
        return self._read_base(at, count) if place == -2 else bytes(count)

    def _read_base(self, at: int, count: int) -> bytes:
        base = self._base
        inside = 0 if base is None else max(0, min(count, base.size - at))
        data = base.read(at, inside) if base is not None and inside else b""
        return data + bytes(count - inside) if inside < count else data

    def read_cached(self, offset: int, size: int) -> bytes | bytearray | None:
        if not self._lock.acquire(blocking=False):
            return None
        try:
            runs = self._runs(offset, size)
        finally:
            self._lock.release()
        parts: list[bytes | bytearray] = []
        for place, at, count in runs:
            base = self._base
            part: bytes | bytearray | None
            if place >= 0:
                part = read_nowait(self._descriptor, place, count)
            elif place == -2 and base is not None and at + count <= base.size:
                part = base.read_cached(at, count)
            else:
                part = self._read_run(place, at, count)
            if part is None:
                return None
            parts.append(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def read_into(self, offset: int, size: int, views: list[memoryview]) -> bool:
        if not self._lock.acquire(blocking=False):
            return False
        try:
            runs = self._runs(offset, size)
        finally:
            self._lock.release()
        if len(runs) == 1 and runs[0][0] >= 0:
            return read_into_nowait(self._descriptor, runs[0][0], size, views)
        base = self._base
        if len(runs) == 1 and runs[0][0] == -2 and base is not None and offset + size <= base.size:
            return base.read_into(offset, size, views)
        data = self.read_cached(offset, size)
        if data is not None:
            scatter(data, views)
        return data is not None

    # --- writing ---------------------------------------------------------------------------------------------------------------

    def _pieces(self, offset: int, size: int) -> Iterator[tuple[int, int, int]]:
        """(cluster, first byte in it, bytes) of a range."""
        end = offset + size
        while offset < end:
            number, inside = divmod(offset, self._cluster)
            count = min(self._cluster - inside, end - offset)
            yield number, inside, count
            offset += count

    def _extent(self, number: int) -> int:
        """Bytes of the disk in a cluster; the last may be short."""
        return min(self._cluster, self.size - number * self._cluster)

    def write(self, offset: int, data: bytes) -> None:
        at = 0
        moved: dict[int, int] = {}
        chunks: list[tuple[int, bytes | memoryview]] = []
        view = memoryview(data)
        for number, inside, count in self._pieces(offset, len(data)):
            piece: bytes | memoryview = view[at : at + count]
            at += count
            entry = int(self._table[number])
            if entry >= _FIRST + self._frozen:
                place = self._data_at + (entry - _FIRST) * self._cluster + inside
            else:
                if count < self._extent(number):
                    old = self.read(number * self._cluster, self._extent(number))
                    piece = b"".join((old[:inside], piece, old[inside + count :]))
                moved[number] = self._allocate() + _FIRST
                place = self._data_at + (moved[number] - _FIRST) * self._cluster
            chunks.append((place, piece))
        try:
            self._write_chunks(chunks)
        except OSError:
            self._free.extend(entry - _FIRST for entry in moved.values())
            raise
        if moved:
            with self._lock:
                self._table[list(moved)] = list(moved.values())
                self._dirty.update(number // MAP_PIECE for number in moved)

    def write_from(self, offset: int, size: int, views: list[memoryview]) -> bool:
        cluster, cache, end = self._cluster, self._cache, offset + size
        entries = self._table[offset // cluster : (end - 1) // cluster + 1]
        if int(entries.min()) >= _FIRST + self._frozen and (np.diff(entries) == 1).all():
            place = self._data_at + (int(entries[0]) - _FIRST) * cluster + offset % cluster
            return cache.write(place, size, views)
        if offset % cluster or (end % cluster and end < self.size) or not cache.ready:
            return False  # the rest of a cluster may have to be read
        began = time.monotonic_ns()
        self.write(offset, b"".join(views))
        cache.took(time.monotonic_ns() - began)
        return True

    def _allocate(self) -> int:
        """A data cluster that neither a map nor a mark names."""
        if self._free:
            return self._free.pop()
        self._used += 1
        return self._used - 1

    def _write_chunks(self, chunks: list[tuple[int, bytes | memoryview]]) -> None:
        """Neighbours in one write."""
        index = 0
        while index < len(chunks):
            place, piece = chunks[index]
            parts, end = [piece], place + len(piece)
            index += 1
            while index < len(chunks) and chunks[index][0] == end:
                parts.append(chunks[index][1])
                end += len(parts[-1])
                index += 1
            write_exactly(self._descriptor, place, bytes(piece) if len(parts) == 1 else b"".join(parts))

    def flush(self) -> None:
        if self.readonly:
            return
        os.fdatasync(self._descriptor)
        if not self._dirty:
            return
        with self._lock:
            pieces = sorted(self._dirty)
            table = [(piece, self._table[piece * MAP_PIECE : (piece + 1) * MAP_PIECE].astype("<u4").tobytes()) for piece in pieces]
            self._dirty.clear()
            freed, self._freed = self._freed, []
        try:
            for piece, entries in table:
                write_exactly(self._descriptor, MAP_AT + piece * MAP_PIECE * 4, entries)
            os.fdatasync(self._descriptor)
        except OSError:
            with self._lock:
                self._dirty.update(pieces)
                self._freed = freed + self._freed
            raise
        self._free.extend(freed)

    def discard(self, offset: int, size: int) -> None:
        first, last = -(-offset // self._cluster), (offset + size) // self._cluster
        if offset + size == self.size:
            last = self._entries
        if last <= first:
            return
        with self._lock:
            held = self._table[first:last]
            # Used again only after a flush (the map on disk may name it), and never while a mark does.
            self._freed.extend((held[held >= _FIRST + self._frozen].astype(np.int64) - _FIRST).tolist())
            self._table[first:last] = _ZERO
            self._dirty.update(range(first // MAP_PIECE, (last - 1) // MAP_PIECE + 1))

    # --- the rest --------------------------------------------------------------------------------------------------------------

    def usage(self) -> Usage:
        held = os.fstat(self._descriptor).st_blocks * 512
        return Usage(self.size, held, int(np.count_nonzero(self._table >= _FIRST)) * self._cluster)

    def look(self) -> Callable[[], Image]:
        with self._lock:
            table = self._table.copy()

        def open_view() -> Image:
            view = OverlayImage(self.path, readonly=True, locked=False, named=self._allowed)
            view._table = table  # the file's own may be older
            return view

        return open_view

    def layout(self) -> Layout:
        with self._lock:
            table = np.minimum(self._table, _FIRST)
        starts = np.flatnonzero(np.diff(table, prepend=table[0] + 1))
        kinds = np.array([BASE, ZERO, OWN], dtype=np.uint8)[table[starts]]
        own = Layout(starts.astype(np.int64) * self._cluster, kinds, self.size)
        return over(own, self._base.layout() if self._base is not None else None)

    def mark(self) -> Mark:
        with self._lock:
            # Free clusters below are given up until the image is opened anew: "below" is all that tells who may be written.
            self._frozen, self._free, self._freed = self._used, [], []
            return Mark(self._table.copy())

    def rewind(self, mark: object) -> None:
        if not isinstance(mark, Mark):
            raise TypeError(f"no mark of an overlay: {type(mark).__name__}")
        with self._lock:
            changed = np.flatnonzero(self._table != mark.table)
            self._table[:] = mark.table
            self._frozen, self._free, self._freed = self._used, [], []
            self._dirty.update(np.unique(changed // MAP_PIECE).tolist())

    def close(self) -> None:
        if self._descriptor >= 0:
            try:
                if hasattr(self, "_dirty"):
                    self.flush()
            finally:
                os.close(self._descriptor)
                self._descriptor = -1
                if self._base is not None:
                    self._base.close()
