"""ext2, ext3 and ext4, read-only and sans-I/O (Documentation/filesystems/ext4 of Linux). A journal is not replayed: what is shown is what
the disk's own blocks say. `where` of an entry is its inode's number."""

from __future__ import annotations

import stat
import struct
from collections.abc import Iterator
from typing import Final

from emulator.dom0.storage.reader import MAX_ENTRIES, Absent, Damaged, Entry, Source, Spent, shown

_ROOT_INODE: Final = 2
_MAGIC: Final = 0xEF53
_EXTENT_MAGIC: Final = 0xF30A
_COMPRESSION, _JOURNAL_DEV, _META_BG, _EXTENTS, _64BIT = 0x1, 0x8, 0x10, 0x40, 0x80
_JOURNAL: Final = 0x4  # compat
_FL_EXTENTS, _FL_INLINE, _FL_ENCRYPT = 0x80000, 0x10000000, 0x800
_DIRENT: Final = struct.Struct("<IHBB")
_EXTENT_HEADER: Final = struct.Struct("<HHHH4x")
_EXTENT: Final = struct.Struct("<IHHI")
_EXTENT_INDEX: Final = struct.Struct("<IIH2x")
_KINDS: Final = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "link", stat.S_IFBLK: "device", stat.S_IFCHR: "device",
                 stat.S_IFIFO: "fifo", stat.S_IFSOCK: "socket"}  # fmt: skip
_MAX_DEPTH: Final = 5
_INLINE: Final = 60
_CACHED: Final = 256

Run = tuple[int, int, int]
"""First block of the file, first block of the disk (0: a hole), blocks."""


class _Inode:
    def __init__(self, number: int, data: bytes) -> None:
        mode, uid, size, mtime, gid, blocks, flags = struct.unpack_from("<HHI8xI4xH2xII", data)
        self.number, self.mode, self.flags, self.mtime, self.blocks = number, mode, flags, mtime, blocks
        self.kind = _KINDS.get(stat.S_IFMT(mode), "unknown")
        self.map = data[40:100]
        self.size: int = size | (int.from_bytes(data[108:112], "little") << 32 if self.kind in ("file", "directory") else 0)
        self.uid = uid | int.from_bytes(data[120:122], "little") << 16
        self.gid = gid | int.from_bytes(data[122:124], "little") << 16


