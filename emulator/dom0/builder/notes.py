"""What a kernel asks of its builder: Xen's ELF notes, or the older `__xen_guest` string.

Follows xen/common/libelf/libelf-dominfo.c. Notes are looked for in PT_NOTE segments, then in SHT_NOTE sections, then the
string section. Like libelf this is lenient about notes it does not know and about a list that runs out of the file; what is
needed and missing is told by `require_xen`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from emulator.abi import elfnote
from emulator.dom0.builder.elf import PT_NOTE, SHT_NOTE, Elf
from emulator.errors import UserError

MAX_NOTES: Final = 65536
"""libelf's ELF_MAX_TOTAL_NOTE_COUNT."""

MAX_NAME: Final = 15
"""Characters of GUEST_OS, LOADER and the like that libelf keeps."""

_OWNERS: Final = ("Xen", "name")
_MASK: Final = (1 << 64) - 1
_NUMBER: Final = {1: "<B", 2: "<H", 4: "<I", 8: "<Q"}


@dataclass(frozen=True, slots=True)
class GuestParams:
    """The kernel's wishes; None where it said nothing. Addresses are virtual, features bit sets by XENFEAT number."""

    origin: str = ""
    loader: str = ""
    guest_os: str = ""
    guest_version: str = ""
    xen_version: str = ""
    pae: str = "no"
    virt_base: int | None = None
    entry: int | None = None
    hypercall: int | None = None
    p2m_base: int | None = None
    paddr_offset: int | None = None
    hv_start_low: int | None = None
    l1_mfn_valid: tuple[tuple[int, int], ...] = ()
    unmapped_initrd: bool = False
    bsd_symtab: bool = False
    suspend_cancel: bool = False
    supported: int = 0
    required: int = 0


def read_params(elf: Elf) -> GuestParams:
    """The notes' (or the string's) contents, checked as elf_xen_note_check does. UserError when this is no Xen PV kernel."""
    params = GuestParams()
    areas = [(s.offset, s.offset + s.filesz) for s in elf.segments if s.type == PT_NOTE and s.offset]
    params = _from_notes(elf, areas, params)
    if not params.origin:
        areas = [(s.offset, s.offset + s.size) for s in elf.sections[1:] if s.type == SHT_NOTE]
        params = _from_notes(elf, areas, params)
    if not params.origin:
        section = elf.section_named("__xen_guest")
        if section is not None:
            params = _from_string(elf.string_at(section.offset) or "", elf.source)
    _require_xen(params, elf.source)
    return params


def _require_xen(params: GuestParams, source: str) -> None:
    if not params.origin:
        raise UserError(
            "no Xen PV kernel", where=source, why="neither Xen ELF notes nor a __xen_guest section",
            fix="a Linux kernel needs CONFIG_XEN_PV",
        )  # fmt: skip
    if not params.loader.startswith("generic") and not params.guest_os.startswith("linux"):
        raise UserError(
            "ELF note LOADER: not 'generic', nor is GUEST_OS 'linux'", where=source,
            why=f"LOADER {params.loader!r}, GUEST_OS {params.guest_os!r}",
        )  # fmt: skip
    if not params.xen_version.startswith("xen-3.0"):
        raise UserError("ELF note XEN_VERSION: not 'xen-3.0'", where=source, why=f"it is {params.xen_version!r}")
    for name, bit in elfnote.FEATURE_BITS.items():
        if params.required >> bit & 1 and bit in _IMPOSSIBLE:
            why = "an unprivileged PV domain does not have it"
            raise UserError(f"ELF note FEATURES: requires '{name}'", where=source, why=why)


_IMPOSSIBLE: Final = frozenset(
    (elfnote.XENFEAT_dom0, elfnote.XENFEAT_auto_translated_physmap, elfnote.XENFEAT_supervisor_mode_kernel)
)


def _from_notes(elf: Elf, areas: list[tuple[int, int]], params: GuestParams) -> GuestParams:
    count = 0
    for start, end in areas:
        for owner, kind, desc, size in _walk(elf.data, start, end):
            count += 1
            if count > MAX_NOTES:
                raise UserError("ELF notes: too many", where=elf.source, why=f"more than {MAX_NOTES}")
            if owner in _OWNERS:
                params = replace(_note(elf, kind, desc, size, params), origin="notes")
    return params


def _walk(data: bytes, start: int, end: int) -> Iterator[tuple[str, int, int, int]]:
    """(owner, type, offset of the description, its size) of each note that lies inside the file."""
    at = start
    while at < end and at + 12 <= len(data):
        namesz, descsz, kind = struct.unpack_from("<III", data, at)
        desc = at + 12 + (namesz + 3 & ~3)
        if desc + descsz > len(data):
            return
        yield data[at + 12 : at + 12 + min(namesz, 64)].split(b"\0", 1)[0].decode("latin-1"), kind, desc, descsz
        at = desc + (descsz + 3 & ~3)


