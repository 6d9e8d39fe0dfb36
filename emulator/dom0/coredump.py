"""A domain's memory and vCPUs in Xen's core format (docs/misc/dump-core-format.txt, tools/libs/guest/xg_core.c), as crash and its like read it.

    ELF header, section headers | .note.Xen .xen_prstatus .xen_shared_info | .xen_pages | .xen_p2m | .shstrtab

The file is written aside and renamed when it is whole; pages of zeros are holes in it."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from struct import Struct
from typing import TYPE_CHECKING, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from emulator.abi.elfnote import (
    XEN_ELFNOTE_DUMPCORE_FORMAT_VERSION,
    XEN_ELFNOTE_DUMPCORE_HEADER,
    XEN_ELFNOTE_DUMPCORE_NONE,
    XEN_ELFNOTE_DUMPCORE_XEN_VERSION,
)
from emulator.abi.xen import HYPERVISOR_VIRT_START
from emulator.dom0.turns import in_turn
from emulator.errors import UserError
from emulator.folders import user_folder
from emulator.hypervisor.context import CONTEXT_BYTES, get_info
from emulator.hypervisor.hypercalls import version
from emulator.hypervisor.memory.frames import FREE

if TYPE_CHECKING:
    from emulator.dom0.guest import Guest
    from emulator.dom0.toolstack import Toolstack
    from emulator.hypervisor.domain import Domain

PAGE: Final = 4096
XC_CORE_MAGIC: Final = 0xF00FEBED
_EHDR: Final = Struct("<16sHHIQQQIHHHHHH")
_SHDR: Final = Struct("<IIQQQQIIQQ")
_NOTE: Final = Struct("<III4s")
_IDENT: Final = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")  # 64-bit, little-endian, System V
_ET_CORE, _EM_X86_64 = 4, 62
_SHT_NULL, _SHT_PROGBITS, _SHT_STRTAB, _SHT_NOTE = 0, 1, 3, 7
_CHUNK: Final = 1024  # pages


def default_folder() -> Path:
    """$XENCONSOLE_DUMPS, else xenconsole/dump in the user's state folder ($XDG_STATE_HOME, ~/.local/state). Raises UserError."""
    return user_folder("state", "dump", what="core dumps", variable="XENCONSOLE_DUMPS")


def path_of(name: str) -> Path:
    """Where the dump of a crashed domain goes: one a name, the last one stays, as with xl."""
    return default_folder() / (name if not name.startswith(".") else f"_{name}")


def keep(tools: Toolstack, guest: Guest) -> None:
    """on_crash = "coredump-…": a failure is told and the rest goes on, as with xl."""
    try:
        path = path_of(guest.name)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write(tools, guest, path)
    except OSError as bad:
        tools.say("error", guest.domid, f"{path.parent}: no folder for core dumps: {bad.strerror or bad}")
    except UserError as error:
        tools.say("error", guest.domid, error.line())


def write(tools: Toolstack, guest: Guest, path: Path) -> str:
    """xl dump-core: the domain stands still meanwhile. Raises UserError."""
    kib = in_turn(guest, lambda: dump(guest.domain, path)) >> 10
    said = f"core of {guest.name} written to {path}, {kib} KiB"
    tools.say("info", guest.domid, said)
    return said


def dump(domain: Domain, path: Path) -> int:
    """Write the core of a domain that stands still; bytes on the disk. Raises UserError, and leaves no part of a file then."""
    if not path.name:
        raise UserError("the core cannot be written", where=str(path), why="Is a directory")
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            with open(descriptor, "wb") as file:
                _write(domain, file)
                file.flush()
                os.fsync(file.fileno())
                size = os.fstat(file.fileno()).st_blocks * 512
            os.replace(aside, path)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise
    except OSError as bad:
        raise UserError("the core cannot be written", where=str(path), why=bad.strerror or str(bad)) from bad
    return size


