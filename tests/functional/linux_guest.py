"""Debian's own kernel with a shell, for the functional tests: where it lies, as a cfg file, as a process, as a domain in this process."""

from __future__ import annotations

import hashlib
import os
import re
import select
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace, TracebackType

import numpy as np
import pytest
from numpy.typing import NDArray

from emulator.dom0 import guest as guest_module
from emulator.dom0.config import DomainConfig, parse_config
from emulator.dom0.guest import Guest, build_guest
from emulator.dom0.xenstore import Store
from emulator.hypervisor.domain import Domain
from emulator.hypervisor.mailbox import ToBackend
from tests.patience import PATIENCE_SECONDS

ROOT = Path(__file__).resolve().parents[2]
BUSYBOX = Path("/bin/busybox")
PROMPT = b"root@guest:/root# "
WALLCLOCK_NS = 1_700_000_000_000_000_000
UUID = "12345678-1234-1234-1234-123456789abc"
_ESCAPES = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")


def missing() -> str:
    """Why Linux cannot be booted here; empty when it can."""
    if not list(Path("/boot").glob("vmlinuz-*")):
        return "no kernel in /boot (Debian: apt install linux-image-cloud-amd64)"
    if not BUSYBOX.exists():
        return "no /bin/busybox (Debian: apt install busybox-static)"
    if _dynamic(BUSYBOX):
        return "/bin/busybox is not static (Debian: apt install busybox-static)"
    return ""


def _dynamic(program: Path) -> bool:
    """Whether an ELF file names an interpreter."""
    data = program.read_bytes()
    table, size, count = int.from_bytes(data[32:40], "little"), int.from_bytes(data[54:56], "little"), int.from_bytes(data[56:58], "little")
    return any(int.from_bytes(data[table + n * size : table + n * size + 4], "little") == 3 for n in range(count))


needs_linux = pytest.mark.skipif(bool(missing()), reason=missing() or "it is there")


def kernel() -> Path:
    found = sorted(Path("/boot").glob("vmlinuz-*-cloud-amd64")) or sorted(Path("/boot").glob("vmlinuz-*"))
    return found[-1]


def write_cfg(folder: Path, *, memory: int = 96, extra: str = "") -> Path:
    """A cfg file with its initramfs beside it."""
    ramdisk, cfg = folder / "initramfs.cpio.gz", folder / "linux.cfg"
    if not ramdisk.exists():
        script = ROOT / "guests" / "mkinitramfs.py"
        subprocess.run([sys.executable, str(script), "-o", str(ramdisk)], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    files = f'kernel = "{kernel()}"\nramdisk = "{ramdisk}"\n'
    cfg.write_text(f'name = "linux"\nuuid = "{UUID}"\n{files}extra = "console=hvc0 quiet"\nmemory = {memory}\n{extra}')
    return cfg


def plain(data: bytes) -> str:
    """A terminal's bytes as text."""
    return _ESCAPES.sub(b"", data).replace(b"\r", b"").decode("utf-8", "replace")


class Session:
    """`xenconsole create -c` on pipes: typed to, read from, waited for."""

    def __init__(self, *arguments: str | Path) -> None:
        command = [sys.executable, "-m", "xenconsole", "create", "-c", *map(str, arguments)]
        self.process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0)
        self.output = b""
        self._errors = ""

    def __enter__(self) -> Session:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()

    def type(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text.encode())

    def until(self, pattern: bytes, *, start: int = 0) -> int:
        """Read until the output from `start` on has `pattern`; where that ends."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            match = re.search(pattern, self.output[start:])
            if match:
                return start + match.end()
            left = deadline - time.monotonic()
            assert left > 0, f"nothing like {pattern!r} after: {plain(self.output[start:])[-500:]}"
            if select.select([self.process.stdout], [], [], left)[0]:
                chunk = os.read(self.process.stdout.fileno(), 65536)
                assert chunk, f"ended with status {self.process.wait()} after: {plain(self.output[start:])[-500:]}\n{self.errors()}"
                self.output += chunk

    def command(self, text: str) -> str:
        """What a command printed."""
        start = len(self.output)
        self.type(text + "\n")
        end = self.until(re.escape(PROMPT), start=start)
        return plain(self.output[start:end]).partition("\n")[2].rpartition("\n")[0]

    def ended(self) -> int:
        """The exit status, once the rest of the output has been read."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + PATIENCE_SECONDS
        while chunk := os.read(self.process.stdout.fileno(), 65536):
            self.output += chunk
            assert time.monotonic() < deadline, "it does not end"
        status = self.process.wait(PATIENCE_SECONDS)
        print(self.errors())  # shown where the status is not the expected one
        return status

    def errors(self) -> str:
        """Standard error, which `ended` has read."""
        assert self.process.stderr is not None
        self._errors += self.process.stderr.read().decode()
        return self._errors


# --- in this process -----------------------------------------------------------------------------------------------------------


def build(config: DomainConfig, monkeypatch: pytest.MonkeyPatch) -> Guest:
    """A guest in this process, the same to the last bit each time: what differs between two builds is the wall clock."""
    frozen = SimpleNamespace(time=time.time, monotonic_ns=time.monotonic_ns, time_ns=lambda: WALLCLOCK_NS)
    monkeypatch.setattr(guest_module, "time", frozen)
    return build_guest(config, 1, Store())


def config_of(cfg: Path) -> DomainConfig:
    return parse_config(cfg.read_text(), file=str(cfg))


def until(guest: Guest, wanted: bytes, *, start: int = 0, budget: int = 8_000_000) -> int:
    """Run a guest of this process until it has said `wanted`; the transcript's end then."""
    deadline, epoch = time.monotonic() + PATIENCE_SECONDS, time.monotonic_ns()
    base = guest.domain.clock.now()
    while wanted not in guest.transcript.tail(guest.transcript.end - start):
        assert not guest.domain.ended, f"ended: {guest.domain.ended} {guest.domain.crash_reason}"
        assert time.monotonic() < deadline, guest.transcript.tail(1000)
        guest.domain.slice(budget, base + time.monotonic_ns() - epoch)
    return guest.transcript.end


def type_line(guest: Guest, text: str) -> None:
    guest.domain.post(ToBackend("console", text.encode()))


def frame_sums(domain: Domain) -> NDArray[np.uint64]:
    """A 64-bit sum of every machine frame: tells frames apart in 15 ms where a cryptographic hash needs 300."""
    words = domain.memory.octets.view(np.uint64).reshape(-1, 512)
    weights = np.arange(1, 1024, 2, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return np.asarray(words @ weights)


def memory_hash(domain: Domain) -> str:
    return hashlib.sha256(domain.memory.bytes).hexdigest()
