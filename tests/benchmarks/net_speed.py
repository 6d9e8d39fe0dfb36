"""The network backend: two Linux guests on one network, against QEMU's virtio-net between two guests over a socket.

    stream        wget of 32 MiB from the other guest's httpd: MTU 1500, what each side offloads as its driver likes
    round trips   ping -A: the next one goes when the last has come back
    rings         frames through a tx and an rx ring and a bridge in Python alone, no guest: µs a frame

Speeds are by CPU time of all that both guests took, so that a busy machine does not count.
"""

from __future__ import annotations

import shutil
import socket
import sys
import time
from collections.abc import Callable

from emulator.abi.netif import RX_REQUEST, SLOTS, TX_REQUEST
from emulator.abi.ring import REQ_PROD, RSP_EVENT, RSP_PROD
from emulator.dom0.backends.net.rx import RxRing
from emulator.dom0.backends.net.tx import TxRing
from emulator.dom0.config import parse_config
from emulator.dom0.network import Bridge, Frame
from emulator.dom0.toolstack import Toolstack
from tests.benchmarks.block_speed import _ramdisk
from tests.benchmarks.linux import WORK, Missing, kernel
from tests.benchmarks.pipeguest import PipeGuest, cpu_seconds
from tests.benchmarks.table import Row

MIB = 32
PINGS = 1000
ROUNDS = 3
MEMORY_MIB = 160
FRAMES = 20_000
_SERVE = f"mkdir -p /tmp/www; dd if=/dev/zero of=/tmp/www/x bs=1M count={MIB} 2>/dev/null; httpd -p 80 -h /tmp/www"
_STREAM = "wget -q -O /dev/null http://10.0.0.2/x"
_PING = f"ping -q -A -c {PINGS} 10.0.0.2"


def _address(number: int) -> str:
    return f"ip addr add 10.0.0.{number}/24 dev eth0; ip link set eth0 up"


