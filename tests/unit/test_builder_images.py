"""Kernel files as they come: packed in every way, damaged in every way. Only UserError may come of it, naming file and field."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import struct
from collections.abc import Callable
from pathlib import Path

import lz4.block
import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from emulator.abi import elfnote
from emulator.dom0.builder import BootIds, load_kernel, load_ramdisk, payload, plan_domain, write_domain
from emulator.dom0.builder.elf import parse_elf
from emulator.dom0.builder.notes import parse_features, read_params
from emulator.dom0.files import read_file
from emulator.errors import UserError
from tests.unit.kernels import BASE, TEXT, TEXT_PADDR, Load, make_bzimage, make_elf, note, standard_notes, with_size

ELF = make_elf()
MAX = (1 << 64) - 1


def lz4_legacy(data: bytes) -> bytes:
    block: bytes = lz4.block.compress(data, store_size=False)
    return struct.pack("<II", 0x184C2102, len(block)) + block


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "none": lambda data: data,
    "gzip": gzip.compress,
    "bzip2": lambda data: with_size(bz2.compress(data), data),
    "xz": lambda data: with_size(lzma.compress(data, lzma.FORMAT_XZ, check=lzma.CHECK_CRC32), data),
    "lzma": lambda data: with_size(lzma.compress(data, lzma.FORMAT_ALONE), data),
    "lz4": lambda data: with_size(lz4_legacy(data), data),
    "zstd": lambda data: with_size(zstandard.ZstdCompressor().compress(data), data),
}
PACKED = [name for name in PACKERS if name != "none"]


def refused(data: bytes) -> str:
    with pytest.raises(UserError) as caught:
        load_kernel(data, source="/boot/k")
    line = str(caught.value)
    assert line.startswith("/boot/k: ")
    assert "\n" not in line
    return line


@pytest.mark.parametrize("name", PACKERS)
def test_a_bzimage_is_unpacked_whatever_it_was_packed_with(name: str) -> None:
    image = load_kernel(make_bzimage(PACKERS[name](ELF)), source="k")
    assert image.elf.data == ELF
    assert image.entry == BASE + TEXT_PADDR


def test_a_gzipped_elf_is_unpacked() -> None:
    assert load_kernel(gzip.compress(ELF), source="k").elf.data == ELF


@pytest.mark.parametrize("name", PACKED)
def test_a_payload_cut_short_is_told_as_damaged(name: str) -> None:
    packed = PACKERS[name](ELF)
    assert f"bzImage payload: {name} data is damaged" in refused(make_bzimage(packed[: len(packed) // 2]))


@pytest.mark.parametrize("name", PACKED)
def test_a_decompression_bomb_is_stopped_at_the_limit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payload, "MAX_KERNEL", 1 << 20)
    assert "too large: more than 1 MiB decompressed" in refused(make_bzimage(PACKERS[name](bytes(4 << 20))))


def test_lzo_is_refused_with_what_to_use_instead() -> None:
    assert "LZO is not supported" in refused(make_bzimage(b"\x89LZO\0\r\n\x1a\n" + bytes(64)))


def test_lz4_blocks_without_end_are_stopped() -> None:
    assert "too many blocks" in refused(make_bzimage(struct.pack("<I", 0x184C2102) * 5000 + bytes(8)))


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "empty file"),
        (b"\x7fEL", "neither an ELF image nor a Linux bzImage"),
        (b"#!/bin/sh\nexit 0\n" * 100, "neither an ELF image nor a Linux bzImage"),
        (ELF[:20], "not an ELF image"),
        (make_bzimage(ELF, version=0x207), "bzImage version: boot protocol too old: 2.07"),
        (make_bzimage(ELF, offset=0xFFFF_FFFF), "bzImage payload_offset"),
        (make_bzimage(ELF, length=0xFFFF_FFFF), "bzImage payload_length"),
        (make_bzimage(b"hello"), "unknown compression"),
        (make_bzimage(ELF, length=0), "begins with nothing"),
        (make_bzimage(b"\x02\x21"), "lz4 data is damaged: too short"),
    ],
)
def test_files_that_are_no_kernels_are_told_apart(data: bytes, told: str) -> None:
    assert told in refused(data)


def patched(offset: int, form: str, value: int, elf: bytes = ELF) -> bytes:
    data = bytearray(elf)
    struct.pack_into(form, data, offset, value)
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (patched(4, "<B", 1), "e_machine: a 32-bit kernel"),
        (patched(18, "<H", 3), "e_machine: a 32-bit kernel"),
        (patched(18, "<H", 183), "e_machine: no x86-64 kernel"),
        (patched(5, "<B", 2), "e_machine: no x86-64 kernel"),
        (patched(32, "<Q", MAX), "e_phoff"),
        (patched(54, "<H", 8), "e_phentsize: 8"),
        (patched(56, "<H", 0xFFFF), "e_phoff"),
        (patched(56, "<H", 0), "e_phnum: nothing to load"),
        (patched(40, "<Q", MAX), "e_shoff"),
        (patched(58, "<H", 63), "e_shentsize: 63"),
        (patched(64 + 4, "<I", 0), "e_phnum: nothing to load"),
        (patched(64 + 8, "<Q", MAX), "program header 0 p_offset"),
        (patched(64 + 32, "<Q", 0x3001), "program header 0 p_filesz"),
        (patched(64 + 40, "<Q", MAX), "program header 0 p_memsz"),
        (patched(64 + 24, "<Q", TEXT_PADDR + 1), "does not begin on a page"),
        (make_elf(standard_notes(entry=BASE)), "ENTRY: outside the kernel"),
        (make_elf(standard_notes(entry=None), entry=5), "ENTRY: outside the kernel"),
        (make_elf(standard_notes() + note(elfnote.XEN_ELFNOTE_HYPERCALL_PAGE, BASE)), "HYPERCALL_PAGE: outside the kernel"),
        (make_elf(standard_notes() + note(elfnote.XEN_ELFNOTE_INIT_P2M, BASE + TEXT_PADDR)), "INIT_P2M: inside the kernel"),
        (make_elf(standard_notes() + note(elfnote.XEN_ELFNOTE_PADDR_OFFSET, BASE)), "VIRT_BASE: the kernel would not lie above"),
        (make_elf(standard_notes(None) + note(elfnote.XEN_ELFNOTE_PADDR_OFFSET, 0)), "PADDR_OFFSET: set without VIRT_BASE"),
        (make_elf(b""), "neither Xen ELF notes nor a __xen_guest section"),
        (make_elf(note(elfnote.XEN_ELFNOTE_LOADER, b"generic\0", b"GNU")), "neither Xen ELF notes"),
        (make_elf(note(elfnote.XEN_ELFNOTE_GUEST_OS, b"minix\0")), "LOADER: not 'generic'"),
        (make_elf(note(elfnote.XEN_ELFNOTE_LOADER, b"generic\0")), "XEN_VERSION: not 'xen-3.0'"),
        (make_elf(standard_notes() + note(elfnote.XEN_ELFNOTE_FEATURES, b"!dom0\0")), "FEATURES: requires 'dom0'"),
        (make_elf(standard_notes() + note(elfnote.XEN_ELFNOTE_FEATURES, b"!magic\0")), "FEATURES: requires 'magic'"),
    ],
)
def test_a_hostile_header_is_told_by_its_field(data: bytes, told: str) -> None:
    assert told in refused(data)


def test_segments_that_overlap_without_end_are_refused() -> None:
    image = load_kernel(make_elf(loads=[Load(TEXT_PADDR, b"x", 1 << 20)] * 3), source="k")
    with pytest.raises(UserError, match="overlap too much"):
        plan_domain(image, nr_pages=4096, ramdisk=b"", cmdline="")


def test_a_kernel_that_claims_the_whole_address_space_allocates_nothing() -> None:
    image = load_kernel(make_elf(standard_notes(None, TEXT_PADDR), [Load(TEXT_PADDR, b"x", 1 << 63)]), source="k")
    with pytest.raises(UserError, match="the kernel does not fit"):
        plan_domain(image, nr_pages=4096, ramdisk=b"", cmdline="")


def test_a_notes_owner_may_be_name_and_short_numbers_count() -> None:
    notes = standard_notes().replace(b"Xen\0", b"name")  # an owner without room for its NUL, as some tools write it
    assert load_kernel(make_elf(notes), source="k").entry == BASE + TEXT_PADDR
    short = note(elfnote.XEN_ELFNOTE_SUSPEND_CANCEL, b"\x01") + note(elfnote.XEN_ELFNOTE_MOD_START_PFN, b"\x01\0")
    params = load_kernel(make_elf(standard_notes() + short), source="k").params
    assert params.suspend_cancel
    assert params.unmapped_initrd


def test_features_know_supported_from_required() -> None:
    assert parse_features("!writable_page_tables|pae_pgdir_above_4gb|unheard_of", "k") == (0b10001, 0b00001)
    notes = standard_notes() + note(elfnote.XEN_ELFNOTE_SUPPORTED_FEATURES, struct.pack("<I", 0x8811))
    assert read_params(parse_elf(make_elf(notes), "k")).supported == 0x8811


def test_a_note_list_that_runs_out_of_the_file_keeps_what_came_before() -> None:
    broken = standard_notes() + struct.pack("<III", 4, 0xFFFF_FFF0, 5) + b"Xen\0"
    assert load_kernel(make_elf(broken), source="k").entry == BASE + TEXT_PADDR


def test_a_gzipped_ramdisk_is_handed_over_unpacked() -> None:
    assert load_ramdisk(gzip.compress(b"cpio" * 1000), source="r") == b"cpio" * 1000 + bytes(16)


@pytest.mark.parametrize(
    "data",
    [
        b"070701" * 10,
        gzip.compress(b"a") + gzip.compress(b"b"),
        gzip.compress(b"cpio" * 1000)[:-10],
        b"\x1f\x8b",
        gzip.compress(b"cpio")[:-4] + b"\xff\xff\xff\xff",
    ],
)
def test_any_other_ramdisk_is_handed_over_as_it_is(data: bytes) -> None:
    assert load_ramdisk(data, source="r") == data


def test_an_empty_ramdisk_is_refused() -> None:
    with pytest.raises(UserError, match="r: ramdisk: an empty file"):
        load_ramdisk(b"", source="r")


def test_files_that_cannot_be_read_are_told_by_name(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "big").write_bytes(b"12345")
    (tmp_path / "folder").mkdir()
    told = {"none": "cannot be read: No such file", "folder": "not a regular", "fifo": "not a regular", "big": "too large"}
    for name, why in told.items():
        with pytest.raises(UserError) as caught:
            read_file(tmp_path / name, "kernel", 4)
        assert str(caught.value).startswith(f"{tmp_path / name}: kernel: {why}")
    with pytest.raises(UserError, match="not a regular"):
        read_file(Path("/dev/zero"), "kernel")
    with pytest.raises(UserError, match="cannot be read"):
        read_file(Path("a\0b"), "kernel")
    assert read_file(tmp_path / "big", "kernel", 5) == b"12345"


P2M = np.arange(2047, -1, -1, dtype=np.uint64)
MEMORY = np.zeros(2048 * 4096, dtype=np.uint8)


def only_user_errors(data: bytes) -> None:
    try:
        image = load_kernel(data, source="k")
        layout = plan_domain(image, nr_pages=len(P2M), ramdisk=b"x", cmdline="")
    except UserError as error:
        assert str(error).isprintable()
        return
    write_domain(layout, image, b"x", MEMORY, P2M, BootIds(1, 2, 3))


Change = tuple[str, int, int]
FIELDS = st.sampled_from(["<B", "<H", "<I", "<Q"]).flatmap(
    lambda form: st.tuples(
        st.just(form),
        st.integers(0, 1 << 16),
        st.one_of(st.integers(0, MAX), st.sampled_from([0, 1, MAX, 1 << 63, 1 << 47, BASE, BASE + TEXT_PADDR, 1 << 31])),
    )
)


def mutate(data: bytes, changes: list[Change], keep: int, within: int = 1 << 16) -> bytes:
    out = bytearray(data)
    for form, at, value in changes:
        size = struct.calcsize(form)
        struct.pack_into(form, out, at % min(within, len(out) - size), value & (1 << 8 * size) - 1)
    return bytes(out[: max(1, len(out) - keep)])


RICH = make_elf(
    standard_notes()
    + note(elfnote.XEN_ELFNOTE_INIT_P2M, 0x80_0000_0000)
    + note(elfnote.XEN_ELFNOTE_HYPERCALL_PAGE, BASE + TEXT_PADDR)
    + note(elfnote.XEN_ELFNOTE_FEATURES, b"!writable_page_tables|dom0\0")
    + note(elfnote.XEN_ELFNOTE_L1_MFN_VALID, struct.pack("<QQ", 1, 1))
    + note(elfnote.XEN_ELFNOTE_BSD_SYMTAB, b"yes\0"),
    [TEXT, Load(TEXT_PADDR + 0x4000, b"data", 0x1000)],
    symbols=(b"S" * 24, b"\0s\0"),
)
STRING = make_elf(
    b"", xen_guest=b"LOADER=generic,XEN_VER=xen-3.0,VIRT_BASE=0,VIRT_ENTRY=0x100000,HYPERCALL_PAGE=0x100,ELF_PADDR_OFFSET=0\0"
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([RICH, STRING]), st.lists(FIELDS, min_size=1, max_size=4), st.just(0) | st.integers(0, 2000))
def test_no_mutated_elf_gets_past_a_user_error(elf: bytes, changes: list[Change], keep: int) -> None:
    only_user_errors(mutate(elf, changes, keep))


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(list(PACKERS)), st.lists(FIELDS, min_size=1, max_size=3), st.just(0) | st.integers(0, 300), st.booleans())
def test_no_mutated_bzimage_gets_past_a_user_error(name: str, changes: list[Change], keep: int, header: bool) -> None:
    only_user_errors(mutate(make_bzimage(PACKERS[name](RICH)), changes, keep, 0x250 if header else 1 << 16))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=2000), st.sampled_from([b"", b"\x7fELF\x02\x01\x01", b"\x1f\x8b\x08", make_bzimage(b"")]))
def test_no_random_file_gets_past_a_user_error(data: bytes, prefix: bytes) -> None:
    only_user_errors(prefix + data)
    load_ramdisk(prefix + data + b"x", source="r")
