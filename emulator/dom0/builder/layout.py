"""Where everything of a new domain goes: the arithmetic of the domain builder, with no memory touched.

Follows tools/libs/guest/xg_dom_core.c (xc_dom_build_image) and xg_dom_x86.c. Pages are given out from VIRT_BASE upwards,
virtual addresses and PFNs in step:

    kernel, ramdisk*, p2m*, start_info, xenstore, console, page tables, boot stack, padding to 4 MiB, ramdisk**, p2m** and tables

    *  ramdisk unless MOD_START_PFN, p2m unless INIT_P2M       ** otherwise, and then outside the mapping (p2m: with its own)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from emulator.abi.start_info import MAX_GUEST_CMDLINE, SIF_MOD_START_PFN
from emulator.dom0.builder.image import KernelImage
from emulator.dom0.builder.pagetables import Mapping, count_tables
from emulator.errors import UserError

PAGE: Final = 4096
_PADDING: Final = 512 * 1024 // PAGE
_ALIGN: Final = (1 << 22) - 1
_HYPERVISOR: Final = (0xFFFF_8000_0000_0000, 0xFFFF_8800_0000_0000)
_CANONICAL: Final = 1 << 47


@dataclass(frozen=True, slots=True)
class Segment:
    """Virtual addresses [vstart, vend) and the frames from `pfn` on; an unmapped one has vstart where it would have been."""

    vstart: int
    vend: int
    pfn: int
    pages: int


@dataclass(frozen=True, slots=True)
class Layout:
    """Every address of the new domain. PFNs are the guest's own; `flags` are the SIF_ flags that follow from the layout."""

    nr_pages: int
    virt_base: int
    entry: int
    hypercall: int | None
    hypercall_pfn: int | None
    kernel: Segment
    p2m: Segment
    pgtables: Segment
    ramdisk: Segment | None
    start_info_pfn: int
    xenstore_pfn: int
    console_pfn: int
    bootstack_pfn: int
    virt_alloc_end: int
    virt_pgtab_end: int
    mappings: tuple[Mapping, ...]
    mod_start: int
    mod_len: int
    flags: int
    first_p2m_pfn: int
    nr_p2m_frames: int
    cmdline: bytes

    @property
    def used_pages(self) -> int:
        """PFNs from here on are free."""
        return max(self.p2m.pfn + self.p2m.pages, self.virt_pgtab_end - self.virt_base >> 12)

    def address(self, pfn: int) -> int:
        """The virtual address of a frame of the first mapping."""
        return self.virt_base + pfn * PAGE