class ExtFileSystem:
    """See reader.FileSystem. Raises Absent when there is none."""

    def __init__(self, source: Source) -> None:
        self._source = source
        block = source.read(1024, 1024)
        if struct.unpack_from("<H", block, 56)[0] != _MAGIC:
            raise Absent("no ext2, ext3 or ext4")
        inodes, blocks, _, free, _, first, log_size = struct.unpack_from("<7I", block)
        per_group, inodes_per_group = struct.unpack_from("<I4xI", block, 32)
        revision, (compat, incompat) = struct.unpack_from("<I", block, 76)[0], struct.unpack_from("<II", block, 92)
        inode_size = struct.unpack_from("<H", block, 88)[0] if revision else 128
        wide = bool(incompat & _64BIT)
        descriptor = struct.unpack_from("<H", block, 254)[0] if wide else 32
        if wide:
            blocks |= struct.unpack_from("<I", block, 336)[0] << 32
            free |= struct.unpack_from("<I", block, 344)[0] << 32
        if incompat & (_COMPRESSION | _JOURNAL_DEV | _META_BG):
            raise Damaged(f"ext: features {incompat:#x} are not read")
        self._block = 1024 << log_size if log_size <= 6 else 0
        fits = self._block and 128 <= inode_size <= self._block and not inode_size & inode_size - 1 and 32 <= descriptor <= self._block
        if not fits or not inodes_per_group or not per_group or first > 1 or blocks * self._block > source.size + self._block:
            raise Damaged("ext: the superblock makes no sense")
        self._inodes, self._per_group, self._inode_size = inodes, inodes_per_group, inode_size
        self._descriptors, self._descriptor = (first + 1) * self._block, descriptor
        self._cache: dict[int, bytes] = {}
        self.kind = "ext4" if incompat & (_EXTENTS | _64BIT) else "ext3" if compat & _JOURNAL else "ext2"
        self.label = shown(block[120:136].partition(b"\0")[0])
        self.total, self.free = blocks * self._block, free * self._block

    def root(self) -> Entry:
        return self._entry("", _ROOT_INODE)

    # --- inodes ----------------------------------------------------------------------------------------------------------------

    def _blocks(self, at: int, size: int) -> bytes:
        """A few bytes of one block, which is kept: neighbours are read next."""
        self._source.spend(1)
        number, inside = divmod(at, self._block)
        data = self._cache.get(number)
        if data is None:
            if len(self._cache) >= _CACHED:
                self._cache.clear()
            data = self._cache[number] = self._source.read(number * self._block, self._block)
        return data[inside : inside + size]

    def _inode(self, number: int) -> _Inode:
        if not 0 < number <= self._inodes:
            raise Damaged(f"inode {number} of {self._inodes}")
        group, index = divmod(number - 1, self._per_group)
        at = self._descriptors + group * self._descriptor
        entry = self._blocks(at, self._descriptor)
        if len(entry) < self._descriptor:
            raise Damaged(f"group {group} is described across two blocks")
        table = int.from_bytes(entry[8:12], "little") | (int.from_bytes(entry[40:44], "little") << 32 if self._descriptor >= 64 else 0)
        return _Inode(number, self._blocks(table * self._block + index * self._inode_size, self._inode_size))

    def _entry(self, name: str, number: int) -> Entry:
        inode = self._inode(number)
        target = shown_target(self._contents(inode, 0, min(inode.size, 4096))) if inode.kind == "link" else ""
        return Entry(name, inode.kind, inode.size, inode.mode & 0o7777, inode.uid, inode.gid, inode.mtime, target, number)

    # --- where a file's blocks lie ---------------------------------------------------------------------------------------------------

    def _runs(self, inode: _Inode, first: int, end: int) -> Iterator[Run]:
        """The runs that hold blocks `first` to `end` of a file; what no run holds is a hole."""
        if inode.flags & _FL_EXTENTS:
            yield from self._extents(inode.map, first, end, _MAX_DEPTH)
            return
        for block in range(first, end):
            place = self._mapped(inode.map, block)
            if place:
                yield block, place, 1

    def _extents(self, node: bytes, first: int, end: int, depth: int) -> Iterator[Run]:
        magic, count, _, below = _EXTENT_HEADER.unpack_from(node)
        if magic != _EXTENT_MAGIC or below > depth or 12 + count * 12 > len(node):
            raise Damaged("an extent tree makes no sense")
        self._source.spend(count)
        for index in range(count):
            if below:
                start, low, high = _EXTENT_INDEX.unpack_from(node, 12 + 12 * index)
                following = _EXTENT_INDEX.unpack_from(node, 24 + 12 * index)[0] if index + 1 < count else 1 << 32
                if start < end and following > first:
                    child = self._blocks((low | high << 32) * self._block, self._block)
                    yield from self._extents(child, first, end, below - 1)
                continue
            start, length, high, low = _EXTENT.unpack_from(node, 12 + 12 * index)
            written, length = length <= 32768, length if length <= 32768 else length - 32768
            begin, stop = max(start, first), min(start + length, end)
            if written and begin < stop:
                yield begin, (low | high << 32) + begin - start, stop - begin

    def _mapped(self, table: bytes, block: int) -> int:
        """ext2's map: twelve blocks, then one, two and three steps away."""
        if block < 12:
            return int.from_bytes(table[block * 4 : block * 4 + 4], "little")
        block -= 12
        each = self._block // 4
        for steps in (1, 2, 3):
            if block < each**steps:
                place = int.from_bytes(table[44 + steps * 4 : 48 + steps * 4], "little")
                for step in range(steps - 1, -1, -1):
                    if not place:
                        return 0
                    place = int.from_bytes(self._blocks(place * self._block + block // each**step % each * 4, 4), "little")
                return place
            block -= each**steps
        raise Damaged("a file's block beyond its map")

    def _contents(self, inode: _Inode, offset: int, size: int) -> bytes:
        size = max(0, min(size, inode.size - offset))
        if not size:
            return b""
        if inode.flags & _FL_ENCRYPT:
            raise Damaged("it is encrypted")
        if inode.flags & _FL_INLINE or (inode.kind == "link" and inode.size < _INLINE and not inode.flags & _FL_EXTENTS):
            if offset + size > _INLINE:
                raise Damaged("contents kept in the inode are read up to 60 bytes")
            return inode.map[offset : offset + size]
        self._source.spend(1 + (size >> 12))  # holes cost no read
        block = self._block
        data, first = bytearray(size), offset // block
        for begin, place, count in self._runs(inode, first, -(-(offset + size) // block)):
            start, stop = max(offset, begin * block), min(offset + size, (begin + count) * block)
            data[start - offset : stop - offset] = self._source.read(place * block + start - begin * block, stop - start)
        return bytes(data)

    # --- as a file system ------------------------------------------------------------------------------------------------------------

    def entries(self, directory: Entry) -> list[Entry]:
        inode = self._inode(directory.where)
        found: list[Entry] = []
        if inode.flags & _FL_INLINE:
            raise Damaged("a directory kept in its inode is not read")
        for start in range(0, inode.size, self._block):
            block = self._contents(inode, start, self._block)
            at = 0
            while at + _DIRENT.size <= len(block):
                number, length, name_length, _ = _DIRENT.unpack_from(block, at)
                length = 1 << 16 if length in (0, 0xFFFF) and self._block == 1 << 16 else length
                if length < _DIRENT.size or length % 4 or at + length > len(block) or name_length > length - _DIRENT.size:
                    raise Damaged(f"a directory's entry of {length} bytes at {start + at}")
                name = block[at + _DIRENT.size : at + _DIRENT.size + name_length]
                at += length
                if number and name not in (b".", b".."):
                    found.append(self._listed(shown(name), number))
                    if len(found) >= MAX_ENTRIES:
                        return found
        return found

    def _listed(self, name: str, number: int) -> Entry:
        """An entry whose inode is damaged is listed all the same."""
        try:
            return self._entry(name, number)
        except Spent:
            raise
        except Damaged as bad:
            return Entry(name, "unknown", target=str(bad), where=number)

    def read(self, file: Entry, offset: int, size: int) -> bytes:
        return self._contents(self._inode(file.where), offset, size)


def shown_target(target: bytes) -> str:
    """A link's target: a path, each of its words printable."""
    return "/".join(shown(word) for word in target.split(b"/"))
