"""Looking into disks: partition tables and file systems read back as the host sees them, and nothing that a guest wrote there harms."""

from __future__ import annotations

import os
import random
import stat
import struct
import subprocess
import time
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emulator.dom0.storage.browse import list_directory, read_file
from emulator.dom0.storage.image import Image
from emulator.dom0.storage.reader import shown
from emulator.errors import UserError
from tests.functional.linux_guest import BUSYBOX
from tests.unit.disk_images import MIB, Bytes, a_folder, make_ext, make_fat, make_gpt, make_mbr, mkfs

needs_mkfs = pytest.mark.skipif(mkfs("ext4") is None, reason="no mkfs.ext4 (Debian: apt install e2fsprogs)")
FILES = {"a file.txt": b"short", "naïve — 名前": os.urandom(5000), "empty": b"", "x" * 200: b"long name"}


def image(data: bytes) -> Image:
    return cast("Image", Bytes(data))


@needs_mkfs
@pytest.mark.parametrize(("kind", "block"), [("ext2", 1024), ("ext3", 4096), ("ext4", 1024), ("ext4", 4096)])
def test_ext_reads_back_as_the_host_wrote_it(tmp_path: Path, kind: str, block: int) -> None:
    folder = a_folder(tmp_path / "content")
    disk = image(make_ext(tmp_path / "disk", kind, folder, block))
    top = list_directory(disk, "/")
    assert (top.filesystem, top.label, top.total) == (kind, "label", 16 * MIB) and 0 < top.free < top.total
    walked = 0
    for where, _directories, _files in os.walk(folder):
        path = "/" + "/".join(shown(os.fsencode(word)) for word in Path(where).relative_to(folder).parts)
        listed = {entry.name: entry for entry in list_directory(disk, path).entries}
        assert set(listed) - {"lost+found"} == {shown(os.fsencode(name)) for name in os.listdir(where)}
        for name in os.listdir(where):
            full, entry = os.path.join(where, name), listed[shown(os.fsencode(name))]
            status = os.lstat(full)
            assert entry.mode == stat.S_IMODE(status.st_mode) and entry.mtime_unix == int(status.st_mtime)
            assert (entry.uid, entry.gid) == (status.st_uid, status.st_gid)
            if stat.S_ISREG(status.st_mode):
                contents = Path(full).read_bytes()
                assert entry.kind == "file" and entry.size == len(contents)
                if walked % 40 == 0 or len(contents) > 1000:
                    assert read_file(disk, f"{path}/{entry.name}", 0, 4 * MIB)[1] == contents
                    assert read_file(disk, f"{path}/{entry.name}", 99_990, 5003)[1] == contents[99_990:104_993]
                walked += 1
            elif stat.S_ISLNK(status.st_mode):
                assert entry.kind == "link" and entry.target == os.readlink(full)
    assert walked > 300 and listed is not None
    assert next(entry for entry in top.entries if "odd" in entry.name).name == "odd\\x1b[31m\\xff"
    for path, why in (("/none", "no 'none' there"), ("/hello/x", "is a file"), ("/hello", "it is a file")):
        with pytest.raises(UserError, match=why):
            list_directory(disk, path)


@pytest.mark.parametrize("bits", [12, 16, 32])
def test_fat_reads_back_as_it_was_written(bits: int) -> None:
    disk = image(make_fat(bits, FILES))
    top = list_directory(disk, "/")
    assert (top.filesystem, top.label) == (f"FAT{bits}", "LABEL")
    assert {entry.name: entry.size for entry in top.entries if entry.kind == "file"} == {name: len(data) for name, data in FILES.items()}
    for name, data in FILES.items():
        entry, found = read_file(disk, f"/{name}", 0, MIB)
        assert found == data and entry.mtime_unix == 1_580_688_000
        assert read_file(disk, f"/{name}", 1000, 999)[1] == data[1000:1999]
    assert list_directory(disk, "/DIR").entries == ()