def _write(domain: Domain, file: BinaryIO) -> None:
    pfns, mfns = _pages(domain)
    contexts = b"".join(get_info(vcpu) if vcpu.initialised else bytes(CONTEXT_BYTES) for vcpu in domain.vcpus)
    shared = bytes(domain.memory.frame(domain.layout.shared_info_mfn))
    p2m = np.stack([pfns, mfns], axis=1).astype("<u8")
    notes = _notes(domain, len(pfns))
    sections = [("", _SHT_NULL, 0, 0, 0), (".shstrtab", _SHT_STRTAB, 0, 0, 0), (".note.Xen", _SHT_NOTE, len(notes), 0, 0),
                (".xen_prstatus", _SHT_PROGBITS, len(contexts), 8, CONTEXT_BYTES), (".xen_shared_info", _SHT_PROGBITS, PAGE, 8, PAGE),
                (".xen_pages", _SHT_PROGBITS, len(pfns) * PAGE, PAGE, PAGE), (".xen_p2m", _SHT_PROGBITS, p2m.nbytes, 8, 16)]  # fmt: skip
    names = b"\0" + b"".join(name.encode() + b"\0" for name, *_rest in sections[1:])
    head = _EHDR.size + len(sections) * _SHDR.size
    places, at = {"": 0}, head
    for name, _kind, size, *_rest in sections[2:]:
        at = -(-at // PAGE) * PAGE if name == ".xen_pages" else at
        places[name], at = at, at + size
    places[".shstrtab"] = at
    if at + len(names) > _room(file):
        raise OSError(28, f"{at >> 20} MiB at most are needed, the disk has {_room(file) >> 20}")
    file.write(_EHDR.pack(_IDENT, _ET_CORE, _EM_X86_64, 1, 0, 0, _EHDR.size, 0, _EHDR.size, 0, 0, _SHDR.size, len(sections), 1))
    for name, kind, size, align, entry in sections:
        size = len(names) if name == ".shstrtab" else size
        file.write(_SHDR.pack(names.index(b"\0" + name.encode() + b"\0") + 1 if name else 0, kind, 0, 0, places[name], size, 0, 0, align, entry))
    file.write(notes + contexts + shared)
    for number, page in _filled(domain, mfns):
        file.seek(places[".xen_pages"] + number * PAGE)
        file.write(page)
    file.seek(places[".xen_p2m"])
    file.write(p2m.tobytes() + names)


def _room(file: BinaryIO) -> int:
    disk = os.fstatvfs(file.fileno())
    return disk.f_bavail * disk.f_frsize


def _pages(domain: Domain) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """PFNs and machine frames of all that the domain has, ascending by PFN; what has no PFN of its own is left out."""
    first = domain.layout.first_guest
    mfns = first + np.flatnonzero(domain.frames.owners[first:] != FREE)
    pfns = domain.layout.m2p[mfns]
    known = pfns < len(domain.p2m)
    order = np.argsort(pfns[known], kind="stable")
    return pfns[known][order], mfns[known][order]


def _filled(domain: Domain, mfns: NDArray[np.int64]) -> Iterator[tuple[int, bytes]]:
    """Pages that are not all zeros, by their place in the section."""
    words = domain.memory.quads.reshape(-1, PAGE // 8)
    for start in range(0, len(mfns), _CHUNK):
        pages = words[mfns[start : start + _CHUNK]]
        for number in np.flatnonzero(pages.any(axis=1)).tolist():
            yield start + number, pages[number].tobytes()


def _notes(domain: Domain, pages: int) -> bytes:
    xen = Struct("<QQ").pack(version.MAJOR, version.MINOR) + version.EXTRAVERSION + version.COMPILE_INFO + version.CAPABILITIES
    xen += version.CHANGESET + Struct("<QQ").pack(HYPERVISOR_VIRT_START, PAGE)
    found = ((XEN_ELFNOTE_DUMPCORE_NONE, b""), (XEN_ELFNOTE_DUMPCORE_HEADER, Struct("<4Q").pack(XC_CORE_MAGIC, len(domain.vcpus), pages, PAGE)),
             (XEN_ELFNOTE_DUMPCORE_XEN_VERSION, xen), (XEN_ELFNOTE_DUMPCORE_FORMAT_VERSION, Struct("<Q").pack(1)))  # fmt: skip
    return b"".join(_NOTE.pack(4, len(data), kind, b"Xen\0") + data for kind, data in found)