class Here:
    """Two guests in this process."""

    def __init__(self) -> None:
        sys.setswitchinterval(1e-4)
        self.tools = Toolstack(pool_kib=1 << 20, cpus=2)
        self.tools.start()
        ramdisk = _ramdisk("xen-netfront", "net-xen.cpio.gz")
        for name in ("a", "b"):
            text = (f'name="{name}"\nkernel="{kernel()}"\nramdisk="{ramdisk}"\nmemory={MEMORY_MIB}\ncmdline="console=hvc0 quiet"\n'
                    'vif=["bridge=bench"]\n')  # fmt: skip
            self.tools.create(parse_config(text, file="<bench>"), False, lambda told: None)
        self.guests = list(self.tools.guests.values())
        for guest in self.guests:
            self._until(lambda guest=guest: b"root@guest" in guest.transcript.tail(4000))  # type: ignore[misc]

    @staticmethod
    def _until(done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 120
        while not done():
            if time.monotonic() > deadline:
                raise RuntimeError("a guest does not answer")
            time.sleep(0.005)

    def run(self, which: int, command: str) -> None:
        transcript = self.guests[which].transcript
        start = transcript.end
        self.guests[which].type(f"{command}; echo end''ed\n".encode())
        self._until(lambda: b"ended\r\n" in transcript.tail(transcript.end - start))

    @staticmethod
    def cpu() -> float:
        return time.process_time()

    def close(self) -> None:
        self.tools.stop()


class There:
    """Two QEMUs whose network cards share a socket."""

    def __init__(self) -> None:
        qemu = shutil.which("qemu-system-x86_64")
        if qemu is None:
            raise Missing("no qemu-system-x86_64 (Debian: apt install qemu-system-x86)")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        ramdisk = _ramdisk("virtio_pci,virtio_net", "net-virtio.cpio.gz")
        self.guests: list[PipeGuest] = []
        for number, end in enumerate(("listen", "connect")):
            command = [qemu, "-accel", "tcg", "-machine", "pc", "-smp", "1", "-m", str(MEMORY_MIB), "-nodefaults", "-display", "none"]
            command += ["-serial", "stdio", "-no-reboot", "-kernel", str(kernel()), "-initrd", str(ramdisk), "-append", "console=ttyS0 quiet"]
            command += ["-netdev", f"socket,id=net,{end}=127.0.0.1:{port}", "-device", f"virtio-net-pci,netdev=net,mac=00:16:3e:00:00:0{number + 1}"]
            self.guests.append(PipeGuest(command))
            time.sleep(0.5)
        for guest in self.guests:
            guest.boot()

    def run(self, which: int, command: str) -> None:
        self.guests[which].run(command)

    def cpu(self) -> float:
        return sum(cpu_seconds(guest.process.pid) for guest in self.guests)

    def close(self) -> None:
        for guest in self.guests:
            guest.__exit__(None, None, None)


def measure(pair: Here | There) -> dict[str, float]:
    """CPU seconds of each piece of work, the best of some rounds."""
    for number in (1, 2):
        pair.run(number - 1, _address(number))
    pair.run(1, _SERVE)
    pair.run(0, "ping -q -A -c 20 10.0.0.2")
    best: dict[str, float] = {}
    for name, command in (("stream", _STREAM), ("pings", _PING)):
        for _ in range(ROUNDS):
            before = pair.cpu()
            pair.run(0, command)
            best[name] = min(best.get(name, 1e9), pair.cpu() - before)
    return best


class _AllGranted:
    """Reference n is frame n."""

    def look(self, grefs: tuple[int, ...] | list[int], write: bool) -> list[int]:
        return list(grefs)

    def begin(self, gref: int, write: bool) -> int:
        return gref

    def end(self, gref: int, write: bool) -> None:
        pass


def rings(size: int, batch: int = 32) -> float:
    """Seconds for a frame from one guest's tx ring over a bridge into another's rx ring."""
    memory, grants, mask = memoryview(bytearray(64 * 4096)), _AllGranted(), SLOTS - 1
    tx, rx, bridge = TxRing(memory, 1, grants), RxRing(memory, 2, grants), Bridge()
    macs = bytes.fromhex("00163e000002"), bytes.fromhex("00163e000001")
    port, _ = bridge.attach(macs[1]), bridge.attach(macs[0])
    memory[10 * 4096 : 10 * 4096 + 12] = macs[0] + macs[1]
    sent = 0
    began = time.thread_time()
    while sent < FRAMES:
        for number in range(sent, sent + batch):
            TX_REQUEST.pack_into(memory, 4096 + 64 + (number & mask) * 12, 10, 0, 0, number & mask, size)
            RX_REQUEST.pack_into(memory, 8192 + 64 + (number & mask) * 8, number & mask, 0, 20)
        sent += batch
        for ring in (4096, 8192):
            memory[ring + REQ_PROD : ring + REQ_PROD + 4] = sent.to_bytes(4, "little")
            memory[ring + RSP_EVENT : ring + RSP_EVENT + 4] = (sent + 1).to_bytes(4, "little")
        frames: list[Frame] = [frame for frame in tx.take() if bridge.send(port, frame, 0)]
        rx.put(frames)
        rx.written.clear()
        tx.push()
        rx.push()
    spent = time.thread_time() - began
    if int.from_bytes(memory[8192 + RSP_PROD : 8192 + RSP_PROD + 4], "little") != sent:
        raise RuntimeError(f"frames were lost: {tx.broken} {rx.broken}")
    return spent / sent


def run() -> list[Row]:
    WORK.mkdir(parents=True, exist_ok=True)
    rows = [Row("network", f"frames of {size} bytes through both rings", f"{rings(size) * 1e6:.1f} µs", "", None) for size in (60, 1514)]
    results = []
    for make in (There, Here):
        pair = make()
        try:
            results.append(measure(pair))
        finally:
            pair.close()
    theirs, ours = results
    speed, qemu = MIB / ours["stream"], MIB / theirs["stream"]
    rows.append(Row("network", f"{MIB} MiB by httpd and wget", f"{speed:.1f} MiB/s", f"QEMU virtio-net {qemu:.1f} MiB/s", speed / qemu, "1.0"))
    here, there = PINGS / ours["pings"], PINGS / theirs["pings"]
    rows.append(Row("network", "ping, one in flight", f"{here:.0f}/s", f"QEMU virtio-net {there:.0f}/s", here / there, "1.0"))
    return rows