def test_a_fat_of_another_maker_is_recognised(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(bytes(40 * MIB))
    made = subprocess.run([str(BUSYBOX), "mkdosfs", "-n", "BUSY", str(path)], capture_output=True)
    if made.returncode:
        pytest.skip("this busybox has no mkdosfs")
    listing = list_directory(image(path.read_bytes()), "/")
    assert listing.filesystem.startswith("FAT") and listing.entries == ()


@needs_mkfs
@pytest.mark.parametrize("make", [make_mbr, make_gpt])
def test_partitions_are_directories_with_the_file_systems_on_them(tmp_path: Path, make: object) -> None:
    content = tmp_path / "content"
    content.mkdir()
    (content / "hello").write_text("hello")
    parts = {1: make_ext(tmp_path / "disk", "ext4", content, mib=8), 2: make_fat(16, FILES), 5: make_fat(12, FILES), 6: bytes(MIB)}
    disk = image(make_mbr(parts) if make is make_mbr else make_gpt(parts))
    top = list_directory(disk, "/")
    assert top.filesystem == ("mbr" if make is make_mbr else "gpt")
    assert [(entry.name, entry.kind, entry.size) for entry in top.entries] == [(f"p{n}", "partition", len(data)) for n, data in parts.items()]
    assert list_directory(disk, "/p1").filesystem == "ext4" and list_directory(disk, "/p5").filesystem == "FAT12"
    assert read_file(disk, "/p1/hello", 1, 3)[1] == b"ell" and read_file(disk, "/p2/a file.txt", 0, 99)[1] == b"short"
    with pytest.raises(UserError, match="no file system that is read here"):
        list_directory(disk, "/p6")
    with pytest.raises(UserError, match="no partition 'p9'"):
        list_directory(disk, "/p9")
    if make is make_gpt:
        damaged = bytearray(disk.read(0, disk.size))
        damaged[600:1100] = bytes(500)
        damaged[520] ^= 1
        assert list_directory(image(bytes(damaged)), "/").entries == top.entries  # by the copy at the end


def test_an_empty_disk_says_so() -> None:
    with pytest.raises(UserError, match="neither a partition table nor a file system"):
        list_directory(image(bytes(MIB)), "/")
    with pytest.raises(UserError, match="too long a path"):
        list_directory(image(bytes(MIB)), "/x" * 200)


@needs_mkfs
def test_loops_and_giant_counts_end_with_a_line(tmp_path: Path) -> None:
    content = tmp_path / "content"
    content.mkdir()
    (content / "hello").write_text("hello")
    ext = bytearray(make_ext(tmp_path / "disk", "ext4", content, block=1024, mib=8))
    table = int.from_bytes(ext[2048 + 8 : 2048 + 12], "little") * 1024
    root = table + int.from_bytes(ext[1024 + 88 : 1024 + 90], "little")
    # An extent tree whose every index names one and the same block, over and over, five deep: 4 · 42**4 ways through it.
    for depth in range(5, 0, -1):
        at, count = (root + 40, 4) if depth == 5 else ((3000 - depth) * 1024, 84)
        struct.pack_into("<HHHH4x", ext, at, 0xF30A, count, 84, depth)
        for index in range(count):
            struct.pack_into("<IIHH", ext, at + 12 + 12 * index, index % 2 * 5, 3001 - depth, 0, 0)
    struct.pack_into("<HHHH4x", ext, 3000 * 1024, 0xF30A, 0, 84, 0)
    struct.pack_into("<I", ext, root + 4, 0x7FFFFFFF)
    start = time.process_time()
    with pytest.raises(UserError, match="too much to read"):
        list_directory(image(bytes(ext)), "/")
    fat = bytearray(make_fat(32, FILES, 66000))
    reserved = 32 * 512
    for cluster in range(2, 66000):
        struct.pack_into("<I", fat, reserved + cluster * 4, cluster % 60000 + 2)  # all chains go round and round
    size = fat.rindex(struct.pack("<I", 5000))
    fat[size : size + 4] = b"\xff" * 4
    with pytest.raises(UserError, match="goes in circles"):
        read_file(image(bytes(fat)), "/naïve — 名前", 0xF0000000, 1)
    assert time.process_time() - start < 100, "all the ways through take days"


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("seeds")
    content = folder / "content"
    content.mkdir()
    (content / "d").mkdir()
    (content / "d" / "file").write_bytes(os.urandom(30_000))
    os.symlink("d/" * 40, content / "link")
    exts = [make_ext(folder / "disk", kind, content, mib=4) for kind in ("ext2", "ext4")] if mkfs("ext4") else []
    fats = [make_fat(12, FILES), make_fat(16, FILES)]
    return [*exts, *fats, make_mbr({1: fats[0], 5: fats[1]}), make_gpt({1: fats[0]})]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 99), st.integers(0, 2**32 - 1), st.integers(1, 60))
