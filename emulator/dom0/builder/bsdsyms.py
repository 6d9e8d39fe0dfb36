"""The symbol table that a BSD kernel wants behind itself in memory (ELF note BSD_SYMTAB).

Follows xen/common/libelf/libelf-loader.c (elf_parse_bsdsyms, elf_load_bsdsyms): behind the kernel, 8-aligned, come the size in
4 bytes, a copy of the ELF header, three section headers (none, symbols, strings), then the symbols and the strings.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from emulator.dom0.builder.elf import EHDR_SIZE, SHDR_SIZE, SHT_STRTAB, SHT_SYMTAB, Elf, Section
from emulator.errors import UserError

_SIZE_FIELD = 4
_HEADERS = EHDR_SIZE + 3 * SHDR_SIZE


@dataclass(frozen=True, slots=True)
class SymbolTable:
    """`blob` is loaded at `offset` bytes behind the image's first; `size` bytes are kept for it."""

    offset: int
    size: int
    blob: bytes = field(repr=False)


def load_symbols(elf: Elf) -> SymbolTable | None:
    """The table as it is to be loaded; None when the file has no symbols to give (libelf then leaves it out too)."""
    symtab = next((section for section in elf.sections[1:] if section.type == SHT_SYMTAB), None)
    if symtab is None or not 0 < symtab.link < len(elf.sections):
        return None
    strtab = elf.sections[symtab.link]
    if strtab.type != SHT_STRTAB:
        return None
    for name, section in (("symbol table", symtab), ("string table", strtab)):
        if section.offset + section.size > len(elf.data):
            why = f"{section.offset:#x} + {section.size:#x} > {len(elf.data):#x}"
            raise UserError(f"ELF sh_size: the {name} runs past the end of the file", where=elf.source, why=why)
    offset = _round(elf.pend) - elf.pstart
    symbols_at = _round(_SIZE_FIELD + _HEADERS)
    strings_at = _round(symbols_at + symtab.size)
    # libelf counts the size field twice over when it reserves the space; guests see the end that follows from it.
    size = _round(_round(_round(2 * _SIZE_FIELD + _HEADERS) + symtab.size) + strtab.size)
    blob = bytearray(strings_at + strtab.size)
    struct.pack_into("<I", blob, 0, len(blob) - _SIZE_FIELD)
    header = bytearray(elf.data[:EHDR_SIZE])
    struct.pack_into("<I", header, 20, 1)
    struct.pack_into("<QQ", header, 32, 0, EHDR_SIZE)
    struct.pack_into("<HHHHHH", header, 52, EHDR_SIZE, 0, 0, SHDR_SIZE, 3, 0)
    blob[_SIZE_FIELD : _SIZE_FIELD + EHDR_SIZE] = header
    at = _SIZE_FIELD + EHDR_SIZE + SHDR_SIZE
    blob[at : at + SHDR_SIZE] = _header(elf, symtab, symbols_at - _SIZE_FIELD, 2)
    blob[at + SHDR_SIZE : at + 2 * SHDR_SIZE] = _header(elf, strtab, strings_at - _SIZE_FIELD, strtab.link)
    blob[symbols_at : symbols_at + symtab.size] = elf.data[symtab.offset : symtab.offset + symtab.size]
    blob[strings_at:] = elf.data[strtab.offset : strtab.offset + strtab.size]
    return SymbolTable(offset, size, bytes(blob))


def _header(elf: Elf, section: Section, offset: int, link: int) -> bytes:
    header = bytearray(elf.data[section.header : section.header + SHDR_SIZE])
    struct.pack_into("<Q", header, 24, offset)
    struct.pack_into("<I", header, 40, link)
    return bytes(header)


def _round(value: int) -> int:
    return value + 7 & ~7
