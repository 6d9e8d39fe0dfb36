"""The block backend: MB/s and requests/s of a Linux guest, against its own ramdisk and against QEMU's virtio-blk on the same image.

    read, write   dd of 64 MiB in pieces of 1 MiB, past the page cache (O_DIRECT), so that every byte goes over the ring
    4 KiB reads   one request in flight at a time: what a request costs from end to end
    ramdisk       the same dd over a file in tmpfs: what the guest's own copying costs, no disk at all
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from tests.benchmarks.linux import MEMORY_MIB, WORK, Missing, kernel, xenconsole
from tests.benchmarks.pipeguest import PipeGuest
from tests.benchmarks.table import ROOT, Row

MIB = 64
SMALL = 4000
ROUNDS = 3
READ = f"dd if={{}} of=/dev/null bs=1M count={MIB} {{}} 2>/dev/null"
WRITE = f"dd if=/dev/zero of={{}} bs=1M count={MIB} conv=notrunc {{}} 2>/dev/null"
REQUESTS = f"dd if={{}} of=/dev/null bs=4k count={SMALL} iflag=direct 2>/dev/null"


def _ramdisk(modules: str, name: str) -> Path:
    release = kernel().name.removeprefix("vmlinuz-")
    if not Path("/lib/modules", release, "modules.dep").exists():
        raise Missing(f"no modules of {release} (Debian: apt install linux-image-cloud-amd64)")
    path = WORK / name
    script = str(ROOT / "guests" / "mkinitramfs.py")
    subprocess.run([sys.executable, script, "-o", str(path), "--modules", modules, "--kernel", release], check=True, cwd=ROOT)
    return path


def _image() -> Path:
    path = WORK / "block.img"
    with path.open("wb") as file:
        for number in range(MIB):
            file.write(bytes([number]) * (1 << 20))
    return path


def _ours(image: Path) -> PipeGuest:
    cfg = WORK / "block.cfg"
    cfg.write_text(
        f'name = "block"\nkernel = "{kernel()}"\nramdisk = "{_ramdisk("xen-blkfront", "block-xen.cpio.gz")}"\nmemory = {MEMORY_MIB}\n'
        f"cmdline = \"console=hvc0\"\ndisk = [ 'format=raw,vdev=xvda,target={image}' ]\n"
    )
    return xenconsole("create", "-c", str(cfg))


def _theirs(image: Path) -> PipeGuest:
    qemu = shutil.which("qemu-system-x86_64")
    if qemu is None:
        raise Missing("no qemu-system-x86_64 (Debian: apt install qemu-system-x86)")
    command = [qemu, "-accel", "tcg", "-machine", "pc", "-smp", "1", "-m", str(MEMORY_MIB), "-nodefaults", "-display", "none"]
    command += ["-serial", "stdio", "-no-reboot", "-kernel", str(kernel()), "-append", "console=ttyS0"]
    command += ["-initrd", str(_ramdisk("virtio_pci,virtio_blk", "block-virtio.cpio.gz"))]
    return PipeGuest([*command, "-drive", f"file={image},if=none,format=raw,id=disk", "-device", "virtio-blk-pci,drive=disk"])


def measure(guest: PipeGuest, device: str) -> dict[str, float]:
    """Seconds of each piece of work, the best of some rounds."""
    guest.boot()
    guest.run(f"mkdir -p /ram; mount -t tmpfs -o size={MIB + 8}m tmpfs /ram; {READ.format(device, '')}")
    work = {
        "read": READ.format(device, "iflag=direct"), "write": WRITE.format(device, "oflag=direct"), "requests": REQUESTS.format(device),
        "ram write": WRITE.format("/ram/file", ""), "ram read": READ.format("/ram/file", ""),
    }  # fmt: skip
    return {name: min(guest.run(command)[1] for _ in range(ROUNDS)) for name, command in work.items()}


def run() -> list[Row]:
    WORK.mkdir(parents=True, exist_ok=True)
    image = _image()
    with _theirs(image) as other:
        theirs = measure(other, "/dev/vda")
    with _ours(image) as own:
        ours = measure(own, "/dev/xvda")
    rows = []
    for what in ("read", "write"):
        speed, qemu, ram = (MIB / seconds for seconds in (ours[what], theirs[what], ours[f"ram {what}"]))
        rows.append(Row("block", f"{what}, 1 MiB pieces", f"{speed:.0f} MiB/s", f"QEMU virtio-blk {qemu:.0f} MiB/s", speed / qemu, "1.0"))
        rows.append(Row("block", f"{what}, 1 MiB pieces", f"{speed:.0f} MiB/s", f"its own ramdisk {ram:.0f} MiB/s", speed / ram, "1.0"))
    here, there = (SMALL / seconds["requests"] for seconds in (ours, theirs))
    rows.append(Row("block", "4 KiB reads, one by one", f"{here:.0f}/s", f"QEMU virtio-blk {there:.0f}/s", here / there, "1.0"))
    return rows