def test_no_mutated_disk_gets_past_a_user_error(seeds: list[bytes], which: int, seed: int, count: int) -> None:
    """Bytes are changed where the disk has some, so that it is structures that are hit."""
    rng = random.Random(seed)
    data = bytearray(seeds[which % len(seeds)])
    filled = [at for at in range(0, len(data), 64) if any(data[at : at + 64])]
    for _ in range(count):
        at = rng.choice(filled) + rng.randrange(64)
        data[at] = rng.choice((0, 1, 0xFF, 0x80, rng.randrange(256)))
    _explore(image(bytes(data)), "/", 0, rng)


def _explore(disk: Image, path: str, depth: int, rng: random.Random) -> None:
    try:
        entries = list_directory(disk, path).entries
    except UserError:
        return
    for entry in rng.sample(entries, min(4, len(entries))):
        assert entry.name.isprintable() and "/" not in entry.name
        below = f"{path.rstrip('/')}/{entry.name}"
        if entry.kind in ("directory", "partition") and depth < 3:
            _explore(disk, below, depth + 1, rng)
        elif entry.kind != "partition":
            try:
                read_file(disk, below, rng.choice((0, 4096, entry.size // 2)), 65536)
            except UserError:
                pass


@pytest.mark.parametrize("extents", [False, True])
def test_a_directory_of_nothing_but_holes_ends_soon(extents: bool) -> None:
    """64 KiB of zeros are an empty entry in a block of that size: each block costs the reader memory and the guest nothing."""
    block, disk = 1 << 16, bytearray(8 << 16)
    struct.pack_into("<7I", disk, 1024, 10, 8, 0, 5, 5, 0, 6)
    struct.pack_into("<I4xI", disk, 1024 + 32, 8192, 100)
    struct.pack_into("<H", disk, 1024 + 56, 0xEF53)
    struct.pack_into("<IHxxH", disk, 1024 + 76, 1, 0, 256)
    struct.pack_into("<H", disk, 1024 + 88, 256)
    struct.pack_into("<I", disk, block + 8, 3)
    struct.pack_into("<HHI8xI4xH2xII", disk, 3 * block + 256, 0o40755, 0, 0xFFFFFFFF, 0, 0, 8, 0x80000 if extents else 0)
    struct.pack_into("<HHHH", disk, 3 * block + 256 + 40, *((0xF30A, 0, 4, 0) if extents else (0, 0, 0, 0)))
    struct.pack_into("<I", disk, 3 * block + 256 + 108, 0x7FFFFFFF)
    start = time.process_time()
    with pytest.raises(UserError, match="goes in circles or is vast"):
        list_directory(image(bytes(disk)), "/")
    assert time.process_time() - start < 20


def test_a_listing_of_endless_names_goes_over_the_wire() -> None:
    listing = list_directory(image(make_fat(32, {f"{number:04}" + "\u00ad" * 200: b"" for number in range(1500)})), "/")
    assert listing.cut and 500 < len(listing.entries) < 1000
    assert sum(len(entry.name) for entry in listing.entries) <= 1 << 20
