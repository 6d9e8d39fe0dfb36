"""A kernel made ready: unpacked, checked, its wishes read and its addresses worked out.

Follows xen/common/libelf/libelf-dominfo.c (elf_xen_addr_calc_check) and tools/libs/guest/xg_dom_elfloader.c.
"""

from __future__ import annotations

from dataclasses import dataclass

from emulator.dom0.builder.bsdsyms import SymbolTable, load_symbols
from emulator.dom0.builder.elf import Elf, parse_elf
from emulator.dom0.builder.notes import GuestParams, read_params
from emulator.dom0.builder.payload import unwrap_kernel
from emulator.errors import UserError

_MASK = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class KernelImage:
    """A loadable kernel. Addresses are virtual; `hypercall` and `p2m_base` are None when the kernel has no such note."""

    source: str
    elf: Elf
    params: GuestParams
    virt_base: int
    entry: int
    kstart: int
    kend: int
    hypercall: int | None
    p2m_base: int | None
    symbols: SymbolTable | None

    @property
    def guest_os(self) -> str:
        return self.params.guest_os

    @property
    def guest_version(self) -> str:
        return self.params.guest_version


def load_kernel(data: bytes, *, source: str) -> KernelImage:
    """Unpack and check a kernel file's contents; `source` is the name that errors carry. UserError on anything amiss."""
    elf = parse_elf(unwrap_kernel(data, source), source)
    params = read_params(elf)
    if params.paddr_offset is not None and params.virt_base is None:
        raise UserError("ELF note PADDR_OFFSET: set without VIRT_BASE", where=source)
    virt_base = params.virt_base or 0
    paddr_offset = params.paddr_offset
    if paddr_offset is None:
        paddr_offset = virt_base if params.origin == "__xen_guest" else 0
    kstart = elf.pstart + virt_base - paddr_offset & _MASK
    kend = elf.pend + virt_base - paddr_offset & _MASK
    symbols = load_symbols(elf) if params.bsd_symtab else None
    if symbols is not None:
        kend = kstart + symbols.offset + symbols.size & _MASK
    entry = elf.entry if params.entry is None else params.entry
    if not virt_base <= kstart <= kend:
        raise UserError(
            "ELF note VIRT_BASE: the kernel would not lie above it", where=source,
            why=f"kernel {kstart:#x} to {kend:#x}, VIRT_BASE {virt_base:#x}, PADDR_OFFSET {paddr_offset:#x}",
        )  # fmt: skip
    if kstart & 0xFFF:
        raise UserError("ELF p_paddr: the kernel does not begin on a page", where=source, why=f"it begins at {kstart:#x}")
    if not kstart <= entry <= kend:
        raise UserError("ELF note ENTRY: outside the kernel", where=source, why=f"{entry:#x}, kernel {kstart:#x} to {kend:#x}")
    if params.p2m_base is not None and kstart <= params.p2m_base < kend:
        raise UserError("ELF note INIT_P2M: inside the kernel", where=source, why=f"{params.p2m_base:#x}")
    hypercall = None if params.hypercall == _MASK else params.hypercall
    if hypercall is not None and not kstart <= hypercall & ~0xFFF < kend:
        why = f"{hypercall:#x}, kernel {kstart:#x} to {kend:#x}"
        raise UserError("ELF note HYPERCALL_PAGE: outside the kernel", where=source, why=why)
    # A table that is not page aligned, or not below the kernel's own mapping, goes into that mapping after all.
    p2m_base = params.p2m_base
    if p2m_base is not None and (p2m_base >= virt_base or p2m_base & 0xFFF):
        p2m_base = None
    return KernelImage(source, elf, params, virt_base, entry, kstart, kend, hypercall, p2m_base, symbols)