def _note(elf: Elf, kind: int, desc: int, size: int, params: GuestParams) -> GuestParams:
    text = elf.string_at(desc) or ""
    name = text[:MAX_NAME]
    number = struct.unpack_from(_NUMBER[size], elf.data, desc)[0] if size in _NUMBER else 0
    match kind:
        case elfnote.XEN_ELFNOTE_LOADER:
            return replace(params, loader=name)
        case elfnote.XEN_ELFNOTE_GUEST_OS:
            return replace(params, guest_os=name)
        case elfnote.XEN_ELFNOTE_GUEST_VERSION:
            return replace(params, guest_version=name)
        case elfnote.XEN_ELFNOTE_XEN_VERSION:
            return replace(params, xen_version=name)
        case elfnote.XEN_ELFNOTE_PAE_MODE:
            return replace(params, pae="bimodal" if "bimodal" in text else "extended-cr3" if text == "yes" else params.pae)
        case elfnote.XEN_ELFNOTE_BSD_SYMTAB:
            return replace(params, bsd_symtab=params.bsd_symtab or text == "yes")
        case elfnote.XEN_ELFNOTE_VIRT_BASE:
            return replace(params, virt_base=number)
        case elfnote.XEN_ELFNOTE_ENTRY:
            return replace(params, entry=number)
        case elfnote.XEN_ELFNOTE_INIT_P2M:
            return replace(params, p2m_base=number)
        case elfnote.XEN_ELFNOTE_MOD_START_PFN:
            return replace(params, unmapped_initrd=bool(number))
        case elfnote.XEN_ELFNOTE_PADDR_OFFSET:
            return replace(params, paddr_offset=number)
        case elfnote.XEN_ELFNOTE_HYPERCALL_PAGE:
            return replace(params, hypercall=number)
        case elfnote.XEN_ELFNOTE_HV_START_LOW:
            return replace(params, hv_start_low=number)
        case elfnote.XEN_ELFNOTE_SUSPEND_CANCEL:
            return replace(params, suspend_cancel=bool(number))
        case elfnote.XEN_ELFNOTE_L1_MFN_VALID:
            pairs = struct.iter_unpack("<QQ", elf.data[desc : desc + min(size, 256) // 16 * 16])
            return replace(params, l1_mfn_valid=tuple((mask, value) for mask, value in pairs))
        case elfnote.XEN_ELFNOTE_FEATURES:
            supported, required = parse_features(text, elf.source)
            return replace(params, supported=params.supported | supported, required=params.required | required)
        case elfnote.XEN_ELFNOTE_SUPPORTED_FEATURES:
            word = struct.unpack_from("<I", elf.data, desc)[0] if size and size % 4 == 0 else 0
            return replace(params, supported=params.supported | word)
        case _:
            return params


def parse_features(text: str, source: str) -> tuple[int, int]:
    """(supported, required) bits of a FEATURES string: names parted by '|', '!' before a name makes it required."""
    supported = required = 0
    for item in text.split("|"):
        name = item.removeprefix("!")
        bit = elfnote.FEATURE_BITS.get(name)
        if bit is None:
            if item.startswith("!"):
                raise UserError(f"ELF note FEATURES: requires {name[:64]!r}", where=source, why="no such feature in Xen 4.17")
            continue
        supported |= 1 << bit
        if item.startswith("!"):
            required |= 1 << bit
    return supported, required


def _number(text: str) -> int:
    """strtoull(text, NULL, 0): leading digits count, anything else is 0; saturates at 64 bits."""
    text = text.strip().lower()
    base = 16 if text.startswith("0x") else 8 if text.startswith("0") else 10
    digits = text[2:] if base == 16 else text
    value = 0
    for char in digits[:64]:
        digit = int(char, 36) if char.isascii() and char.isalnum() else 36
        if digit >= base:
            break
        value = value * base + digit
    return min(value, _MASK)


def _from_string(text: str, source: str) -> GuestParams:
    """`NAME=value,NAME=value,…` of a __xen_guest section; there HYPERCALL_PAGE is a page number from VIRT_BASE."""
    params = GuestParams(origin="__xen_guest")
    for item in text.split(","):
        name, _, value = item.partition("=")
        match name:
            case "LOADER":
                params = replace(params, loader=value[:MAX_NAME])
            case "GUEST_OS":
                params = replace(params, guest_os=value[:MAX_NAME])
            case "GUEST_VER":
                params = replace(params, guest_version=value[:MAX_NAME])
            case "XEN_VER":
                params = replace(params, xen_version=value[:MAX_NAME])
            case "PAE":
                pae = "extended-cr3" if value == "yes[extended-cr3]" else "yes" if value.startswith("yes") else params.pae
                params = replace(params, pae=pae)
            case "BSD_SYMTAB":
                params = replace(params, bsd_symtab=True)
            case "VIRT_BASE":
                params = replace(params, virt_base=_number(value))
            case "VIRT_ENTRY":
                params = replace(params, entry=_number(value))
            case "ELF_PADDR_OFFSET":
                params = replace(params, paddr_offset=_number(value))
            case "HYPERCALL_PAGE":
                params = replace(params, hypercall=_number(value) << 12 & _MASK)
            case "FEATURES":
                supported, required = parse_features(value, source)
                params = replace(params, supported=params.supported | supported, required=params.required | required)
    if params.virt_base is not None and params.hypercall is not None:
        params = replace(params, hypercall=params.hypercall + params.virt_base & _MASK)
    return params
