"""Reading a 64-bit ELF kernel that nobody has vouched for.

Follows xen/common/libelf (elf_init, elf_parse_binary): what libelf refuses is refused, what it lets pass passes, and every
offset is checked against the file before it is used. It is written out rather than left to a library because the point is
the refusals: each names the field that is wrong.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from emulator.errors import UserError

EHDR_SIZE: Final = 64
PHDR_SIZE: Final = 56
SHDR_SIZE: Final = 64
PT_LOAD: Final = 1
PT_NOTE: Final = 4
PF_X, PF_W, PF_RWX = 1, 2, 7
SHT_SYMTAB: Final = 2
SHT_STRTAB: Final = 3
SHT_NOTE: Final = 7
EM_386: Final = 3
EM_X86_64: Final = 62
MAX_STRING: Final = 4096
"""libelf's ELF_MAX_STRING_LENGTH."""

_EHDR: Final = struct.Struct("<16sHHIQQQIHHHHHH")
_PHDR: Final = struct.Struct("<IIQQQQQQ")
_SHDR: Final = struct.Struct("<IIQQQQIIQQ")


@dataclass(frozen=True, slots=True)
class Segment:
    """A program header; `offset` and `filesz` are bytes in the file, `paddr` and `memsz` where it wants to be loaded."""

    index: int
    type: int
    flags: int
    offset: int
    paddr: int
    filesz: int
    memsz: int

    @property
    def loadable(self) -> bool:
        return self.type == PT_LOAD and bool(self.flags & PF_RWX)


@dataclass(frozen=True, slots=True)
class Section:
    """A section header, its name still an offset in the string table; `header` is its place in the file."""

    name: int
    type: int
    offset: int
    size: int
    link: int
    header: int


@dataclass(frozen=True, slots=True)
class Elf:
    """A checked ELF file: headers inside the file, loadable segments inside the file and inside 64 bits."""

    source: str
    data: bytes = field(repr=False)
    entry: int
    segments: tuple[Segment, ...]
    sections: tuple[Section, ...]
    shstrndx: int

    @property
    def loadable(self) -> tuple[Segment, ...]:
        return tuple(segment for segment in self.segments if segment.loadable)

    @property
    def pstart(self) -> int:
        """The lowest physical address loaded, as the ELF file counts them."""
        return min(segment.paddr for segment in self.loadable)

    @property
    def pend(self) -> int:
        return max(segment.paddr + segment.memsz for segment in self.loadable)

    def string_at(self, offset: int) -> str | None:
        """The NUL-terminated string there, or None when it runs out of the file or past libelf's limit."""
        if not 0 <= offset < len(self.data):
            return None
        end = self.data.find(b"\0", offset, offset + MAX_STRING + 1)
        return None if end < 0 else self.data[offset:end].decode("latin-1")

    def section_named(self, name: str) -> Section | None:
        if self.shstrndx >= len(self.sections):
            return None
        table = self.sections[self.shstrndx].offset
        return next((section for section in self.sections[1:] if self.string_at(table + section.name) == name), None)


def parse_elf(data: bytes, source: str) -> Elf:
    """Check the file's headers. UserError names the field at fault."""
    if len(data) < EHDR_SIZE or data[:4] != b"\x7fELF":
        raise UserError("not an ELF image", where=source, why=f"{len(data)} bytes, begins with {data[:4].hex() or 'nothing'}")
    ident, _, machine, _, entry, phoff, shoff, _, _, phentsize, phnum, shentsize, shnum, shstrndx = _EHDR.unpack_from(data)
    if machine == EM_386 or ident[4] == 1:
        raise UserError("ELF e_machine: a 32-bit kernel", where=source, why="only 64-bit PV guests run here")
    if ident[4] != 2 or ident[5] != 1 or machine != EM_X86_64:
        why = f"class {ident[4]}, data {ident[5]}, machine {machine}"
        raise UserError("ELF e_machine: no x86-64 kernel", where=source, why=why)
    segments = tuple(_segments(data, source, phoff, phentsize, phnum))
    if not any(segment.loadable for segment in segments):
        raise UserError("ELF e_phnum: nothing to load", where=source, why=f"{phnum} program headers, none of them loadable")
    sections = tuple(_sections(data, source, shoff, shentsize, shnum))
    return Elf(source, data, entry, segments, sections, shstrndx)


def _segments(data: bytes, source: str, phoff: int, entsize: int, count: int) -> Iterator[Segment]:
    if count and entsize < PHDR_SIZE:
        raise UserError(f"ELF e_phentsize: {entsize}", where=source, why=f"a program header has {PHDR_SIZE} bytes")
    if phoff + entsize * count > len(data):
        raise UserError("ELF e_phoff: program headers run past the end of the file", where=source, why="truncated?")
    for index in range(count):
        kind, flags, offset, _, paddr, filesz, memsz, _ = _PHDR.unpack_from(data, phoff + index * entsize)
        segment = Segment(index, kind, flags, offset, paddr, filesz, memsz)
        if segment.loadable:
            _check_loadable(segment, len(data), source)
        yield segment


def _check_loadable(segment: Segment, size: int, source: str) -> None:
    name = f"ELF program header {segment.index}"
    if segment.filesz > segment.memsz:
        raise UserError(f"{name} p_filesz: larger than p_memsz", where=source, why=f"{segment.filesz:#x} > {segment.memsz:#x}")
    if segment.offset + segment.filesz > size:
        why = f"{segment.offset:#x} + {segment.filesz:#x} > {size:#x}, truncated?"
        raise UserError(f"{name} p_offset: runs past the end of the file", where=source, why=why)
    if segment.paddr + segment.memsz >= 1 << 64:
        why = f"{segment.paddr:#x} + {segment.memsz:#x}"
        raise UserError(f"{name} p_memsz: wraps around the address space", where=source, why=why)


def _sections(data: bytes, source: str, shoff: int, entsize: int, count: int) -> Iterator[Section]:
    if not count:
        return
    if entsize < SHDR_SIZE:
        raise UserError(f"ELF e_shentsize: {entsize}", where=source, why=f"a section header has {SHDR_SIZE} bytes")
    if shoff + entsize * count > len(data):
        raise UserError("ELF e_shoff: section headers run past the end of the file", where=source, why="truncated?")
    for index in range(count):
        header = shoff + index * entsize
        name, kind, _, _, offset, size, link, _, _, _ = _SHDR.unpack_from(data, header)
        yield Section(name, kind, offset, size, link, header)
