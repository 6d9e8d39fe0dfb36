"""PV GRUB: to its prompt without a disk; from a disk's menu into the kernel that the menu names, which finds the same disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from emulator.abi.xenbus import XENBUS_CLOSED, XENBUS_CONNECTED
from emulator.dom0.builder.payload import unwrap_kernel
from emulator.dom0.config import parse_config
from emulator.dom0.guest import Guest
from emulator.dom0.toolstack import Toolstack
from tests.functional.block_guest import Shell, check_ext4, disk_cfg, make_ext4, needs_disks
from tests.functional.linux_guest import PROMPT, kernel, needs_linux
from tests.patience import until

GRUB = Path("/usr/lib/grub-xen/grub-x86_64-xen.bin")
MENU = 'set timeout=1\nmenuentry "linux from the disk" {\n linux /boot/vmlinux console=hvc0 quiet\n initrd /boot/initrd.gz\n}\n'

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not GRUB.exists(), reason=f"no {GRUB} (Debian: apt install grub-xen-bin)"),
]


def _start(tools: Toolstack, cfg: str) -> Guest:
    tools.start()
    return tools.guests[tools.create(parse_config(f'name = "grub"\nkernel = "{GRUB}"\n{cfg}', file="grub.cfg"), False, lambda text: None)]


def _until(guest: Guest, wanted: bytes) -> None:
    until(lambda: wanted in guest.transcript.tail(60000) or guest.domain.ended, lambda: guest.transcript.tail(1000))
    assert wanted in guest.transcript.tail(60000), guest.transcript.tail(1000)


def test_grub_reaches_its_prompt_and_answers() -> None:
    tools = Toolstack(pool_kib=128 << 10, cpus=1)
    try:
        guest = _start(tools, "memory = 64\n")
        _until(guest, b"grub>")
        guest.type(b"echo one and ${grub_platform}\r")
        _until(guest, b"one and xen")
    finally:
        tools.stop()


@pytest.mark.linux
@needs_linux
@needs_disks
def test_grub_boots_what_the_menu_on_a_disk_names_and_linux_takes_the_disk_over(tmp_path: Path) -> None:
    boot = tmp_path / "content" / "boot"
    (boot / "grub").mkdir(parents=True)
    disk_cfg(tmp_path, "/none,raw,xvda")  # for its initramfs
    (boot / "initrd.gz").write_bytes((tmp_path / "initramfs.cpio.gz").read_bytes())
    (boot / "vmlinux").write_bytes(unwrap_kernel(kernel().read_bytes(), str(kernel())))  # GRUB knows no lz4, which Debian packs it with
    (boot / "grub" / "grub.cfg").write_text(MENU)
    make_ext4(tmp_path / "root.img", 128, tmp_path / "content")
    tools = Toolstack(pool_kib=512 << 10, cpus=1)
    try:
        guest = _start(tools, f"memory = 256\ndisk = [ 'vdev=xvda,target={tmp_path / 'root.img'}' ]\n")
        _until(guest, b"linux from the disk")
        _until(guest, PROMPT)
        shell = Shell(tools, guest)
        shell.ask("stty cols 1000")
        assert shell.ask("mount -t ext4 /dev/xvda /mnt && ls /mnt/boot").split() == ["grub", "initrd.gz", "vmlinux"]
        shell.ask("echo hello > /mnt/written; umount /mnt")
        states = [(step.who, step.after) for step in guest.disks.devices[51712].handshake.timeline.steps]
        assert states.count(("backend", XENBUS_CONNECTED)) == 2 and ("backend", XENBUS_CLOSED) in states
        shell.end()
    finally:
        tools.stop()
    check_ext4(tmp_path / "root.img")
