"""Small synthetic kernels for the builder's tests: an ELF file, a bzImage around it, notes of one's choice."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from emulator.abi import elfnote

EHDR = 64
PHDR = 56
SHDR = 64
BASE = 0xFFFF_FFFF_8000_0000
TEXT_PADDR = 0x10_0000


@dataclass(frozen=True)
class Load:
    """One loadable segment of a synthetic kernel."""

    paddr: int
    data: bytes
    memsz: int
    flags: int = 7


def note(kind: int, desc: bytes | int, owner: bytes = b"Xen") -> bytes:
    """One ELF note; a number becomes 8 bytes, text is closed by a NUL if it has none."""
    body = struct.pack("<Q", desc) if isinstance(desc, int) else desc
    name = owner + b"\0"
    return struct.pack("<III", len(name), len(body), kind) + name + bytes(-len(name) % 4) + body + bytes(-len(body) % 4)


def standard_notes(virt_base: int | None = BASE, entry: int | None = BASE + TEXT_PADDR) -> bytes:
    """What every kernel of these tests says unless a test says otherwise."""
    notes = note(elfnote.XEN_ELFNOTE_LOADER, b"generic\0") + note(elfnote.XEN_ELFNOTE_XEN_VERSION, b"xen-3.0\0")
    notes += note(elfnote.XEN_ELFNOTE_GUEST_OS, b"synthetic\0")
    if virt_base is not None:
        notes += note(elfnote.XEN_ELFNOTE_VIRT_BASE, virt_base)
    if entry is not None:
        notes += note(elfnote.XEN_ELFNOTE_ENTRY, entry)
    return notes


TEXT = Load(TEXT_PADDR, b"\x0f\x0b" * 100, 0x3000)


def make_elf(
    notes: bytes | None = None,
    loads: Sequence[Load] = (TEXT,),
    *,
    entry: int = 0,
    xen_guest: bytes | None = None,
    symbols: tuple[bytes, bytes] | None = None,
) -> bytes:
    """An ELF file: loads, one PT_NOTE with `notes`, sections for a `__xen_guest` string or (symbols, strings)."""
    notes = standard_notes() if notes is None else notes
    count = len(loads) + bool(notes)
    at = EHDR + count * PHDR
    headers, body = b"", b""
    for load in loads:
        offset, size = at + len(body), len(load.data)
        headers += struct.pack("<IIQQQQQQ", 1, load.flags, offset, load.paddr, load.paddr, size, load.memsz, 4096)
        body += load.data
    body += bytes(-len(body) % 8)
    if notes:
        headers += struct.pack("<IIQQQQQQ", 4, 4, at + len(body), 0, 0, len(notes), len(notes), 4)
        body += notes
    names = b"\0__xen_guest\0.symtab\0.strtab\0.shstrtab\0"
    sections = [(0, 0, b"", 0), (names.index(b".shstrtab"), 3, names, 0)]
    if xen_guest is not None:
        sections.append((names.index(b"__xen_guest"), 1, xen_guest, 0))
    if symbols is not None:
        sections.append((names.index(b".symtab"), 2, symbols[0], len(sections) + 1))
        sections.append((names.index(b".strtab"), 3, symbols[1], 0))
    table = b""
    for name, kind, data, link in sections:
        body += bytes(-len(body) % 8)
        table += struct.pack("<IIQQQQIIQQ", name, kind, 0, 0, at + len(body), len(data), link, 0, 8, 0)
        body += data
    body += bytes(-len(body) % 8)
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    ehdr = struct.pack(
        "<16sHHIQQQIHHHHHH", ident, 2, 62, 1, entry, EHDR, at + len(body), 0, EHDR, PHDR, count, SHDR, len(sections), 1
    )
    return ehdr + headers + body + table


def make_bzimage(payload: bytes, *, version: int = 0x20F, offset: int = 0, length: int | None = None) -> bytes:
    """A bzImage with one setup sector and this payload."""
    header = bytearray(1024)
    header[0x1F1] = 1
    header[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", header, 0x206, version)
    struct.pack_into("<II", header, 0x248, offset, len(payload) if length is None else length)
    return bytes(header) + payload


def with_size(compressed: bytes, image: bytes) -> bytes:
    """Linux appends the unpacked size to every payload but gzip's."""
    return compressed + struct.pack("<I", len(image))
