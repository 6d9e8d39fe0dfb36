"""FAT12, FAT16 and FAT32 with long names, read-only and sans-I/O (Microsoft's FAT specification 1.03). `where` of an entry is its first
cluster; 0 is an empty file, or the fixed root of FAT12 and FAT16."""

from __future__ import annotations

import calendar
import struct
from typing import Final

from emulator.dom0.storage.reader import MAX_ENTRIES, Absent, Damaged, Entry, Source, shown

_BPB: Final = struct.Struct("<11xHBHBHHBH4x4xI")
_DIRENT: Final = struct.Struct("<11sB8xHHHHI")
_READ_ONLY, _VOLUME, _DIRECTORY, _LONG = 0x01, 0x08, 0x10, 0x0F
_MAX_DIRECTORY: Final = 2 << 20
_CHUNK: Final = 4096


class FatFileSystem:
    """See reader.FileSystem. Raises Absent when there is none."""

    def __init__(self, source: Source) -> None:
        self._source = source
        boot = source.read(0, 512)
        sector, per_cluster, reserved, fats, roots, small, _, length, large = _BPB.unpack_from(boot)
        total = small or large
        length = length or int.from_bytes(boot[36:40], "little")
        plausible = sector in (512, 1024, 2048, 4096) and per_cluster and not per_cluster & per_cluster - 1 and reserved and fats in (1, 2)
        if boot[510:] != b"\x55\xaa" or boot[0] not in (0xE9, 0xEB) or not plausible or not length:
            raise Absent("no FAT")
        root_sectors = -(-roots * 32 // sector)
        data = reserved + fats * length + root_sectors
        self._clusters = (total - data) // per_cluster
        if self._clusters <= 0 or total * sector > source.size:
            raise Damaged("FAT: the boot sector makes no sense")
        self._bits = 12 if self._clusters < 4085 else 16 if self._clusters < 65525 else 32
        if length * sector * 8 < (self._clusters + 2) * self._bits:
            raise Damaged("FAT: the table is too short")
        self._cluster = sector * per_cluster
        self._fat_at, self._data_at = reserved * sector, data * sector
        self._root_at, self._root_size = (reserved + fats * length) * sector, root_sectors * sector
        self._root = int.from_bytes(boot[44:48], "little") if self._bits == 32 else 0
        self._chunks: dict[int, bytes] = {}
        self.kind = f"FAT{self._bits}"
        label = boot[71:82] if self._bits == 32 else boot[43:54]
        self.label = shown(label.rstrip(b" \0"))
        self.total, self.free = self._clusters * self._cluster, -1  # counting free clusters would read the whole table

    def root(self) -> Entry:
        return Entry("", "directory", where=self._root)

    # --- chains ----------------------------------------------------------------------------------------------------------------

    def _table(self, at: int) -> int:
        number, inside = divmod(at, _CHUNK)
        chunk = self._chunks.get(number)
        if chunk is None:
            if len(self._chunks) >= 64:
                self._chunks.clear()
            start = self._fat_at + number * _CHUNK
            chunk = self._chunks[number] = self._source.read(start, min(_CHUNK, self._source.size - start))
        if inside >= len(chunk):
            raise Damaged("the table ends too soon")
        return chunk[inside]

    def _next(self, cluster: int) -> int:
        """The cluster after one, 0 at the chain's end."""
        self._source.spend(1)
        if self._bits == 12:
            pair = self._table(cluster * 3 // 2) | self._table(cluster * 3 // 2 + 1) << 8
            value = pair >> 4 if cluster & 1 else pair & 0xFFF
        else:
            width = self._bits // 8
            value = sum(self._table(cluster * width + byte) << 8 * byte for byte in range(width)) & 0x0FFFFFFF
        if value >= (1 << min(self._bits, 28)) - 8:
            return 0
        return self._checked(value)

    def _checked(self, cluster: int) -> int:
        if not 2 <= cluster < self._clusters + 2:
            raise Damaged(f"a chain leads to cluster {cluster} of {self._clusters}")
        return cluster

    def _chain(self, first: int, skip: int, count: int) -> list[int]:
        """Up to `count` clusters of a chain after `skip` of them; a chain longer than the disk is refused."""
        found: list[int] = []
        cluster = self._checked(first)
        for step in range(min(skip + count, self._clusters + 1)):
            if step >= skip:
                found.append(cluster)
            cluster = self._next(cluster)
            if not cluster:
                return found
        if len(found) + skip > self._clusters:
            raise Damaged("a chain goes in circles")
        return found

    def _range(self, first: int, offset: int, size: int) -> bytes:
        skip, inside = divmod(offset, self._cluster)
        clusters = self._chain(first, skip, -(-(inside + size) // self._cluster))
        data = b"".join(self._source.read(self._data_at + (number - 2) * self._cluster, self._cluster) for number in clusters)
        return data[inside : inside + size]

    # --- as a file system ------------------------------------------------------------------------------------------------------------

    def entries(self, directory: Entry) -> list[Entry]:
        if directory.where:
            data = self._range(directory.where, 0, _MAX_DIRECTORY)
        elif self._bits != 32 and not directory.name:
            data = self._source.read(self._root_at, self._root_size)
        else:
            data = b""
        found: list[Entry] = []
        long: dict[int, bytes] = {}
        for at in range(0, len(data) - 31, 32):
            raw = data[at : at + 32]
            if raw[0] == 0:
                break
            if raw[0] == 0xE5:
                long = {}
            elif raw[11] & 0x3F == _LONG:
                long[raw[0] & 0x3F] = raw[1:11] + raw[14:26] + raw[28:32]
            else:
                entry = self._entry(raw, long)
                long = {}
                if entry is not None:
                    found.append(entry)
            if len(found) >= MAX_ENTRIES:
                break
        return found

    def _entry(self, raw: bytes, long: dict[int, bytes]) -> Entry | None:
        short, attributes, high, time, date, low, size = _DIRENT.unpack(raw)
        if attributes & _VOLUME or short[:1] == b".":
            return None
        name = _short_name(short)
        if long and sorted(long) == list(range(1, len(long) + 1)):
            units = b"".join(long[number] for number in sorted(long))
            name = units.decode("utf-16-le", "replace").partition("\0")[0].encode("utf-8", "replace")
        where = low | (high << 16 if self._bits == 32 else 0)
        mode = 0o555 if attributes & _READ_ONLY else 0o755
        kind = "directory" if attributes & _DIRECTORY else "file"
        return Entry(shown(name), kind, 0 if kind == "directory" else size, mode, mtime_unix=_unix(date, time), where=where)

    def read(self, file: Entry, offset: int, size: int) -> bytes:
        size = max(0, min(size, file.size - offset))
        return self._range(file.where, offset, size) if size and file.where else b""


def _short_name(short: bytes) -> bytes:
    stem, extension = short[:8].rstrip(b" "), short[8:].rstrip(b" ")
    stem = b"\xe5" + stem[1:] if stem[:1] == b"\x05" else stem
    return stem + (b"." + extension if extension else b"")


def _unix(date: int, time: int) -> int:
    """FAT knows local time without a zone: taken as UTC; nonsense is 0."""
    year, month, day = 1980 + (date >> 9), date >> 5 & 15, date & 31
    if not 1 <= month <= 12 or not 1 <= day <= 31:
        return 0
    return calendar.timegm((year, month, day, time >> 11, time >> 5 & 63, (time & 31) * 2))
