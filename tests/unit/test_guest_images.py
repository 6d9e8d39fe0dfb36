"""Our own guests: the images are what their sources give and say what Xen needs to know; the initramfs is repeatable."""

from __future__ import annotations

import gzip
import importlib.util
import io
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from elftools.elf.elffile import ELFFile

from emulator.abi import elfnote
from emulator.dom0.builder.image import load_kernel
from emulator.dom0.builder.layout import plan_domain
from emulator.dom0.config import load_config
from tests.patience import PATIENCE_SECONDS

GUESTS = Path(__file__).resolve().parents[2] / "guests"
NAMES = ("hello", "counter", "shell", "rogue", "antisocial", "ping", "pong", "share")
VIRT_BASE = 0xFFFF_FFFF_8000_0000


def compiler() -> list[str]:
    """The lines that guests/Makefile keeps in images/BUILD, of the compiler and linker there are here."""
    lines = []
    for command in (["gcc", "--version"], ["gcc", "-Wl,--version"]):
        done = subprocess.run(command, capture_output=True, text=True, env={"LC_ALL": "C", "PATH": "/usr/bin:/bin"}, timeout=PATIENCE_SECONDS)
        lines.append((done.stdout.splitlines() or [""])[0])
    return lines


@pytest.fixture(scope="module")
def rebuilt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A rebuild of all images from a copy of the sources, so that the checkout's place is seen not to matter."""
    if not shutil.which("gcc") or not shutil.which("make"):
        pytest.skip("gcc and make are needed to rebuild the guests; the committed images serve without them")
    folder = tmp_path_factory.mktemp("rebuild")
    shutil.copytree(GUESTS, folder / "guests", ignore=shutil.ignore_patterns("images", "build", "*.gz"))
    done = subprocess.run(["make", "-j2", "-C", str(folder / "guests")], capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr
    return folder / "guests" / "images"


@pytest.mark.parametrize("name", NAMES)
def test_a_rebuild_gives_the_committed_bytes(rebuilt: Path, name: str) -> None:
    recorded = (GUESTS / "images" / "BUILD").read_text().splitlines()
    same = (rebuilt / f"{name}.elf").read_bytes() == (GUESTS / "images" / f"{name}.elf").read_bytes()
    if not same and compiler() != recorded:
        pytest.skip(f"the images were built by {' and '.join(recorded)}; here it is {' and '.join(compiler())}")
    assert same, f"guests/images/{name}.elf is not what its sources give: run 'make guests' and commit it"


def elf_notes(image: bytes) -> dict[int, bytes]:
    notes: dict[int, bytes] = {}
    for segment in ELFFile(io.BytesIO(image)).iter_segments("PT_NOTE"):
        data, at = segment.data(), 0
        while at < len(data):
            namesz, descsz, kind = struct.unpack_from("<III", data, at)
            assert data[at + 12 : at + 12 + namesz] == b"Xen\0"
            desc = at + 12 + (namesz + 3 & ~3)
            notes[kind] = data[desc : desc + descsz]
            at = desc + (descsz + 3 & ~3)
    return notes


@pytest.mark.parametrize("name", NAMES)
def test_the_notes_say_what_a_domain_builder_asks(name: str) -> None:
    notes = elf_notes((GUESTS / "images" / f"{name}.elf").read_bytes())
    assert notes[elfnote.XEN_ELFNOTE_XEN_VERSION] == b"xen-3.0\0"
    assert notes[elfnote.XEN_ELFNOTE_LOADER] == b"generic\0"
    assert notes[elfnote.XEN_ELFNOTE_GUEST_OS] == b"xenconsole\0"
    for kind in (elfnote.XEN_ELFNOTE_VIRT_BASE, elfnote.XEN_ELFNOTE_PADDR_OFFSET, elfnote.XEN_ELFNOTE_ENTRY):
        assert struct.unpack("<Q", notes[kind]) == (VIRT_BASE,)
    (page,) = struct.unpack("<Q", notes[elfnote.XEN_ELFNOTE_HYPERCALL_PAGE])
    assert page % 4096 == 0 and page > VIRT_BASE


@pytest.mark.parametrize("name", NAMES)
def test_an_image_is_small_static_and_tells_no_paths(name: str) -> None:
    data = (GUESTS / "images" / f"{name}.elf").read_bytes()
    elf = ELFFile(io.BytesIO(data))
    assert elf["e_type"] == "ET_EXEC" and elf["e_machine"] == "EM_X86_64"
    assert len(data) < 100_000
    assert elf.get_section_by_name(".symtab") is None and elf.get_section_by_name(".note.gnu.build-id") is None
    assert not re.search(rb"/(?:home|root|tmp|usr)/|runtime/\w+\.[chS]|GCC: ", data)


@pytest.mark.parametrize("name", NAMES)
def test_its_cfg_file_boots_it(name: str) -> None:
    config = load_config(GUESTS / f"{name}.cfg")
    assert config.name == name and 4 <= config.memory_mib <= 16 and config.vcpus == 1
    image = load_kernel(Path(config.kernel).read_bytes(), source=name)
    layout = plan_domain(image, nr_pages=config.memory_mib << 8, ramdisk=b"", cmdline=config.cmdline)
    assert (layout.virt_base, layout.entry, layout.hypercall_pfn) == (VIRT_BASE, VIRT_BASE, 1)


def test_the_cfg_file_of_a_stock_linux_names_its_console() -> None:
    config = load_config(GUESTS / "linux.cfg")
    assert "console=hvc0" in config.cmdline and config.ramdisk is not None
    assert config.ramdisk.name == "linux-initramfs.cpio.gz"


@pytest.fixture(scope="module")
def mkinitramfs() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mkinitramfs", GUESTS / "mkinitramfs.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def read_cpio(archive: bytes) -> dict[str, tuple[int, bytes, tuple[int, int]]]:
    """name: (mode, data, device) of a newc archive, checked as strictly as the kernel reads it."""
    entries: dict[str, tuple[int, bytes, tuple[int, int]]] = {}
    at = 0
    while True:
        assert archive[at : at + 6] == b"070701"
        fields = [int(archive[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        _inode, mode, uid, gid, _links, mtime, size, _major, _minor, rmajor, rminor, namesize, check = fields
        assert (uid, gid, mtime, check) == (0, 0, 0, 0)
        name = archive[at + 110 : at + 110 + namesize - 1].decode()
        assert archive[at + 110 + namesize - 1] == 0
        data = at + 110 + namesize + 3 & ~3
        if name == "TRAILER!!!":
            assert not archive[data + size :].strip(b"\0")
            return entries
        assert name not in entries
        entries[name] = (mode, archive[data : data + size], (rmajor, rminor))
        at = data + size + 3 & ~3


def test_an_archive_holds_what_was_put_in(mkinitramfs: ModuleType) -> None:
    entry = mkinitramfs.Entry
    archive = mkinitramfs.pack_cpio(
        [
            entry("a", 0o40755),
            entry("a/odd", 0o100644, b"12345"),
            entry("tty", 0o20600, device=(5, 1)),
            entry("l", 0o120777, b"a/odd"),
        ]
    )
    assert len(archive) % 512 == 0
    assert read_cpio(archive) == {
        "a": (0o40755, b"", (0, 0)),
        "a/odd": (0o100644, b"12345", (0, 0)),
        "tty": (0o20600, b"", (5, 1)),
        "l": (0o120777, b"a/odd", (0, 0)),
    }


def test_the_initramfs_is_repeatable_and_whole(mkinitramfs: ModuleType, tmp_path: Path) -> None:
    busybox = Path("/bin/busybox")
    if not busybox.exists():
        pytest.skip("no /bin/busybox (Debian: busybox-static)")
    try:
        mkinitramfs.read_busybox(busybox)
    except mkinitramfs.Mistake as mistake:
        pytest.skip(str(mistake))
    first, second, plain = tmp_path / "a.cpio.gz", tmp_path / "b.cpio.gz", tmp_path / "c.cpio"
    for output in (first, second, plain):
        assert mkinitramfs.main(["-o", str(output)]) == 0
    assert first.read_bytes() == second.read_bytes()
    assert gzip.decompress(first.read_bytes()) == plain.read_bytes()
    entries = read_cpio(plain.read_bytes())
    assert entries["dev/console"] == (0o20600, b"", (5, 1))
    assert entries["bin/busybox"][1] == busybox.read_bytes()
    assert entries["bin/sh"] == (0o120777, b"/bin/busybox", (0, 0))
    assert entries["init"][0] == 0o100755 and b"poweroff -f" in entries["init"][1]
    for name in entries:
        assert "/" not in name or name.rpartition("/")[0] in entries
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.cpio.gz", "b.cpio.gz", "c.cpio"]


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"", "no ELF program"),
        (b"#!/bin/sh\n" * 20, "no ELF program"),
        (b"\x7fELF\x01\x01" + bytes(100), "not for x86-64"),
        (b"\x7fELF\x02\x01" + bytes(10) + struct.pack("<HH", 2, 62) + bytes(12) + struct.pack("<Q", 64) + bytes(14)
         + struct.pack("<HH", 56, 9) + bytes(40), "truncated"),
    ],
)  # fmt: skip
def test_what_is_no_busybox_is_refused_in_one_line(
    mkinitramfs: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, cause: str
) -> None:
    path = tmp_path / "busybox"
    path.write_bytes(content)
    assert mkinitramfs.main(["-o", str(tmp_path / "out"), "--busybox", str(path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and str(path) in error and cause in error
    assert not (tmp_path / "out").exists()


def test_a_missing_busybox_or_folder_is_named(
    mkinitramfs: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert mkinitramfs.main(["-o", "x", "--busybox", str(tmp_path / "none")]) == 2
    assert "no such file" in capsys.readouterr().err
    assert mkinitramfs.main(["--busybox", "x"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(mkinitramfs.Mistake, match="cannot be written: No such file"):
        mkinitramfs.write_output(tmp_path / "none" / "out", b"")
