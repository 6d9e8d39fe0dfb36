"""The block backend: MB/s and requests/s of a Linux guest, against its own ramdisk and against QEMU's virtio-blk on the same image.

    read, write   dd of 64 MiB in pieces of 1 MiB, past the page cache (O_DIRECT), so that every byte goes over the ring
    4 KiB         one request in flight at a time: what a request costs from end to end
    ramdisk       the same dd over a file in tmpfs: what the guest's own copying costs, no disk at all
    persistent    the same disk with persistent grants, which save a real Xen the unmapping and cost the guest a copy
    segments=256  the same disk and a guest whose driver asks for requests of 1 MiB (its default is 128 KiB)
    Python        the back end alone, over a ring in plain memory and an image in the host's page cache: CPU time of a request

All by the CPU time of everything that takes part, the host's writing back excepted.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

from emulator.abi.blkif import BLKIF_MAX_SEGMENTS_PER_REQUEST, BLKIF_OP_READ, BLKIF_OP_WRITE
from emulator.dom0.storage import RawImage
from tests.benchmarks.linux import MEMORY_MIB, WORK, Missing, kernel, xenconsole
from tests.benchmarks.pipeguest import PipeGuest
from tests.benchmarks.table import ROOT, Row
from tests.unit.block_frontend import Frontend

MIB = 64
SMALL = 4000
ROUNDS = 3
PYTHON_ROUNDS = 2000
LARGE = "xen_blkfront.max_indirect_segments=256"
READ = f"dd if={{}} of=/dev/null bs=1M count={MIB} {{}} 2>/dev/null"
WRITE = f"dd if=/dev/zero of={{}} bs=1M count={MIB} conv=notrunc {{}} 2>/dev/null"
READS = f"dd if={{}} of=/dev/null bs=4k count={SMALL} iflag=direct 2>/dev/null"
WRITES = f"dd if=/dev/zero of={{}} bs=4k count={SMALL} conv=notrunc oflag=direct 2>/dev/null"


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


def _ours(image: Path, words: str = "", options: str = "") -> PipeGuest:
    cfg = WORK / "block.cfg"
    cfg.write_text(
        f'name = "block"\nkernel = "{kernel()}"\nramdisk = "{_ramdisk("xen-blkfront", "block-xen.cpio.gz")}"\nmemory = {MEMORY_MIB}\n'
        f"cmdline = \"console=hvc0 {options}\"\ndisk = [ 'format=raw,vdev=xvda,{words}target={image}' ]\n"
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
        "read": READ.format(device, "iflag=direct"), "write": WRITE.format(device, "oflag=direct"), "reads": READS.format(device),
        "writes": WRITES.format(device),
        "ram write": WRITE.format("/ram/file", ""), "ram read": READ.format("/ram/file", ""),
    }  # fmt: skip
    return {name: min(guest.run(command)[1] for _ in range(ROUNDS)) for name, command in work.items()}


def python_us(image: Path, operation: int, segments: int) -> float:
    """CPU µs that the back end's Python takes for one request of so many pages, the kernel's copying among them."""
    best = float("inf")
    disk = RawImage(image, readonly=False)

    def at_once(kind: int, offset: int, size: int, views: list[memoryview]) -> bool:
        return disk.read_into(offset, size, views) if kind == BLKIF_OP_READ else disk.write_from(offset, size, views)

    try:
        for _ in range(ROUNDS):
            front, spent = Frontend(disk.size), 0
            pages = [(110 + page % 50, 0, 7) for page in range(segments)]
            for number in range(PYTHON_ROUNDS):
                if segments > BLKIF_MAX_SEGMENTS_PER_REQUEST:
                    front.indirect(operation, number, number % 64 * 8, pages, gref=109)
                else:
                    front.request(operation, number, number % 64 * 8, *pages)
                began = time.process_time_ns()
                if front.ring.take(at_once):
                    raise RuntimeError("the host does not have a disk of 64 MiB in memory")
                front.ring.push()
                spent += time.process_time_ns() - began
            best = min(best, spent / PYTHON_ROUNDS / 1000)
    finally:
        disk.close()
    return best


def run() -> list[Row]:
    WORK.mkdir(parents=True, exist_ok=True)
    image = _image()
    with _theirs(image) as other:
        theirs = measure(other, "/dev/vda")
    with _ours(image) as own:
        ours = measure(own, "/dev/xvda")
    with _ours(image, "persistent,") as own:
        kept = measure(own, "/dev/xvda")
    with _ours(image, options=LARGE) as own:
        large = measure(own, "/dev/xvda")
    rows = []
    for what in ("read", "write"):
        speed, qemu, ram = (MIB / seconds for seconds in (ours[what], theirs[what], ours[f"ram {what}"]))
        name, against = f"{what}, 1 MiB pieces", f"QEMU virtio-blk {qemu:.0f} MiB/s"
        rows.append(Row("block", name, f"{speed:.0f} MiB/s", against, speed / qemu, "1.0"))
        for word, seconds in (("persistent", kept), ("segments=256", large)):
            rows.append(Row("block", f"{name}, {word}", f"{MIB / seconds[what]:.0f} MiB/s", against, MIB / seconds[what] / qemu, "1.0"))
        rows.append(Row("block", name, f"{speed:.0f} MiB/s", f"its own ramdisk {ram:.0f} MiB/s", speed / ram, "1.0"))
    for what in ("reads", "writes"):
        here, there = (SMALL / seconds[what] for seconds in (ours, theirs))
        rows.append(Row("block", f"4 KiB {what}, one by one", f"{here:.0f}/s", f"QEMU virtio-blk {there:.0f}/s", here / there, "1.0"))
    for name, operation in (("read", BLKIF_OP_READ), ("write", BLKIF_OP_WRITE)):
        times = ", ".join(f"{python_us(image, operation, pages):.0f} µs" for pages in (1, 32, 256))
        rows.append(Row("block", f"Python for a {name} of 4 KiB, of 128 KiB, of 1 MiB", times, ""))
    return rows
