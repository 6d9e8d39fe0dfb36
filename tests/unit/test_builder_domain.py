"""A synthetic kernel laid out and written: what the guest finds in its memory, read back through its own page tables."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from emulator.abi import elfnote
from emulator.abi.start_info import SIF_MOD_START_PFN, SIF_VIRT_P2M_4TOOLS, START_INFO_SIZE, StartInfo
from emulator.dom0.builder import BootIds, FirstState, KernelImage, Layout, load_kernel, plan_domain, write_domain
from emulator.errors import UserError
from tests.unit.kernels import BASE, TEXT, TEXT_PADDR, Load, make_elf, note, standard_notes

PAGES = 4096
P2M_BASE = 0x80_0000_0000


@dataclass
class Built:
    """A written domain with a page walk of its own."""

    image: KernelImage
    layout: Layout
    state: FirstState
    memory: NDArray[np.uint8]
    p2m: NDArray[np.uint64]

    def entry(self, vaddr: int) -> int:
        """The L1 entry for the address; KeyError when an upper level does not map it."""
        table = self.state.cr3
        for shift in (39, 30, 21, 12):
            (entry,) = struct.unpack_from("<Q", self.memory.data, table + (vaddr >> shift & 511) * 8)
            if not entry & 1:
                raise KeyError(hex(vaddr))
            if shift > 12:
                assert entry & 0xFFF == 0x067
            table = entry & ~0xFFF
        return int(entry)

    def read(self, vaddr: int, size: int) -> bytes:
        out = b""
        while len(out) < size:
            machine = (self.entry(vaddr + len(out)) & ~0xFFF) + (vaddr + len(out) & 0xFFF)
            out += self.memory[machine : machine + min(size - len(out), 4096 - machine % 4096)].tobytes()
        return out

    def pfn_of(self, vaddr: int) -> int:
        return int(np.flatnonzero(self.p2m == self.entry(vaddr) >> 12)[0])

    def start_info(self) -> StartInfo:
        return StartInfo.unpack(self.read(self.state.rsi, START_INFO_SIZE))


def build(elf: bytes, *, ramdisk: bytes = b"", cmdline: str = "", pages: int = PAGES) -> Built:
    image = load_kernel(elf, source="kernel")
    layout = plan_domain(image, nr_pages=pages, ramdisk=ramdisk, cmdline=cmdline)
    memory = np.full((pages + 100) * 4096, 0xAA, dtype=np.uint8)
    p2m = np.random.default_rng(1).permutation(np.arange(50, pages + 50, dtype=np.uint64))
    state = write_domain(layout, image, ramdisk, memory, p2m, BootIds(7, 3, 4))
    return Built(image, layout, state, memory, p2m)


def test_the_kernel_lies_where_it_was_linked_and_its_bss_is_zero() -> None:
    guest = build(make_elf())
    assert guest.state.rip == BASE + TEXT_PADDR
    assert guest.read(guest.state.rip, len(TEXT.data)) == TEXT.data
    assert not any(guest.read(guest.state.rip + len(TEXT.data), TEXT.memsz - len(TEXT.data)))


def test_start_info_tells_the_guest_about_itself() -> None:
    guest = build(make_elf(), ramdisk=b"cpio" * 3000, cmdline="console=hvc0 quiet")
    info = guest.start_info()
    assert info.magic == b"xen-3.0-x86_64"
    assert (info.nr_pages, info.shared_info, info.flags) == (PAGES, 7 * 4096, SIF_VIRT_P2M_4TOOLS)
    assert (info.store_evtchn, info.console_evtchn) == (4, 3)
    assert info.store_mfn == guest.p2m[guest.layout.xenstore_pfn] == guest.state.store_mfn
    assert info.console_mfn == guest.p2m[guest.layout.console_pfn] == guest.state.console_mfn
    assert info.cmd_line == b"console=hvc0 quiet"
    assert guest.read(info.mod_start, info.mod_len) == b"cpio" * 3000
    assert (info.first_p2m_pfn, info.nr_p2m_frames) == (0, 0)
    assert guest.entry(info.pt_base) >> 12 << 12 == guest.state.cr3
    assert np.array_equal(np.frombuffer(guest.read(info.mfn_list, PAGES * 8), dtype=np.uint64), guest.p2m)
    for pfn in (guest.layout.console_pfn, guest.layout.xenstore_pfn):
        assert not any(guest.read(guest.layout.address(pfn), 4096))
    assert guest.state.rsp == guest.layout.address(guest.layout.bootstack_pfn + 1)


def test_page_tables_map_everything_from_virt_base_on_and_themselves_read_only() -> None:
    guest = build(make_elf())
    layout = guest.layout
    tables = layout.mappings[0].table_pfns
    assert layout.virt_pgtab_end % (4 << 20) == 0
    for pfn in range(layout.virt_pgtab_end - layout.virt_base >> 12):
        assert guest.entry(layout.address(pfn)) == int(guest.p2m[pfn]) << 12 | (0x021 if pfn in tables else 0x023)
    with pytest.raises(KeyError):
        guest.entry(layout.virt_pgtab_end)
    with pytest.raises(KeyError):
        guest.entry(0)
    assert guest.start_info().nr_pt_frames == len(tables)


def test_init_p2m_maps_the_list_alone_with_tables_of_its_own() -> None:
    notes = standard_notes() + note(elfnote.XEN_ELFNOTE_INIT_P2M, P2M_BASE)
    guest = build(make_elf(notes))
    info = guest.start_info()
    assert info.mfn_list == P2M_BASE
    assert np.array_equal(np.frombuffer(guest.read(P2M_BASE, PAGES * 8), dtype=np.uint64), guest.p2m)
    assert (info.first_p2m_pfn, info.nr_p2m_frames) == (guest.layout.p2m.pfn, 8 + 3)
    assert guest.pfn_of(P2M_BASE) == info.first_p2m_pfn == guest.layout.virt_pgtab_end - BASE >> 12
    assert guest.entry(P2M_BASE) & 0xFFF == 0x023
    assert guest.layout.used_pages == info.first_p2m_pfn + 11


@pytest.mark.parametrize("p2m_base", [P2M_BASE + 8, BASE + 0x1000_0000])
def test_an_init_p2m_libxenguest_would_ignore_is_ignored(p2m_base: int) -> None:
    guest = build(make_elf(standard_notes() + note(elfnote.XEN_ELFNOTE_INIT_P2M, p2m_base)))
    assert guest.layout.p2m.vstart == guest.layout.address(guest.layout.p2m.pfn)
    assert guest.layout.first_p2m_pfn == 0


def test_a_list_just_below_the_kernel_shares_the_upper_tables() -> None:
    notes = standard_notes() + note(elfnote.XEN_ELFNOTE_INIT_P2M, BASE - (1 << 21))
    guest = build(make_elf(notes))
    assert [level.tables for level in guest.layout.mappings[1].levels] == [1, 1, 0, 0]
    assert np.array_equal(np.frombuffer(guest.read(BASE - (1 << 21), PAGES * 8), dtype=np.uint64), guest.p2m)


def test_mod_start_pfn_leaves_the_ramdisk_unmapped() -> None:
    notes = standard_notes() + note(elfnote.XEN_ELFNOTE_MOD_START_PFN, 1)
    guest = build(make_elf(notes), ramdisk=b"cpio" * 2000)
    info = guest.start_info()
    assert info.flags & SIF_MOD_START_PFN
    assert info.mod_start == guest.layout.virt_pgtab_end - BASE >> 12
    assert info.mod_len == 8192
    frame = int(guest.p2m[info.mod_start]) * 4096
    assert guest.memory[frame : frame + 4096].tobytes() == (b"cpio" * 1024)
    second = int(guest.p2m[info.mod_start + 1]) * 4096
    assert guest.memory[second : second + 4096].tobytes() == (b"cpio" * 976).ljust(4096, b"\0")


def test_without_virt_base_a_kernel_runs_at_zero() -> None:
    guest = build(make_elf(standard_notes(None, TEXT_PADDR)))
    assert guest.state.rip == TEXT_PADDR
    assert guest.read(TEXT_PADDR, len(TEXT.data)) == TEXT.data


def test_paddr_offset_is_taken_from_the_elf_addresses() -> None:
    notes = standard_notes() + note(elfnote.XEN_ELFNOTE_PADDR_OFFSET, BASE)
    guest = build(make_elf(notes, [Load(BASE + TEXT_PADDR, TEXT.data, TEXT.memsz)]))
    assert guest.read(BASE + TEXT_PADDR, len(TEXT.data)) == TEXT.data
    assert guest.layout.kernel.pfn == TEXT_PADDR >> 12


def test_a_hypercall_page_is_told_to_who_fills_it() -> None:
    layout = build(make_elf(standard_notes() + note(elfnote.XEN_ELFNOTE_HYPERCALL_PAGE, BASE + TEXT_PADDR + 0x1000))).layout
    assert (layout.hypercall, layout.hypercall_pfn) == (BASE + TEXT_PADDR + 0x1000, (TEXT_PADDR >> 12) + 1)
    assert build(make_elf()).layout.hypercall_pfn is None


def test_a_later_segment_overwrites_an_earlier_one() -> None:
    guest = build(make_elf(loads=[Load(TEXT_PADDR, b"a" * 4096, 8192), Load(TEXT_PADDR + 2048, b"b" * 16, 32)]))
    assert guest.read(BASE + TEXT_PADDR, 4096) == b"a" * 2048 + b"b" * 16 + bytes(16) + b"a" * 2016


def test_frames_the_layout_does_not_use_are_left_alone() -> None:
    guest = build(make_elf())
    frame = int(guest.p2m[guest.layout.used_pages]) * 4096
    assert guest.memory[frame : frame + 4096].tobytes() == b"\xaa" * 4096
    assert guest.memory[: 50 * 4096].tobytes() == b"\xaa" * 4096 * 50


def test_the_xen_guest_string_counts_the_hypercall_page_from_virt_base() -> None:
    text = b"GUEST_OS=bsd,LOADER=generic,XEN_VER=xen-3.0,VIRT_BASE=0xffffffff80000000,HYPERCALL_PAGE=0x101,PAE=yes,\0"
    paddr = BASE + TEXT_PADDR  # without ELF_PADDR_OFFSET these old kernels have VIRT_BASE in their ELF addresses
    guest = build(make_elf(b"", [Load(paddr, TEXT.data, TEXT.memsz)], entry=paddr, xen_guest=text))
    assert guest.image.params.origin == "__xen_guest"
    assert guest.layout.hypercall == BASE + 0x101000
    assert guest.read(BASE + TEXT_PADDR, len(TEXT.data)) == TEXT.data


def test_a_bsd_kernel_finds_its_symbols_behind_itself() -> None:
    notes = standard_notes() + note(elfnote.XEN_ELFNOTE_BSD_SYMTAB, b"yes\0")
    symbols, strings = b"S" * 48, b"\0main\0"
    guest = build(make_elf(notes, symbols=(symbols, strings)))
    at = BASE + TEXT_PADDR + TEXT.memsz
    (size,) = struct.unpack("<I", guest.read(at, 4))
    table = guest.read(at + 4, size)
    assert table[:4] == b"\x7fELF"
    shoff, shnum = struct.unpack_from("<Q", table, 40)[0], struct.unpack_from("<H", table, 60)[0]
    assert (shoff, shnum) == (64, 3)
    for index, expected in ((1, symbols), (2, strings)):
        offset, length = struct.unpack_from("<QQ", table, shoff + index * 64 + 24)
        assert table[offset : offset + length] == expected
    assert guest.image.kend - at == (264 + 48 + len(strings) + 7) & ~7


@pytest.mark.parametrize("pages", [1, 300, 700, 1023])
def test_too_little_memory_is_told(pages: int) -> None:
    with pytest.raises(UserError, match=r"kernel: memory: .* is too little"):
        build(make_elf(), pages=pages)


def test_the_smallest_memory_that_fits_is_one_page_more_than_the_mapping() -> None:
    build(make_elf(), pages=1024)
    with pytest.raises(UserError, match="initial mapping"):
        build(make_elf(), pages=1023)


@pytest.mark.parametrize("extra", [b"", note(elfnote.XEN_ELFNOTE_MOD_START_PFN, 1)])
def test_a_ramdisk_that_does_not_fit_is_told_by_its_name(extra: bytes) -> None:
    image = load_kernel(make_elf(standard_notes() + extra), source="kernel")
    with pytest.raises(UserError, match=r"initrd\.img: memory: 16 MiB is too little, the ramdisk does not fit"):
        plan_domain(image, nr_pages=PAGES, ramdisk=bytes(16 << 20), cmdline="", ramdisk_source="initrd.img")


def test_the_command_line_may_have_1023_bytes() -> None:
    assert len(build(make_elf(), cmdline="x" * 1023).start_info().cmd_line) == 1023
    for bad in ("x" * 1024, "ä" * 512, "a\0b"):
        with pytest.raises(UserError, match="cmdline"):
            build(make_elf(), cmdline=bad)


@pytest.mark.parametrize(
    "base",
    [
        pytest.param(0xFFFF_8000_0000_0000, id="Xen's own"),
        pytest.param(0x7FFF_FFEF_0000, id="over the lower half's end"),
        pytest.param(1 << 60, id="not canonical"),
        pytest.param((1 << 64) - 0x11_0000, id="wraps around"),
    ],
)
def test_a_virt_base_that_is_not_the_guests_to_map_is_refused(base: int) -> None:
    with pytest.raises(UserError, match="VIRT_BASE: bad address"):
        build(make_elf(standard_notes(base, base + TEXT_PADDR)))


@pytest.mark.parametrize("p2m_base", [0xFFFF_8000_0000_0000, 0x7FFF_FFFF_F000, 1 << 60, 0xFFFF_7FFF_FFFF_F000])
def test_an_init_p2m_that_is_not_the_guests_to_map_is_refused(p2m_base: int) -> None:
    with pytest.raises(UserError, match="INIT_P2M: bad address"):
        build(make_elf(standard_notes() + note(elfnote.XEN_ELFNOTE_INIT_P2M, p2m_base)))


def test_our_own_mistakes_are_no_user_errors() -> None:
    image = load_kernel(make_elf(), source="kernel")
    layout = plan_domain(image, nr_pages=PAGES, ramdisk=b"", cmdline="")
    with pytest.raises(ValueError, match="do not fit"):
        write_domain(layout, image, b"", np.zeros(4096, dtype=np.uint8), np.arange(PAGES, dtype=np.uint64), BootIds(1, 2, 3))
