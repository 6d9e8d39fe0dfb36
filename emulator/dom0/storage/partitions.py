"""Partition tables: MBR with its chain of logical partitions, and GPT (UEFI specification 2.10, chapter 5). Read-only, sans-I/O."""

from __future__ import annotations

import struct
import uuid
import zlib
from dataclasses import dataclass
from typing import Final

from emulator.dom0.storage.reader import Damaged, Source, shown

_ENTRY: Final = struct.Struct("<B3xB3xII")
_GPT: Final = struct.Struct("<8sIII4xQQQQ16sQIII")
_GPT_ENTRY: Final = struct.Struct("<16s16sQQQ72s")
_EXTENDED: Final = (0x05, 0x0F, 0x85)
_PROTECTIVE: Final = 0xEE
_MAX_LOGICAL: Final = 60
_MAX_GPT: Final = 128
_MBR_NAMES: Final = {
    0x01: "FAT12", 0x04: "FAT16", 0x06: "FAT16", 0x07: "NTFS or exFAT", 0x0B: "FAT32", 0x0C: "FAT32", 0x0E: "FAT16", 0x82: "Linux swap",
    0x83: "Linux", 0x8E: "Linux LVM", 0xEF: "EFI system", 0xFD: "Linux RAID",
}  # fmt: skip
_GPT_NAMES: Final = {
    "0fc63daf-8483-4772-8e79-3d69d8477de4": "Linux", "c12a7328-f81f-11d2-ba4b-00a0c93ec93b": "EFI system",
    "21686148-6449-6e6f-744e-656564454649": "BIOS boot", "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f": "Linux swap",
    "ebd0a0a2-b9e5-4433-87c0-68b6b72699c7": "basic data", "e6d6d379-f507-44c2-a23c-238f2a3df928": "Linux LVM",
    "4f68bce3-e8cd-4db1-96e7-fbcaf984b709": "Linux root (x86-64)", "bc13c2ff-59e6-4262-a352-b275fd6f7172": "Linux extended boot",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Partition:
    """`number` as Linux counts (xvda1 is 1). Bytes."""

    number: int
    offset: int
    size: int
    kind: str
    label: str = ""


def read_partitions(disk: Source) -> tuple[str, tuple[Partition, ...]]:
    """("gpt", "mbr" or "", the partitions that lie on the disk). "" when there is no table. Raises Damaged for one that lies."""
    if disk.size < 1024:
        return "", ()
    sector = disk.read(0, 512)
    if sector[510:] != b"\x55\xaa":
        return "", ()
    entries = [_ENTRY.unpack_from(sector, 446 + 16 * index) for index in range(4)]
    if any(flag & 0x7F for flag, *_ in entries) or not any(kind and size for _, kind, _, size in entries):
        return "", ()  # a boot sector of a file system ends in 55 aa as well
    if any(kind == _PROTECTIVE for _, kind, _, _ in entries):
        return "gpt", _gpt(disk)
    found: list[Partition] = []
    for index, (_, kind, start, sectors) in enumerate(entries):
        if kind in _EXTENDED and sectors:
            found += _logical(disk, start)
        elif kind and sectors and start and (start + sectors) * 512 <= disk.size:
            found.append(Partition(index + 1, start * 512, sectors * 512, _MBR_NAMES.get(kind, f"type {kind:#04x}")))
    return "mbr", tuple(found)


def _logical(disk: Source, extended: int) -> list[Partition]:
    """The chain of tables in an extended partition; a chain that goes in circles ends."""
    found: list[Partition] = []
    at, seen = extended, set[int]()
    while at not in seen and len(found) < _MAX_LOGICAL and (at + 1) * 512 <= disk.size:
        seen.add(at)
        sector = disk.read(at * 512, 512)
        if sector[510:] != b"\x55\xaa":
            break
        (_, kind, start, sectors), (_, next_kind, next_start, _) = _ENTRY.unpack_from(sector, 446), _ENTRY.unpack_from(sector, 462)
        if kind and start and sectors and (at + start + sectors) * 512 <= disk.size:
            found.append(Partition(5 + len(found), (at + start) * 512, sectors * 512, _MBR_NAMES.get(kind, f"type {kind:#04x}")))
        if next_kind not in _EXTENDED or not next_start:
            break
        at = extended + next_start
    return found


def _gpt(disk: Source) -> tuple[Partition, ...]:
    """By the first header, or the one at the disk's end when that is damaged."""
    trouble = ""
    for at in (512, disk.size // 512 * 512 - 512):
        try:
            return _gpt_at(disk, at)
        except Damaged as bad:
            trouble = trouble or str(bad)
    raise Damaged(f"GPT: {trouble}")


def _gpt_at(disk: Source, at: int) -> tuple[Partition, ...]:
    header = disk.read(at, 512)
    signature, _, length, crc, _, _, _, _, _, table, count, entry_size, table_crc = _GPT.unpack_from(header)
    if signature != b"EFI PART" or not _GPT.size <= length <= 512:
        raise Damaged("no header")
    if zlib.crc32(header[:16] + bytes(4) + header[20:length]) != crc:
        raise Damaged("the header's checksum is wrong")
    if entry_size < 128 or entry_size % 8 or count * entry_size > 1 << 20:
        raise Damaged(f"{count} entries of {entry_size} bytes")
    entries = disk.read(table * 512, count * entry_size)
    if zlib.crc32(entries) != table_crc:
        raise Damaged("the table's checksum is wrong")
    found = []
    for index in range(min(count, _MAX_GPT)):
        kind, _, first, last, _, name = _GPT_ENTRY.unpack_from(entries, index * entry_size)
        if any(kind) and first <= last and (last + 1) * 512 <= disk.size:
            guid = str(uuid.UUID(bytes_le=kind))
            label = shown(name.decode("utf-16-le", "replace").partition("\0")[0].encode("utf-8", "replace"))
            found.append(Partition(index + 1, first * 512, (last + 1 - first) * 512, _GPT_NAMES.get(guid, guid), label))
    return tuple(found)