class _Allocator:
    """Gives out pages in order, as xc_dom_alloc_segment does."""

    def __init__(self, image: KernelImage, nr_pages: int) -> None:
        self.source = image.source
        self.nr_pages = nr_pages
        self.vaddr = image.virt_base
        self.pfn = 0

    def take(self, what: str, size: int, source: str = "") -> Segment:
        pages = -(-size // PAGE)
        if pages > self.nr_pages - self.pfn:
            raise UserError(
                f"memory: {_mib(self.nr_pages)} is too little, {what} does not fit", where=source or self.source,
                why=f"{_mib(pages)} needed, {_mib(self.nr_pages - self.pfn)} left",
            )  # fmt: skip
        segment = Segment(self.vaddr, self.vaddr + size, self.pfn, pages)
        self.pfn += pages
        self.vaddr += pages * PAGE
        return segment

    def pad_to(self, vaddr: int) -> None:
        self.take("padding", vaddr - self.vaddr)


def _mib(pages: int) -> str:
    return f"{pages * PAGE / (1 << 20):.4g} MiB"


def plan_domain(image: KernelImage, *, nr_pages: int, ramdisk: bytes, cmdline: str, ramdisk_source: str = "") -> Layout:
    """Lay the domain out. UserError when it cannot be: too little memory, addresses out of bounds, a command line too long."""
    command = _command_line(cmdline)
    pages = _Allocator(image, nr_pages)
    if image.kstart > image.virt_base:
        pages.take("the gap below the kernel", image.kstart - image.virt_base)
    kernel = pages.take("the kernel", image.kend - image.kstart)
    copied = sum(segment.memsz for segment in image.elf.loadable)
    if copied > 2 * kernel.pages * PAGE:
        raise UserError("ELF p_memsz: program headers overlap too much", where=image.source, why=f"{copied:#x} bytes in all")
    flags = 0
    module: Segment | None = None
    mod_start = mod_len = 0
    if ramdisk and not image.params.unmapped_initrd:
        module = pages.take("the ramdisk", len(ramdisk), ramdisk_source)
        mod_start, mod_len = module.vstart, len(ramdisk)
    p2m = pages.take("the phys-to-machine list", nr_pages * 8) if image.p2m_base is None else None
    start_info_pfn, xenstore_pfn, console_pfn = (pages.take(what, PAGE).pfn for what in ("start_info", "xenstore", "console"))
    first, pgtab_end = _plan_bootstrap(image, pages)
    pgtables = pages.take("page tables", first.tables * PAGE)
    bootstack_pfn = pages.take("boot stack", PAGE).pfn
    pages.pad_to(pgtab_end)
    if ramdisk and module is None:
        module = pages.take("the ramdisk", len(ramdisk), ramdisk_source)
        flags |= SIF_MOD_START_PFN
        mod_start, mod_len = module.pfn, module.pages * PAGE
    mappings: tuple[Mapping, ...] = (first,)
    first_p2m_pfn = nr_p2m_frames = 0
    if p2m is None:
        assert image.p2m_base is not None
        second = _plan_p2m(image, pages, first)
        size = _round(nr_pages * 8)
        taken = pages.take("the phys-to-machine list", size + second.tables * PAGE)
        p2m = Segment(image.p2m_base, image.p2m_base + size, taken.pfn, taken.pages)
        mappings = (first, second)
        first_p2m_pfn, nr_p2m_frames = taken.pfn, taken.pages
    return Layout(
        nr_pages=nr_pages, virt_base=image.virt_base, entry=image.entry, hypercall=image.hypercall,
        hypercall_pfn=None if image.hypercall is None else image.hypercall - image.virt_base >> 12,
        kernel=kernel, p2m=p2m, pgtables=pgtables, ramdisk=module, start_info_pfn=start_info_pfn, xenstore_pfn=xenstore_pfn,
        console_pfn=console_pfn, bootstack_pfn=bootstack_pfn, virt_alloc_end=pages.vaddr, virt_pgtab_end=pgtab_end,
        mappings=mappings, mod_start=mod_start, mod_len=mod_len, flags=flags, first_p2m_pfn=first_p2m_pfn,
        nr_p2m_frames=nr_p2m_frames, cmdline=command,
    )  # fmt: skip


def _plan_bootstrap(image: KernelImage, pages: _Allocator) -> tuple[Mapping, int]:
    """The mapping from VIRT_BASE on, long enough for its own tables, the boot stack and 512 KiB more, in steps of 4 MiB."""
    extra = _PADDING + 1
    wanted = extra
    while True:
        last = pages.vaddr + wanted * PAGE | _ALIGN
        _check_range(image, "VIRT_BASE", image.virt_base, last)
        if last - image.virt_base >> 12 >= pages.nr_pages:
            raise UserError(
                f"memory: {_mib(pages.nr_pages)} is too little for the initial mapping", where=image.source,
                why=f"the kernel needs more than {_mib(last - image.virt_base >> 12)}",
            )  # fmt: skip
        mapping = count_tables((), image.virt_base, last, 0, pages.pfn, image.source)
        wanted = mapping.tables + extra
        if pages.vaddr + wanted * PAGE <= last + 1:
            return mapping, last + 1


def _plan_p2m(image: KernelImage, pages: _Allocator, first: Mapping) -> Mapping:
    """The mapping of the list at INIT_P2M, its tables behind it."""
    assert image.p2m_base is not None
    size = _round(pages.nr_pages * 8)
    last = image.p2m_base + size - 1
    _check_range(image, "INIT_P2M", image.p2m_base, last)
    return count_tables((first,), image.p2m_base, last, pages.pfn, pages.pfn + size // PAGE, image.source)


def _check_range(image: KernelImage, note: str, start: int, last: int) -> None:
    """Refuse what Xen's page-table validation would: non-canonical addresses, and Xen's own part of the address space."""
    low, high = last < _CANONICAL, start >= (1 << 64) - _CANONICAL and last < 1 << 64
    if not (low or high) or (start < _HYPERVISOR[1] and last >= _HYPERVISOR[0]):
        why = f"{start:#x} to {last:#x} is not all the guest's to map"
        raise UserError(f"ELF note {note}: bad address", where=image.source, why=why)


def _round(size: int) -> int:
    return size + PAGE - 1 & ~(PAGE - 1)


def _command_line(text: str) -> bytes:
    command = text.encode("utf-8", "replace")
    if b"\0" in command:
        raise UserError("cmdline: has a NUL character in it")
    if len(command) >= MAX_GUEST_CMDLINE:
        raise UserError("cmdline: too long", why=f"{len(command)} bytes, start_info has room for {MAX_GUEST_CMDLINE - 1}")
    return command
