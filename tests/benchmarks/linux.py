"""The Linux guest that both sides boot: Debian's kernel, one initramfs, one command line but for the console's name."""

from __future__ import annotations

import gzip
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.pipeguest import PipeGuest
from tests.benchmarks.table import ROOT

MEMORY_MIB = 256
WORK = ROOT / "build" / "bench"


class Missing(Exception):
    """Something that this benchmark drives is not on the machine; its text says what and how to get it."""


@dataclass(frozen=True)
class Linux:
    """A kernel and the initramfs it is booted with."""

    kernel: Path
    ramdisk: Path


def kernel() -> Path:
    found = sorted(Path("/boot").glob("vmlinuz-*-cloud-amd64")) or sorted(Path("/boot").glob("vmlinuz-*"))
    if not found:
        raise Missing("no kernel in /boot (Debian: apt install linux-image-cloud-amd64)")
    return found[-1]


def cpio(files: dict[str, bytes]) -> bytes:
    """A newc archive of executable files (folders are made for them), as Linux unpacks it over an earlier one."""
    archive = bytearray()
    folders = {str(parent) for name in files for parent in Path(name).parents if str(parent) != "."}
    entries: list[tuple[str, int, bytes]] = [(name, 0o40755, b"") for name in sorted(folders)]
    entries += [(name, 0o100755, data) for name, data in files.items()]
    for number, (name, mode, data) in enumerate([*entries, ("TRAILER!!!", 0, b"")], start=1):
        path = name.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(path), 0)
        archive += b"070701" + b"".join(b"%08x" % field for field in fields) + path
        archive += bytes(-len(archive) % 4)
        archive += data
        archive += bytes(-len(archive) % 4)
    return bytes(archive)


def linux(extra: dict[str, bytes] | None = None) -> Linux:
    """The kernel and our initramfs, with `extra` files (path to content) laid over it."""
    WORK.mkdir(parents=True, exist_ok=True)
    base = WORK / "initramfs.cpio.gz"
    script = ROOT / "guests" / "mkinitramfs.py"
    subprocess.run([sys.executable, str(script), "-o", str(base)], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    if not extra:
        return Linux(kernel(), base)
    ramdisk = WORK / "initramfs-bench.cpio.gz"
    ramdisk.write_bytes(base.read_bytes() + gzip.compress(cpio(extra), mtime=0))
    return Linux(kernel(), ramdisk)


def in_qemu(guest: Linux) -> PipeGuest:
    """The guest on QEMU's emulated processor, one vCPU, with nothing but a serial line."""
    qemu = shutil.which("qemu-system-x86_64")
    if qemu is None:
        raise Missing("no qemu-system-x86_64 (Debian: apt install qemu-system-x86)")
    command = [qemu, "-accel", "tcg", "-machine", "pc", "-smp", "1", "-m", str(MEMORY_MIB), "-nodefaults", "-display", "none"]
    command += ["-serial", "stdio", "-no-reboot", "-kernel", str(guest.kernel), "-initrd", str(guest.ramdisk)]
    return PipeGuest([*command, "-append", "console=ttyS0"])


def in_xenconsole(guest: Linux) -> PipeGuest:
    """The guest here, as a person would start it: `xenconsole create -c`, Python's own start included."""
    cfg = WORK / "linux.cfg"
    cfg.write_text(
        f'name = "bench"\ntype = "pv"\nkernel = "{guest.kernel}"\nramdisk = "{guest.ramdisk}"\n'
        f'memory = {MEMORY_MIB}\nvcpus = 1\ncmdline = "console=hvc0"\n'
    )
    return xenconsole("create", "-c", str(cfg))


def xenconsole(*arguments: str) -> PipeGuest:
    return PipeGuest([sys.executable, "-m", "xenconsole", *arguments], cwd=ROOT)
