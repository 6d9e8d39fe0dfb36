"""A Linux with disks, in this process: booted by a toolstack, typed to, its images checked by the host's own tools."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from emulator.dom0.guest import Guest
from emulator.dom0.storage import open_image
from emulator.dom0.toolstack import Toolstack
from tests.functional.linux_guest import PROMPT, ROOT, config_of, kernel, plain, write_cfg
from tests.patience import until

RELEASE = kernel().name.removeprefix("vmlinuz-") if list(Path("/boot").glob("vmlinuz-*")) else ""


def missing() -> str:
    """What these tests lack; empty when nothing."""
    if not Path("/lib/modules", RELEASE, "modules.dep").exists():
        return "no modules of the kernel (Debian: apt install linux-image-cloud-amd64)"
    for tool in ("mkfs.ext4", "fsck.ext4", "debugfs"):
        if found(tool) is None:
            return f"no {tool} (Debian: apt install e2fsprogs)"
    return ""


def found(tool: str) -> str | None:
    return shutil.which(tool) or shutil.which(tool, path="/usr/sbin:/sbin")


needs_disks = pytest.mark.skipif(bool(missing()), reason=missing() or "it is there")


def make_ext4(path: Path, mib: int, content: Path | None = None) -> None:
    """An ext4 image with a folder's files in it."""
    with path.open("wb") as file:
        file.truncate(mib << 20)
    more = ["-d", str(content)] if content is not None else []
    subprocess.run([found("mkfs.ext4") or "", "-q", "-F", *more, str(path)], check=True)


def check_ext4(path: Path) -> None:
    """fsck finds nothing to mend; a journal that is not clean counts as something."""
    done = subprocess.run([found("fsck.ext4") or "", "-f", "-n", str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def exported(path: Path, fmt: str, to: Path) -> Path:
    """An image's contents as a raw file."""
    image = open_image(path, fmt, readonly=True)
    try:
        with to.open("wb") as file:
            for offset in range(0, image.size, 1 << 20):
                file.write(image.read(offset, min(1 << 20, image.size - offset)))
    finally:
        image.close()
    return to


def disk_cfg(folder: Path, *disks: str, name: str = "linux.cfg") -> Path:
    """A cfg file beside its initramfs, which has the driver."""
    ramdisk = folder / "initramfs.cpio.gz"
    if not ramdisk.exists():
        script = str(ROOT / "guests" / "mkinitramfs.py")
        subprocess.run([sys.executable, script, "-o", str(ramdisk), "--modules", "xen-blkfront", "--kernel", RELEASE], check=True)
    quoted = ", ".join(f"'{disk}'" for disk in disks)
    cfg = write_cfg(folder, extra=f'disk = [ {quoted} ]\non_reboot = "destroy"\n')
    return cfg.rename(folder / name) if name != cfg.name else cfg


class Shell:
    """A guest's console."""

    def __init__(self, tools: Toolstack, guest: Guest) -> None:
        self.tools, self.guest = tools, guest

    def until(self, reached: Callable[[], bool]) -> None:
        until(reached, lambda: plain(self.guest.transcript.tail(1500)))

    def ask(self, command: str) -> str:
        """What a command printed."""
        start = self.guest.transcript.end
        self.guest.type(command.encode() + b"\r")

        def said() -> bytes:
            return self.guest.transcript.read(start, 1 << 20)[1]

        self.until(lambda: re.search(rb"\n" + re.escape(PROMPT), said()) is not None)
        return plain(said()).partition("\n")[2].rpartition("\n")[0]

    def end(self) -> None:
        """Power off, and wait until its disks are let go."""
        self.guest.type(b"poweroff -f\r")
        self.until(lambda: self.guest.domid not in self.tools.guests and self.guest.domain.memory.closed)


@contextmanager
def booted(cfg: Path) -> Iterator[Shell]:
    tools = Toolstack(pool_kib=512 << 10, cpus=1)
    tools.start()
    try:
        guest = tools.guests[tools.create(config_of(cfg), False, lambda text: None)]
        shell = Shell(tools, guest)
        shell.until(lambda: PROMPT in guest.transcript.tail(4000))
        shell.ask("stty cols 1000")
        yield shell
    finally:
        tools.stop()
