"""Disk images for the tests of the browser: what the host's tools make, and what they don't make everywhere, by hand."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import uuid
import zlib
from collections.abc import Mapping
from pathlib import Path

MIB = 1 << 20


class Bytes:
    """An image in memory, as far as the browser wants one."""

    path = "memory"

    def __init__(self, data: bytes) -> None:
        self.data, self.size = data, len(data)

    def read(self, offset: int, size: int) -> bytes:
        assert not offset % 512 and not size % 512 and 0 <= offset <= offset + size <= self.size
        return self.data[offset : offset + size]


def mkfs(kind: str) -> str | None:
    return shutil.which(f"mkfs.{kind}") or shutil.which(f"mkfs.{kind}", path="/usr/sbin:/sbin")


def a_folder(folder: Path) -> Path:
    """Files of every kind that a file system has trouble with."""
    folder.mkdir()
    (folder / "hello").write_text("hello\n")
    (folder / "empty").write_bytes(b"")
    (folder / "many").mkdir()
    for number in range(300):
        (folder / "many" / f"a rather long name for a file, number {number:03d}").write_text(str(number))
    with (folder / "sparse").open("wb") as file:
        for piece in (0, 100_000, 700_000, 2_500_000):
            file.seek(piece)
            file.write(os.urandom(5000))
    (folder / "noise").write_bytes(os.urandom(1_200_003))
    os.symlink("hello", folder / "short")
    os.symlink("d/" * 60 + "far", folder / "long")
    os.mkfifo(folder / "fifo")
    (folder / "deep" / "er" / "est").mkdir(parents=True)
    (folder / "deep" / "er" / "est" / "found").write_text("you did")
    (folder / os.fsdecode(b"odd\x1b[31m\xff")).write_text("odd")
    os.chmod(folder / "hello", 0o640)
    os.utime(folder / "hello", (1_600_000_000, 1_600_000_000))
    return folder


def make_ext(path: Path, kind: str, content: Path, block: int = 1024, mib: int = 16) -> bytes:
    with path.open("wb") as file:
        file.truncate(mib * MIB)
    subprocess.run([mkfs(kind) or "", "-q", "-F", "-L", "label", "-b", str(block), "-d", str(content), str(path)], check=True)
    return path.read_bytes()


def make_fat(bits: int, files: Mapping[str, bytes], clusters: int = 0) -> bytes:
    """A FAT with `files` in its root, by long names, and an empty directory `dir`. One sector a cluster."""
    clusters = clusters or {12: 2000, 16: 5000, 32: 66000}[bits]
    reserved, length = (32 if bits == 32 else 1), -(-(clusters + 2) * bits // 8 // 512) + 1
    roots = 0 if bits == 32 else 512
    data_at = reserved + 2 * length + roots * 32 // 512
    total = data_at + clusters
    boot = bytearray(512)
    boot[:3] = b"\xeb\x3c\x90"
    struct.pack_into("<HBHBHHBH", boot, 11, 512, 1, reserved, 2, roots, total if total < 1 << 16 else 0, 0xF8, 0 if bits == 32 else length)
    struct.pack_into("<I", boot, 32, total if total >= 1 << 16 else 0)
    if bits == 32:
        struct.pack_into("<I4xI", boot, 36, length, 2)
    at = 71 if bits == 32 else 43
    boot[at : at + 11] = b"LABEL      "
    boot[510:] = b"\x55\xaa"
    fat: dict[int, int] = {}
    contents: dict[int, bytes] = {}
    end = (1 << min(bits, 28)) - 1
    following = 3 if bits == 32 else 2

    def store(data: bytes) -> int:
        nonlocal following
        pieces = [data[i : i + 512] for i in range(0, len(data), 512)]
        first = following
        for index, piece in enumerate(pieces):
            contents[following] = piece
            fat[following] = following + 2 if index + 1 < len(pieces) else end  # every other cluster: no chain lies together
            following += 2
        return first if pieces else 0

    root = b""
    for number, (name, data) in enumerate(files.items()):
        root += _fat_entry(name, f"FILE{number:04d}TXT".encode(), 0x20, store(data), len(data))
    root += _fat_entry("", b"DIR        ", 0x10, store(bytes(512)), 0)
    if bits == 32:
        pieces = [root[i : i + 512] for i in range(0, len(root) + 1, 512)]
        place = 2
        for index, piece in enumerate(pieces):
            contents[place] = piece
            following += 2
            fat[place] = following if index + 1 < len(pieces) else end
            place = following
    table = bytearray(length * 512)
    for number, value in fat.items():
        if bits == 12:
            pair = int.from_bytes(table[number * 3 // 2 : number * 3 // 2 + 2], "little")
            pair |= value << 4 if number & 1 else value
            table[number * 3 // 2 : number * 3 // 2 + 2] = pair.to_bytes(2, "little")
        else:
            table[number * bits // 8 : (number + 1) * bits // 8] = value.to_bytes(bits // 8, "little")
    image = bytearray(total * 512)
    image[:512] = boot
    image[reserved * 512 : (reserved + length) * 512] = table
    if bits != 32:
        start = (reserved + 2 * length) * 512
        image[start : start + len(root)] = root
    for number, piece in contents.items():
        start = (data_at + number - 2) * 512
        image[start : start + len(piece)] = piece
    return bytes(image)


def _fat_entry(name: str, short: bytes, attributes: int, cluster: int, size: int) -> bytes:
    entry = b""
    units = name.encode("utf-16-le")
    if units:
        units += b"\0\0" if len(units) % 26 else b""
        units += b"\xff" * (-len(units) % 26)
        pieces = [units[i : i + 26] for i in range(0, len(units), 26)]
        for number in range(len(pieces), 0, -1):
            piece = pieces[number - 1]
            order = number | (0x40 if number == len(pieces) else 0)
            entry += bytes([order]) + piece[:10] + b"\x0f\0\0" + piece[10:22] + b"\0\0" + piece[22:]
    stamp = 40 << 9 | 2 << 5 | 3  # 2020-02-03
    return entry + struct.pack("<11sB8xHHHHI", short, attributes, cluster >> 16, 0, stamp, cluster & 0xFFFF, size)


def make_mbr(parts: Mapping[int, bytes]) -> bytes:
    """A disk with these partitions, those from 5 on in an extended one."""
    image = bytearray(2048 * 512)
    primary = {number: data for number, data in parts.items() if number < 5}
    logical = [data for number, data in sorted(parts.items()) if number > 4]

    def entry(at: int, index: int, kind: int, start: int, sectors: int) -> None:
        struct.pack_into("<B3xB3xII", image, at + 446 + 16 * index, 0, kind, start, sectors)
        image[at + 510 : at + 512] = b"\x55\xaa"

    for number, data in primary.items():
        entry(0, number - 1, 0x83, len(image) // 512, len(data) // 512)
        image += data
    if logical:
        extended = len(image) // 512
        entry(0, 3, 0x05, extended, sum(len(data) // 512 + 64 for data in logical))
        for index, data in enumerate(logical):
            here = len(image)
            image += bytes(64 * 512) + data
            entry(here, 0, 0x83, 64, len(data) // 512)
            if index + 1 < len(logical):
                entry(here, 1, 0x05, len(image) // 512 - extended, 64)
    return bytes(image)


def make_gpt(parts: Mapping[int, bytes]) -> bytes:
    image = bytearray(2048 * 512)
    table = bytearray(128 * 128)
    for number, data in parts.items():
        first = len(image) // 512
        image += data
        kind = uuid.UUID("0fc63daf-8483-4772-8e79-3d69d8477de4").bytes_le
        name = f"part {number}".encode("utf-16-le")
        struct.pack_into("<16s16sQQQ72s", table, (number - 1) * 128, kind, bytes(16), first, len(image) // 512 - 1, 0, name)
    image += bytes(MIB)
    last = len(image) // 512 - 1

    def header(here: int, other: int, at: int) -> bytes:
        fields = [b"EFI PART", 0x10000, 92, 0, here, other, 34, last - 34, bytes(16), at, 128, 128, zlib.crc32(table)]
        data = struct.pack("<8sIII4xQQQQ16sQIII", *fields)
        return data[:16] + struct.pack("<I", zlib.crc32(data)) + data[20:]

    struct.pack_into("<B3xB3xII", image, 446, 0, 0xEE, 1, last)
    image[510:512] = b"\x55\xaa"
    image[512:604] = header(1, last, 2)
    image[1024 : 1024 + len(table)] = table
    image[(last - 32) * 512 : last * 512] = table
    image[last * 512 : last * 512 + 92] = header(last, 1, last - 32)
    return bytes(image)
